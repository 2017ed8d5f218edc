import gzip
import json

import pytest

from deita_core.errors import InputError
from deita_core.reading.benchmarks import BenchmarkRow, benchmark_files, read_benchmark


@pytest.fixture
def write(tmp_path):
    """Writes a text, or rows as JSON Lines, to a file and returns its path."""

    def write(name, content):
        text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def refused(read, *arguments):
    with pytest.raises(InputError) as error:
        read(*arguments)
    assert "\n" not in str(error.value) and error.value.exit_code == 2
    return str(error.value)


def test_each_line_of_a_text_file_that_is_not_blank_is_a_row(write, tmp_path):
    file = write("a.txt", "One?\n\n  \t\n  Two? \r\nThree")
    rows = [BenchmarkRow(file, 1, ("One?",)), BenchmarkRow(file, 4, ("Two?",)), BenchmarkRow(file, 5, ("Three",))]
    assert read_benchmark(file) == rows
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("Größe?\n".encode()))
    assert read_benchmark(str(tmp_path / "b.txt.gz"))[0].texts == ("Größe?",)


TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": "A"},
]
ROWS = {
    "GSM8K": ({"question": "Q", "answer": "A #### 3"}, ["Q"]),
    "MATH": ({"problem": "Q", "solution": "S", "level": "Level 5"}, ["Q"]),
    "MMLU": ({"question": "Q", "choices": ["a", "b"], "answer": 1, "subject": "law"}, ["Q"]),
    "ARC as its authors have it": ({"id": "1", "question": {"stem": "Q", "choices": [{"text": "a"}]}}, ["Q"]),
    "OpenBookQA": ({"question_stem": "Q", "choices": {"text": ["a"], "label": ["A"]}}, ["Q"]),
    "HumanEval": ({"task_id": "HumanEval/0", "prompt": "def f():", "canonical_solution": "  pass"}, ["def f():"]),
    "MT-Bench": ({"question_id": 81, "turns": ["Q", "And then?"], "reference": ["A"]}, ["Q", "And then?"]),
    "Arena-Hard": ({"turns": [{"content": "Q"}]}, ["Q"]),
    "AlpacaEval": ({"instruction": "Q", "output": "A", "generator": "g"}, ["Q"]),
    "Alpaca with an input": ({"instruction": "Q", "input": "about this", "output": "A"}, ["Q\n\nabout this"]),
    "capital letters, as GPQA has": ({"Question": "Q", "Correct Answer": "A"}, ["Q"]),
    "a context beside the question": ({"passage": "P", "question": "Q"}, ["Q"]),
    "messages": ({"messages": TALK}, ["Q"]),
    "ShareGPT": ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, ["Q"]),
    "a prompt of messages": ({"prompt": TALK[:2]}, ["Q"]),
    "a prompt of messages as JSON": ({"prompt": json.dumps(TALK[:2])}, ["Q"]),
    "a preference": ({"chosen": TALK, "rejected": TALK}, ["Q"]),
    "a preference of texts": ({"prompt": "Q", "chosen": "A", "rejected": "B"}, ["Q"]),
    "a null before the field that counts": ({"question": None, "prompt": "Q"}, ["Q"]),
    "a text": ("Q", ["Q"]),
}


@pytest.mark.parametrize("known", ROWS)
def test_the_question_of_a_row_is_what_the_user_asks(write, known):
    row, texts = ROWS[known]
    file = write("a.jsonl", [row, row])
    assert read_benchmark(file) == [BenchmarkRow(file, line, tuple(texts)) for line in (1, 2)]


def test_a_csv_file_has_its_question_in_a_column(write):
    assert [row[1:] for row in read_benchmark(write("a.csv", "subject,question,A,B\nlaw,Q?,x,y\n"))] == [(2, ("Q?",))]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"answer": "A"}, ":2: there is no question; give rows with messages or one of question, prompt"),
        ({"question": " "}, ":2: there is no question"),
        ({"question": None}, ":2: there is no question"),
        ({"turns": [1, 2]}, ":2: there is no question"),
        ([1], ":2: there is no question"),
        ({"question": "\ud800"}, ":2: the question holds half of a surrogate pair; correct the row."),
        ({"messages": [{"role": "sage", "content": "Q"}]}, ":2: message 1 has the role 'sage'; correct the row."),
    ],
)
def test_a_row_without_a_question_is_an_error_that_names_its_line(write, row, problem):
    assert problem in refused(read_benchmark, write("a.jsonl", [{"question": "Q"}, row]))


def test_a_broken_line_is_an_error_that_names_it(write, tmp_path):
    assert refused(read_benchmark, write("a.jsonl", '{"question": "Q"}\n{"question": \n')).startswith(
        f"{tmp_path}/a.jsonl:2: "
    )
    (tmp_path / "b.txt").write_bytes(b"Q\ncaf\xe9\n")
    assert (
        refused(read_benchmark, str(tmp_path / "b.txt"))
        == f"{tmp_path}/b.txt:2: the line is not UTF-8; correct the file."
    )
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"Q\n" * 9)[:-9])
    assert f"{tmp_path}/c.txt.gz:" in refused(read_benchmark, str(tmp_path / "c.txt.gz"))


def test_a_file_without_rows_is_an_error(write, tmp_path):
    assert (
        refused(read_benchmark, write("a.txt", "\n \n"))
        == f"{tmp_path}/a.txt holds no row; give a file of questions, or leave it out."
    )


def test_names_stand_for_text_files_and_for_what_a_pool_may_be(write, tmp_path):
    files = [write("a.txt", "Q\n"), write("b.jsonl", [{"question": "Q"}]), write("c.jsonl", [{"question": "Q"}])]
    assert benchmark_files([files[0], str(tmp_path / "*.jsonl"), files[1]]) == files
    assert benchmark_files([str(tmp_path)]) == files[1:]


@pytest.mark.parametrize("name", ["none.txt", "none.jsonl", "none"])
def test_a_missing_file_is_an_error(tmp_path, name):
    assert refused(benchmark_files, [str(tmp_path / name)]).startswith(f"{tmp_path / name} does not exist")
