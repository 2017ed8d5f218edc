"""Examples of tasks: conversations, questions without answers, plain texts, and the tasks their rows name."""

import json

import polars as pl
import pytest

from deita_core.conversation import Conversation, Message, conversation
from deita_core.errors import InputError
from deita_core.reading.examples import read_examples


def asked(text):
    return Conversation((Message("user", text),))


@pytest.fixture
def write(tmp_path):
    def written(rows, name="examples.jsonl"):
        path = tmp_path / name
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return written


def test_each_line_of_a_text_file_is_an_example(write):
    found = read_examples(write("What is 2 + 2?\n\n  Name a sea.\n", "tasks.txt"))
    assert found == [("all", asked("What is 2 + 2?")), ("all", asked("Name a sea."))]


def test_rows_may_be_conversations_questions_or_texts(write):
    rows = [
        {"instruction": "Name a sea.", "input": "", "output": "Aral."},
        {"instruction": "Name a lake."},
        {"instruction": "Name a river.", "output": ""},
    ]
    told = conversation([("user", "Name a sea."), ("assistant", "Aral.")])
    assert read_examples(write(rows)) == [
        ("all", told),
        ("all", asked("Name a lake.")),
        ("all", asked("Name a river.")),
    ]
    assert read_examples(write([{"question": "Why?", "choices": ["a", "b"]}])) == [("all", asked("Why?"))]
    assert read_examples(write([{"text": "Some code."}])) == [("all", asked("Some code."))]
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert read_examples(write([{"messages": talk}])) == [("all", asked("Why?"))]
    assert read_examples(write('["Why?", "How?"]', "list.json")) == [("all", asked("Why?")), ("all", asked("How?"))]


def test_a_field_names_the_task_of_each_row(write, tmp_path):
    rows = [{"prompt": "Why?", "task": "reasons"}, {"prompt": "2 + 2?", "task": 7, "kind": "sums"}]
    assert [task for task, _ in read_examples(write(rows))] == ["reasons", "7"]
    table = tmp_path / "examples.parquet"
    pl.DataFrame({"question": ["Why?", "How?"], "kind": ["x", "y"]}).write_parquet(table)
    assert [task for task, _ in read_examples(str(table), "kind")] == ["x", "y"]
    with pytest.raises(InputError, match=r"1 of the 2 rows of .* have no kind; name it in all"):
        read_examples(write(rows), "kind")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"prompt": "Why?"}, {"other": 1}], ":2 is no example"),
        ([{"prompt": "Why?"}, {"prompt": " "}], ":2 is no example"),
        ('{"prompt": "Why?"}\n{broken\n', ":2 is no example"),
        ('{"prompt": "Why?"}\n{"prompt": "\\ud800"}\n', ":2 is no example"),
        ("\n\n", "holds no example"),
    ],
)
def test_what_is_no_example_is_named_by_its_line(write, rows, told):
    with pytest.raises(InputError, match=told):
        read_examples(write(rows))


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    for name in ("none.txt", "none.jsonl"):
        with pytest.raises(InputError, match=name):
            read_examples(str(tmp_path / name))
