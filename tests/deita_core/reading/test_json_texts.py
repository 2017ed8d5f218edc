"""JSON that is written in another way than the ending of its file says."""

import json

import orjson
import pytest

from deita_core.reading import jsontext
from deita_core.reading.pool import Sample, stream_file


def row(n, answer="Yes."):
    return {"instruction": f"Question {n}?", "output": answer, "n": n}


ROWS = [row(n) for n in range(5)]


@pytest.fixture
def read(tmp_path):
    """Writes a text to a file of a name; the lines and numbers n of its samples, or the reason of a reject."""

    def written(name, text):
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        found = stream_file(tmp_path / name)
        return [(r.line, orjson.loads(r.fields).get("n") if isinstance(r, Sample) else r.reason) for r in found]

    return written


ALL = [(n + 1, n) for n in range(5)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.ndjson"])
@pytest.mark.parametrize("indent", [None, 0, 1, 4, "\t"])
def test_an_array_is_read_as_one_whatever_the_file_is_called(read, name, indent):
    assert read(name, json.dumps(ROWS, indent=indent)) == ALL


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_objects_over_several_lines_are_read(read, name):
    assert read(name, "\n".join(json.dumps(r, indent=2) for r in ROWS)) == ALL


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize("between", ["", " ", "\t"])
def test_several_objects_on_a_line_are_read(read, name, between):
    assert read(name, between.join(map(json.dumps, ROWS)) + "\n") == ALL


def test_several_objects_on_a_later_line_are_a_reject_of_that_line(read):
    text = json.dumps(row(0)) + "\n" + json.dumps(row(1)) + json.dumps(row(2)) + "\n" + json.dumps(row(3))
    assert read("a.jsonl", text) == [(1, 0), (2, "broken_json"), (3, 3)]


@pytest.mark.parametrize("begin", ["[", "[[", '[{"a":', '{"instruction": "q",', '{"instruction": "q', "[1,", "]", "{"])
def test_a_broken_first_line_costs_its_own_row(read, begin):
    text = begin + "\n" + "".join(json.dumps(r) + "\n" for r in ROWS)
    if begin == "[":
        # An array without commas: after the first row nothing can be read.
        assert read("a.jsonl", text) == [(1, 0), (2, "broken_json")]
    else:
        assert read("a.jsonl", text) == [(1, "broken_json"), *[(n + 2, n) for n in range(5)]]


@pytest.mark.parametrize("end", ["", "\n"])
def test_two_lines_are_told_apart_from_one_object_on_two(read, end):
    assert read("a.jsonl", '{"instruction": "q",\n"output": "a", "n": 7}' + end) == [(1, 7)]
    assert read("a.jsonl", '{"instruction": "q",\n' + json.dumps(row(8)) + end) == [(1, "broken_json"), (2, 8)]


def test_a_line_that_is_a_list_is_a_reject_and_the_next_is_read(read):
    assert read("a.jsonl", "[1, 2]\n" + json.dumps(row(3))) == [(1, "not_an_object"), (2, 3)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_long_array_on_one_line_is_read_as_one(read, name):
    rows = [row(n, "x" * 50_000) for n in range(5)]
    assert read(name, json.dumps(rows)) == ALL


def test_lines_may_end_in_carriage_returns(read):
    text = "\r".join(map(json.dumps, ROWS))
    assert read("a.jsonl", text) == ALL == read("b.jsonl", text + "\r")
    assert read("c.jsonl", text.replace("\r", "\r\n")) == ALL


def test_marks_in_the_middle_of_joined_files_are_no_text(read):
    mark = "\ufeff"
    assert read("a.jsonl", "".join(f"{mark}{json.dumps(r)}\n" for r in ROWS)) == ALL
    assert read("a.json", mark + json.dumps(ROWS[:2]) + "\n" + mark + json.dumps(ROWS[2:])) == ALL


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    "splits", [("train", "test"), ("test", "validation"), ("train_sft", "test_sft"), ("dev", "eval")]
)
def test_every_split_is_read_in_its_order(read, indent, splits):
    first, second = splits
    assert read("a.json", json.dumps({"version": "1", first: ROWS[:3], second: ROWS[3:]}, indent=indent)) == ALL


@pytest.mark.parametrize("indent", [None, 1])
def test_columns_are_as_many_rows_as_they_are_long(read, indent):
    columns = {name: [r[name] for r in ROWS] for name in ROWS[0]}
    assert read("a.json", json.dumps(columns, indent=indent)) == ALL
    numbered = {name: {str(i): value for i, value in enumerate(values)} for name, values in columns.items()}
    assert read("a.json", json.dumps(numbered, indent=indent)) == ALL
    split = {"columns": list(ROWS[0]), "index": [0] * 5, "data": [list(r.values()) for r in ROWS]}
    assert read("a.json", json.dumps(split, indent=indent)) == ALL


def test_columns_of_conversations_are_rows(read):
    dialog = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert read("a.json", json.dumps({"messages": [dialog, dialog], "n": [7, 8]})) == [(1, 7), (2, 8)]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("more", [{"data": [1, 2]}, {"examples": ["a"]}, {"test": [{"x": 1}]}, {"tags": ["a", "b"]}])
def test_a_row_that_holds_lists_is_one_row(read, indent, more):
    dialog = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "n": 3}
    assert read("a.json", json.dumps(dialog | more, indent=indent)) == [(1, 3)]
    assert read("b.json", json.dumps(row(4) | more, indent=indent)) == [(1, 4)]


def test_columns_of_different_lengths_are_a_reject_not_half_a_table(read):
    from deita_core.errors import UnreadableFileError

    with pytest.raises(UnreadableFileError, match="wrong_type"):
        read("a.json", json.dumps({"instruction": ["q", "r"], "output": ["a"]}))


def test_one_object_is_not_held_beyond_the_limit(read, monkeypatch):
    monkeypatch.setattr(jsontext, "MAX_LINE", 10_000)
    found = read("a.json", json.dumps(ROWS[:2]) + json.dumps({str(n): "x" * 900 for n in range(50)}))
    assert found == [*ALL[:2], (3, "broken_json")]
