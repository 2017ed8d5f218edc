import json

import pytest

from deita_core.errors import InputError
from deita_core.evaluation.questions import Question, Reference, read_questions, read_reference


@pytest.fixture
def write(tmp_path):
    """Writes rows to a file and returns its path: JSON Lines, or a list for names that end so."""

    def write(name, *rows):
        text = json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def refused(read, *arguments):
    with pytest.raises(InputError) as error:
        read(*arguments)
    assert "\n" not in str(error.value) and error.value.exit_code == 2
    return str(error.value)


def test_mt_bench_rows_are_read_with_turns_category_and_references(write):
    first = {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]}
    second = {"question_id": 111, "category": "math", "turns": ["1+1?", "And 2+2?"], "reference": ["2", "4"]}
    questions = read_questions(write("question.jsonl", first, second))
    assert questions == [
        Question("81", ("Write.", "Again."), "writing"),
        Question("111", ("1+1?", "And 2+2?"), "math", ("2", "4")),
    ]
    assert [questions[1].reference(turn) for turn in (0, 1, 2)] == ["2", "4", ""]


@pytest.mark.parametrize("name", ["alpaca_eval.json", "alpaca_eval.jsonl"])
def test_alpaca_eval_rows_are_questions_and_reference_at_once(write, name):
    rows = [
        {"dataset": "koala", "instruction": "Who?", "output": "Me.", "generator": "davinci"},
        {"dataset": "oasst", "instruction": "Why?", "output": "", "generator": "davinci", "instruction_difficulty": -1},
    ]
    file = write(name, *rows)
    assert read_questions(file) == [
        Question("1", ("Who?",), "koala"),
        Question("2", ("Why?",), "oasst", difficulty=-1.0),
    ]
    assert read_reference(file) == Reference("davinci", {"Who?": "Me.", "Why?": ""})


def test_plain_rows_need_an_instruction_or_a_prompt_only(write, tmp_path):
    assert read_questions(write("a.jsonl", {"prompt": "A?"}, {"instruction": "B?"})) == [
        Question("1", ("A?",)),
        Question("2", ("B?",)),
    ]
    (tmp_path / "a.csv").write_text("instruction,category\nC?,x\n")
    assert read_questions(str(tmp_path / "a.csv")) == [Question("1", ("C?",), "x")]


def test_a_limit_takes_the_first(write):
    file = write("q.jsonl", *({"prompt": f"{i}?"} for i in range(5)))
    assert [question.id for question in read_questions(file, 2)] == ["1", "2"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "A?"}, "there is no question"),
        ({"turns": []}, "there is no question"),
        ({"turns": ["A?", " "]}, "there is no question"),
        ({"prompt": {"text": "A?"}}, "there is no question"),
        ([1, 2], "the row is no object"),
        ({"prompt": "A?", "reference": ["x", "y"]}, "reference is not a list"),
        ({"prompt": "A?", "instruction_difficulty": "hard"}, "instruction_difficulty is not a number"),
        ({"prompt": "A?", "question_id": "1"}, "the question_id 1 stands twice"),
    ],
)
def test_a_row_that_is_no_question_is_named_by_file_and_line(write, row, said):
    file = write("q.jsonl", {"prompt": "Good?"}, row)
    sentence = refused(read_questions, file)
    assert sentence.startswith(f"{file}:2: {said}")


def test_a_broken_line_an_empty_file_and_none_are_named(tmp_path):
    (tmp_path / "broken.jsonl").write_text('{"prompt": "A?"}\n{"prompt": "B\n')
    assert refused(read_questions, str(tmp_path / "broken.jsonl")).startswith(f"{tmp_path}/broken.jsonl:2: ")
    (tmp_path / "empty.jsonl").write_text("")
    assert "holds no questions" in refused(read_questions, str(tmp_path / "empty.jsonl"))
    assert "is not a file" in refused(read_questions, str(tmp_path / "none.jsonl"))
    (tmp_path / "note.txt").write_text("A?")
    assert "of no known kind" in refused(read_questions, str(tmp_path / "note.txt"))


def test_a_reference_is_one_models_answers(write):
    row = {"instruction": "A?", "output": "x", "generator": "m"}
    assert "file.jsonl:2: there is no output" in refused(read_reference, write("file.jsonl", row, {"instruction": "B"}))
    assert "by other and not by m" in refused(read_reference, write("two.jsonl", row, {**row, "generator": "other"}))
    assert read_reference(write("twice.jsonl", row, {**row, "output": "y"})).outputs == {"A?": "x"}
