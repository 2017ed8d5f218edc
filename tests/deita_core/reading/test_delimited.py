"""CSV and TSV as programs write them: separators, ends of lines, marks, empty columns, lists."""

import csv
import io

import orjson
import pytest

from deita_core.errors import UnreadableFileError
from deita_core.reading.pool import Sample, stream_file

TEXTS = [("Who, me?", 'She said "yes"; he | no.'), ("Line\nbreak", "tab\there"), ("c", "d")]


@pytest.fixture
def read(tmp_path):
    """Writes a text to a CSV file; the question and answer of its samples, or the reason of a reject, by line."""

    def written(text, name="a.csv"):
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return {
            r.line: tuple(m.content for m in r.conversation.messages) if isinstance(r, Sample) else r.reason
            for r in stream_file(tmp_path / name)
        }

    return written


def table(separator, header=("instruction", "output"), end="\r\n", rows=TEXTS, quoting=csv.QUOTE_MINIMAL):
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator=end, quoting=quoting).writerows([header, *rows])
    return text.getvalue()


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_seen_in_the_header(read, name, separator):
    assert list(read(table(separator), name).values()) == TEXTS


def test_the_separator_that_gives_names_of_a_layout_is_the_one(read):
    assert list(read(table(";", ("instruction", "output", "a,b"), rows=[(*r, "x") for r in TEXTS])).values()) == TEXTS
    assert list(read(table(",", ("instruction", "output", "a;b"), rows=[(*r, "x") for r in TEXTS])).values()) == TEXTS


def test_a_line_may_name_the_separator(read):
    found = read("sep=;\r\n" + table(";"))
    assert list(found.values()) == TEXTS and list(found) == [3, 4, 6]
    assert list(read("SEP=#\n" + table("#")).values()) == TEXTS


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_lines_may_end_in_any_way_and_texts_keep_their_own(read, end):
    rows = [("a\rb", "c"), ("d\ne", "f"), ("g\r\nh", "i")] if end != "\n" else [("a\nb", "c"), ("d\r\ne", "f")]
    assert list(read(table(",", end=end, rows=rows, quoting=csv.QUOTE_ALL)).values()) == rows


def test_a_trailing_empty_column_is_no_column(read):
    assert read("instruction,output,\na,b,\nc,d,\n") == {2: ("a", "b"), 3: ("c", "d")}
    assert read("instruction,output\na,b,\nc,d\n") == {2: ("a", "b"), 3: ("c", "d")}
    assert read("instruction,output,\na,b,x\nc,d,\n") == {2: "broken_csv", 3: ("c", "d")}


def test_joined_files_begin_again_with_their_mark_and_header(read):
    one = "\ufeffinstruction,output\na,b\n"
    assert read(one + one.replace("a,b", '"c\n\ufeffd",e')) == {2: ("a", "b"), 4: ("c\n\ufeffd", "e")}
    assert read(one + "\ufeffoutput,instruction\nc,d\n") == {2: ("a", "b"), 3: "broken_csv"}


def test_a_byte_order_mark_inside_a_text_stays(read):
    found = read('instruction,output\n"a\ufeff",\ufeffb\n\ufeffc,d\n')
    assert found == {2: ("a\ufeff", "\ufeffb"), 3: ("\ufeffc", "d")}


def test_a_name_of_a_column_twice_is_refused_whatever_the_separator(read):
    with pytest.raises(UnreadableFileError, match="two columns named 'output'"):
        read("instruction;output;output\na;b;c\n")


def dialog(n):
    return [
        {"role": "user", "content": f'It\'s {n}\n"quoted" \\d'},
        {"role": "assistant", "content": "Don't [x], {y}."},
    ]


def test_lists_may_be_written_as_json_or_as_python_writes_them(read):
    for write in (repr, lambda value: orjson.dumps(value).decode()):
        found = read(table(",", ("messages",), rows=[(write(dialog(n)),) for n in range(3)]))
        assert list(found.values()) == [tuple(m["content"] for m in dialog(n)) for n in range(3)]


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        (repr(dialog(1)).replace("}, {", "}\n {"), "numpy"),
        ("[__import__('os').getcwd()]", "not a list"),
        ("[" * 100_000, "not a list"),
        ("[" + "1," * 400_000 + "]", "not a list"),
        ("[{'role': 'user'", "not a list"),
    ],
)
def test_a_list_that_cannot_be_read_says_what_was_seen(tmp_path, cell, told):
    (tmp_path / "a.csv").write_text(table(",", ("messages",), rows=[(cell,), (repr(dialog(1)),)]))
    bad, good = stream_file(tmp_path / "a.csv")
    assert bad.reason == "wrong_type" and told in bad.detail and isinstance(good, Sample)
