"""Arrow and Parquet files: every type there is, in a side field and as a conversation."""

from decimal import Decimal
from uuid import UUID

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather, ipc

from deita_core.errors import UnreadableFileError
from deita_core.reading.pool import Sample, stream_file

BIG = 10**18
NS = "1970-01-01T00:00:00.00000000"


def integers(values, kind):
    return pa.array(values, pa.int64()).cast(kind)


def bad_text(kind, view):
    return pa.array([b"\xff", b"a"], kind).view(view)


def stored(kind, storage):
    return pa.ExtensionArray.from_storage(kind, storage)


def zoned(unit, zone):
    return integers([1_500_000_001, BIG + 1], pa.timestamp(unit, zone))


COLUMNS = {
    "null": (pa.nulls(2), [None, None]),
    "bool": (pa.array([True, None]), [True, None]),
    "uint64": (pa.array([2**64 - 1, 0], pa.uint64()), [2**64 - 1, 0]),
    "half": (pa.array([1.5, float("nan")], pa.float16()), [1.5, None]),
    "float32": (pa.array([0.1, None], pa.float32()), [0.10000000149011612, None]),
    "date32": (pa.array([1, 10**8], pa.int32()).cast(pa.date32()), ["1970-01-02", "100000000 days since 1970-01-01"]),
    "date64": (
        integers([86_400_000, -86_400_000 * 10**8], pa.date64()),
        ["1970-01-02", "-100000000 days since 1970-01-01"],
    ),
    "time32": (pa.array([1, 2], pa.int32()).cast(pa.time32("s")), ["00:00:01", "00:00:02"]),
    "time64 us": (integers([1, 2], pa.time64("us")), ["00:00:00.000001", "00:00:00.000002"]),
    "time64 ns": (integers([1, 86_399_999_999_999], pa.time64("ns")), ["00:00:00.000000001", "23:59:59.999999999"]),
    "timestamp s": (integers([-5, None], pa.timestamp("s")), ["1969-12-31T23:59:55", None]),
    "timestamp ms": (
        integers([1, BIG], pa.timestamp("ms")),
        ["1970-01-01T00:00:00.001000", f"{BIG} ms since 1970-01-01T00:00:00"],
    ),
    "timestamp ns": (integers([1, -5], pa.timestamp("ns")), [f"{NS}1", "1969-12-31T23:59:59.999999995"]),
    "whole timestamp ns": (integers([0, BIG], pa.timestamp("ns")), ["1970-01-01T00:00:00", "2001-09-09T01:46:40"]),
    "timestamp in Paris": (
        zoned("s", "Europe/Paris"),
        ["2017-07-14T04:40:01+02:00", f"{BIG + 1} s since 1970-01-01T00:00:00Z[Europe/Paris]"],
    ),
    "timestamp ns in Paris": (
        zoned("ns", "Europe/Paris"),
        ["1970-01-01T00:00:01.500000001Z[Europe/Paris]", "2001-09-09T01:46:40.000000001Z[Europe/Paris]"],
    ),
    "timestamp at an offset": (
        zoned("ms", "+05:30"),
        ["1970-01-18T14:10:00.001000+05:30", f"{BIG + 1} ms since 1970-01-01T00:00:00Z[+05:30]"],
    ),
    "timestamp on Mars": (
        zoned("us", "Mars/Phobos"),
        ["1970-01-01T00:25:00.000001Z[Mars/Phobos]", f"{BIG + 1} us since 1970-01-01T00:00:00Z[Mars/Phobos]"],
    ),
    "duration s": (integers([1_500, BIG], pa.duration("s")), ["0:25:00", f"{BIG} s"]),
    "duration ns": (integers([1_500, 1_000_000], pa.duration("ns")), ["1500 ns", "0:00:00.001000"]),
    "decimal32": (pa.array([Decimal("1.25"), None], pa.decimal32(9, 2)), ["1.25", None]),
    "decimal64": (pa.array([Decimal("1.25"), None], pa.decimal64(18, 2)), ["1.25", None]),
    "decimal128": (pa.array([Decimal("1." + "2" * 37), None], pa.decimal128(38, 37)), ["1." + "2" * 37, None]),
    "decimal256": (pa.array([Decimal("1." + "2" * 75), None], pa.decimal256(76, 75)), ["1." + "2" * 75, None]),
    "decimal of hundreds": (pa.array([Decimal(100), None], pa.decimal128(3, -2)), ["1E+2", None]),
    "binary": (pa.array([b"\0", None]), ["AA==", None]),
    "fixed binary": (pa.array([b"abc", None], pa.binary(3)), ["YWJj", None]),
    "large binary": (pa.array([b"a", None], pa.large_binary()), ["YQ==", None]),
    "large text": (pa.array(["a", None], pa.large_string()), ["a", None]),
    "text view": (pa.array(["a", "b" * 40], pa.string_view()), ["a", "b" * 40]),
    "binary view": (pa.array([b"a", None], pa.binary_view()), ["YQ==", None]),
    "broken text": (bad_text(pa.binary(), pa.string()), ["/w==", "a"]),
    "broken large text": (bad_text(pa.large_binary(), pa.large_string()), ["/w==", "a"]),
    "list": (pa.array([[1], None], pa.list_(pa.timestamp("ns"))), [[f"{NS}1"], None]),
    "large list": (pa.array([[1], []], pa.large_list(pa.int8())), [[1], []]),
    "fixed list": (pa.array([[1, 2], None], pa.list_(pa.timestamp("ns"), 2)), [[f"{NS}1", f"{NS}2"], None]),
    "list view": (pa.array([[1, 2], [3]], pa.list_view(pa.duration("ns"))), [["1 ns", "2 ns"], ["3 ns"]]),
    "large list view": (pa.array([[1, 2], [3]], pa.large_list_view(pa.int8())), [[1, 2], [3]]),
    "dictionary": (pa.array(["a", None]).dictionary_encode(), ["a", None]),
    "dictionary of times": (pa.array([1, None], pa.timestamp("ns")).dictionary_encode(), [f"{NS}1", None]),
    "map": (pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int8())), [[["a", 1]], None]),
    "map to times": (pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.timestamp("ns"))), [[["a", f"{NS}1"]], []]),
    "struct": (
        pa.array([{"a": 1, "b": 1}, None], pa.struct([("a", pa.int8()), ("b", pa.timestamp("ns"))])),
        [{"a": 1, "b": f"{NS}1"}, None],
    ),
    "struct of one name twice": (
        pa.StructArray.from_arrays([pa.array([1, 3]), pa.array([2, 4])], ["a", "a"]),
        [[["a", 1], ["a", 2]], [["a", 3], ["a", 4]]],
    ),
    "dense union": (
        pa.UnionArray.from_dense(
            pa.array([0, 1], pa.int8()),
            pa.array([0, 0], pa.int32()),
            [pa.array(["a"]), pa.array([5], pa.timestamp("ns"))],
        ),
        ["a", f"{NS}5"],
    ),
    "sparse union": (
        pa.UnionArray.from_sparse(
            pa.array([0, 1], pa.int8()), [pa.array(["a", "b"]), pa.array([5, 6], pa.timestamp("ns"))]
        ),
        ["a", f"{NS}6"],
    ),
    "runs": (pa.RunEndEncodedArray.from_arrays([2], ["a"]), ["a", "a"]),
    "runs of times": (pa.RunEndEncodedArray.from_arrays([2], pa.array([1], pa.timestamp("ns"))), [f"{NS}1"] * 2),
    "uuid": (pa.array([UUID(int=5).bytes, None], pa.uuid()), [str(UUID(int=5)), None]),
    "json": (pa.array(['{"a":1}', None], pa.json_()), ['{"a":1}', None]),
    "bool8": (stored(pa.bool8(), pa.array([1, 0], pa.int8())), [True, False]),
    "opaque": (stored(pa.opaque(pa.int8(), "a", "b"), pa.array([1, None], pa.int8())), [1, None]),
    "opaque times": (
        stored(pa.opaque(pa.timestamp("ns"), "a", "b"), pa.array([1, None], pa.timestamp("ns"))),
        [f"{NS}1", None],
    ),
    "tensor": (
        stored(pa.fixed_shape_tensor(pa.int32(), [2]), pa.array([[1, 2], None], pa.list_(pa.int32(), 2))),
        [[1, 2], None],
    ),
    "interval": (
        pa.array([pa.MonthDayNano([1, 2, 3]), None]),
        ["MonthDayNano(months=1, days=2, nanoseconds=3)", None],
    ),
}  # fmt: skip


def write_file(path, table):
    with ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


def write_stream(path, table):
    with ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


WRITERS = {
    "a.parquet": lambda path, table: pq.write_table(table, path),
    "file.arrow": write_file,
    "stream.arrow": write_stream,
    "a.ipc": write_file,
    "a.feather": lambda path, table: feather.write_feather(table, path, compression="lz4"),
}


def side_fields(path):
    samples = list(stream_file(path))
    assert all(isinstance(s, Sample) for s in samples)
    return [orjson.loads(s.fields)["x"] for s in samples]


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("kind", COLUMNS)
def test_a_side_field_of_any_type_costs_no_row_and_comes_back(tmp_path, kind, writer):
    column, expected = COLUMNS[kind]
    table = pa.table({"prompt": ["a", "b"], "response": ["c", "d"], "x": column})
    try:
        WRITERS[writer](tmp_path / writer, table)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, OSError):
        pytest.skip(f"{writer} cannot hold the type {column.type}")
    assert side_fields(tmp_path / writer) == expected


@pytest.mark.parametrize("kind", ["binary", "timestamp ns", "broken text", "timestamp on Mars", "uuid", "list"])
def test_a_conversation_of_a_type_that_is_no_text_costs_its_row(tmp_path, kind):
    column, _ = COLUMNS[kind]
    pq.write_table(pa.table({"prompt": column, "response": ["c", "d"]}), tmp_path / "a.parquet")
    try:
        first = next(stream_file(tmp_path / "a.parquet"))
    except UnreadableFileError:
        pytest.fail("the rows come before the verdict")
    assert first.reason == "wrong_type"


@pytest.mark.parametrize("writer", WRITERS)
def test_many_rows_are_numbered_over_batches(tmp_path, writer):
    n = 2_500
    table = pa.table({"prompt": [f"q{i}" for i in range(n)], "response": ["a"] * n, "x": list(range(n))})
    WRITERS[writer](tmp_path / writer, table)
    samples = list(stream_file(tmp_path / writer))
    assert [(s.line, orjson.loads(s.fields)["x"]) for s in samples] == [(i + 1, i) for i in range(n)]


def test_messages_of_any_list_type_are_read(tmp_path):
    dialog = [{"role": "user", "content": "q", "n": None}, {"role": "assistant", "content": "a", "n": 1}]
    message = pa.struct(
        [("role", pa.dictionary(pa.int8(), pa.string())), ("content", pa.large_string()), ("n", pa.int8())]
    )
    for i, kind in enumerate((pa.list_(message), pa.large_list(message), pa.list_(message, 2))):
        pq.write_table(pa.table({"messages": pa.array([dialog], kind)}), tmp_path / f"{i}.parquet")
        [sample] = stream_file(tmp_path / f"{i}.parquet")
        assert [m.content for m in sample.conversation.messages] == ["q", "a"]
        assert orjson.loads(sample.fields)["messages"] == dialog


def damaged(data, at):
    return data[:at] + bytes(200) + data[at + 200 :]


@pytest.mark.parametrize("writer", ["file.arrow", "stream.arrow", "a.feather"])
def test_a_damaged_arrow_file_gives_rows_and_a_reject_or_one_sentence(tmp_path, writer):
    n = 3_000
    table = pa.table({"prompt": [f"q{i}" for i in range(n)], "response": ["a" * 20] * n, "x": [["b"]] * n})
    path = tmp_path / writer
    WRITERS[writer](path, table)
    data = path.read_bytes()
    for content in [
        data[: len(data) // 2],
        data[:7],
        b"ARROW1\0\0",
        b"\xff" * 99,
        *(damaged(data, at) for at in range(0, len(data), 9_973)),
    ]:
        path.write_bytes(content)
        try:
            rows = list(stream_file(path))
        except UnreadableFileError as error:
            assert path.name in str(error)
        else:
            assert [r.line for r in rows] == list(range(1, len(rows) + 1))


def test_feather_of_version_1_is_refused_with_its_name(tmp_path):
    (tmp_path / "a.feather").write_bytes(b"FEA1" + bytes(100))
    with pytest.raises(UnreadableFileError, match=r"a\.feather is Feather of version 1; write it again as version 2"):
        list(stream_file(tmp_path / "a.feather"))


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.table([["a"], ["b"], ["c"]], names=["prompt", "prompt", "response"])
    for name, write in WRITERS.items():
        if name == "a.feather":
            continue
        write(tmp_path / name, table)
        with pytest.raises(UnreadableFileError, match="two columns named 'prompt'"):
            list(stream_file(tmp_path / name))
