"""What the readers accept can be written in every format, with the fields as they were; what cannot be is a reject."""

import csv
import io
import json
import sys
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deita_core.conversation import conversation
from deita_core.errors import InputError
from deita_core.export.files import SELECTED_SCHEMA, selected_row
from deita_core.reading.hub import dataset_rows
from deita_core.reading.layouts import judge_rows
from deita_core.reading.pool import stream_file
from deita_core.reading.rows import MAX_DEPTH, Reject, Sample
from tests.support.paths import SHARED

CASES = SHARED / "cases"
GOOD = '{"instruction": "Why?", "output": "So."}'
FORMATS = ("same", "messages", "sharegpt", "alpaca")


def written(sample, format_):
    """The line of selected.jsonl that a sample becomes, read again."""
    facts = dict.fromkeys(SELECTED_SCHEMA)
    messages = [{"role": m.role, "content": m.content, "extra": m.extra} for m in sample.conversation.messages]
    kept = {"messages": messages, "extra": sample.conversation.extra, "fields": sample.fields}
    row = selected_row(facts | kept, format_)
    return json.loads(json.dumps(row, ensure_ascii=False).encode())


def check_can_be_written(samples):
    for sample in samples:
        same = written(sample, "same")
        assert {name: v for name, v in same.items() if name != "deita"} == {
            name: v for name, v in json.loads(sample.fields).items() if name != "deita"
        }
        for format_ in FORMATS[1:]:
            try:
                assert written(sample, format_)
            except InputError as error:
                assert format_ == "alpaca" and "cannot hold" in str(error)


def nested(levels, inside="{", value="1"):
    """A row with a field that makes it so many levels deep."""
    inner = levels - 1
    opened, closed = ('{"a":' * inner, "}" * inner) if inside == "{" else ("[" * inner, "]" * inner)
    return GOOD.replace("}", f', "tree": {opened}{value}{closed}}}')


def as_jsonl(rows):
    return "\n".join(rows)


def as_array(rows):
    return "[" + ",\n".join(rows) + "]"


def as_object(rows):
    return '{"data": ' + as_array(rows) + "}"


def as_objects(rows):
    return "\n".join(row.replace("{", "{\n", 1) for row in rows)


TEXTS = [("a.jsonl", as_jsonl), ("a.json", as_array), ("b.json", as_object), ("c.json", as_objects)]


def outcomes(path):
    return [(row.line, row.reason if isinstance(row, Reject) else "ok") for row in stream_file(path)]


@pytest.mark.parametrize("inside", ["{", "["])
@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 260, 1_000, 1_030, 100_000])
@pytest.mark.parametrize(("name", "text"), TEXTS)
def test_a_row_that_is_too_deep_is_one_reject_with_its_line(tmp_path, name, text, levels, inside):
    (tmp_path / name).write_text(text([GOOD, nested(levels, inside), GOOD, nested(MAX_DEPTH, inside)]))
    rows = list(stream_file(tmp_path / name))
    assert [row.reason if isinstance(row, Reject) else "ok" for row in rows] == [
        "ok", "unsupported_content", "ok", "ok",
    ]  # fmt: skip
    assert f"{MAX_DEPTH} levels" in rows[1].detail
    assert rows[1].line == 2 or name == "c.json"
    check_can_be_written(row for row in rows if isinstance(row, Sample))


@pytest.mark.parametrize("inside", ['"[{\\"" ', "12]", '"', "{"])
def test_what_is_no_json_within_a_deep_row_costs_no_row_before_it(tmp_path, inside):
    (tmp_path / "a.json").write_text(as_array([GOOD, nested(3_000, value=inside)]))
    first, *others = outcomes(tmp_path / "a.json")
    assert first == (1, "ok")
    assert others and {reason for _, reason in others} <= {"unsupported_content", "broken_json"}


def test_a_deep_row_longer_than_a_chunk_is_stepped_over_to_its_end(tmp_path):
    long = '"' + 'x[{\\"' * 300_000 + '"'
    (tmp_path / "a.json").write_text(as_array([nested(3_000, value=long), GOOD, nested(3_000, "[", long), GOOD]))
    assert [reason for _, reason in outcomes(tmp_path / "a.json")] == ["unsupported_content", "ok"] * 2


@pytest.mark.parametrize(("name", "text"), TEXTS)
def test_an_integer_beyond_what_python_reads_is_one_reject(tmp_path, name, text):
    limit = sys.get_int_max_str_digits()
    rows = [GOOD, nested(3, value="9" * (limit + 1)), GOOD, nested(3, value="9" * limit), nested(1, value="-1e999")]
    rows.append(GOOD.replace("}", ', "n": ' + "8" * (limit + 1) + "}"))
    (tmp_path / name).write_text(text(rows))
    found = list(stream_file(tmp_path / name))
    assert [row.reason if isinstance(row, Reject) else "ok" for row in found] == [
        "ok", "unsupported_content", "ok", "ok", "ok", "unsupported_content",
    ]  # fmt: skip
    assert json.loads(found[3].fields)["tree"]["a"]["a"] == int("9" * limit)
    check_can_be_written(row for row in found if isinstance(row, Sample))


def test_messages_in_a_cell_may_not_be_too_deep_either(tmp_path):
    deep = '{"role": ' + "[" * 900 + "]" * 900 + ', "content": "x"}'
    text = io.StringIO()
    csv.writer(text).writerows([["messages", "n"], [f"[{deep}]", "1"]])
    (tmp_path / "a.csv").write_text(text.getvalue() + '"[{""role"":""user"",""content"":""q""}]",2\n')
    with pytest.raises(InputError, match="unsupported_content: the row is nested more"):
        list(stream_file(tmp_path / "a.csv"))


@pytest.mark.skipif(not CASES.exists(), reason="the shared cases are not there")
def test_of_the_case_row_1_is_set_aside_and_7_are_read():
    found = list(stream_file(CASES / "deep_side_field.jsonl"))
    assert [row.line for row in found] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert isinstance(found[0], Reject) and all(isinstance(row, Sample) for row in found[1:])


KEYS = st.text(st.characters()) | st.sampled_from(["instruction", "output", "messages", "deita", "\ud800"])
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.integers(10**18, 10**400) | st.floats() | st.text(st.characters())
)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
DEEP = st.builds(lambda levels, value: json.loads(nested(levels, value="0")) | {"x": value}, st.integers(2, 400), JSON)
ROWS = st.lists(st.dictionaries(KEYS, JSON, max_size=3) | DEEP, min_size=1, max_size=3)
SAYS = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), st.text(st.characters())), max_size=3
)


def rows_of(fields, said):
    """Rows of a conversation and any other fields, and one that is always good."""
    messages = [{"role": role, "content": text} for role, text in [*said, ("user", "q"), ("assistant", "a")]]
    return [*({**row, "messages": messages} for row in fields), {"messages": messages[-2:]}]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@example([{"": [None, {"\ud800": None}]}], [], False)
@given(ROWS, SAYS, st.booleans())
def test_what_is_read_from_json_can_be_written(tmp_path, fields, said, ascii_only):
    texts = [json.dumps(row, ensure_ascii=ascii_only) for row in rows_of(fields, said)]
    for name, text in TEXTS:
        (tmp_path / name).write_bytes(text(texts).encode(errors="surrogatepass"))
        found = list(stream_file(tmp_path / name))
        assert len(found) == len(texts) or isinstance(found[-1], Reject)
        check_can_be_written(row for row in found if isinstance(row, Sample))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.text(st.characters()), max_size=2), max_size=3), SAYS)
def test_what_is_read_from_csv_can_be_written(tmp_path, fields, said):
    rows = rows_of(fields, said)
    names = [*dict.fromkeys(name for row in rows for name in row)]
    text = io.StringIO()
    csv.writer(text).writerows(
        [names, *([row.get(n, "") if n != "messages" else json.dumps(row[n]) for n in names] for row in rows)]
    )
    (tmp_path / "a.csv").write_bytes(text.getvalue().encode(errors="surrogatepass"))
    check_can_be_written(row for row in stream_file(tmp_path / "a.csv") if isinstance(row, Sample))


# More microseconds than that are more than 64 bits hold.
MOST = timedelta(days=100_000_000)
VALUES = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    pa.decimal256(60, 3): st.decimals(-(10**50), 10**50, places=3),
    pa.binary(): st.binary(),
    pa.string(): st.text(),
    pa.bool_(): st.booleans(),
    pa.timestamp("us"): st.datetimes(),
    pa.date32(): st.dates(),
    pa.time64("us"): st.times(),
    pa.duration("us"): st.timedeltas(-MOST, MOST),
    pa.list_(pa.float64()): st.lists(st.floats()),
    pa.map_(pa.int64(), pa.float64()): st.dictionaries(st.integers(0, 99), st.floats()).map(lambda d: list(d.items())),
    pa.struct([("a", pa.list_(pa.binary()))]): st.fixed_dictionaries({"a": st.lists(st.binary())}),
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(st.sampled_from(list(VALUES)), st.data())
def test_what_is_read_from_parquet_can_be_written(tmp_path, kind, data):
    values = data.draw(st.lists(st.none() | VALUES[kind], min_size=1, max_size=4))
    columns = {"prompt": ["q"] * len(values), "response": ["a"] * len(values), "x": pa.array(values, kind)}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = list(stream_file(tmp_path / "a.parquet"))
    assert len(found) == len(values)
    check_can_be_written(found)


@given(st.dictionaries(st.integers() | st.booleans() | st.none() | KEYS, JSON, max_size=3))
def test_what_is_read_from_a_dataset_can_be_written(field):
    rows = [{"prompt": "q", "response": "a", "x": field}]
    check_can_be_written(row for row in judge_rows(dataset_rows(rows)) if isinstance(row, Sample))


def test_a_conversation_of_its_own_is_known_by_what_is_written(tmp_path):
    (tmp_path / "a.jsonl").write_text(GOOD)
    [sample] = stream_file(tmp_path / "a.jsonl")
    messages = written(sample, "messages")["messages"]
    assert conversation((m["role"], m["content"]) for m in messages).id == sample.conversation.id
