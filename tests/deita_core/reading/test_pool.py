import csv
import gzip
import hashlib
import io
import json
import tracemalloc
from datetime import datetime
from itertools import islice
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deita_core.errors import InputError
from deita_core.reading import jsontext, lines
from deita_core.reading import pool as readers
from deita_core.reading.hub import dataset_rows
from deita_core.reading.layouts import judge_rows
from deita_core.reading.options import ReadOptions
from deita_core.reading.pool import (
    BatchBuilder,
    Reject,
    Sample,
    content_hash,
    expand,
    placed_rows,
    read_pool,
    stream_file,
)
from deita_core.tables import REJECTS, SAMPLES, SOURCES
from tests.support.paths import SHARED

RAW = SHARED / "data/raw_samples"
FILE_ID = "0123456789abcdef" * 2


def row(n, answer="Yes."):
    return {"instruction": f"Question {n}?", "output": answer, "n": n}


def asked_and_said(n, role, text):
    return [{role: "user", text: f"Question {n}?"}, {role: "assistant", text: "Yes."}]


def three(layout):
    """Three rows that are the same conversations in every layout."""
    make = {
        "alpaca": row,
        "sharegpt": lambda n: {"conversations": asked_and_said(n, "from", "value"), "n": n},
        "messages": lambda n: {"messages": asked_and_said(n, "role", "content"), "n": n},
        "prompt-response": lambda n: {"prompt": f"Question {n}?", "response": "Yes.", "n": n},
    }[layout]
    return [make(n) for n in range(3)]


def jsonl(rows):
    return b"".join(orjson.dumps(r) + b"\n" for r in rows)


def table(rows, delimiter=","):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(rows[0])
    for r in rows:
        writer.writerow(v if isinstance(v, str) else orjson.dumps(v).decode() for v in r.values())
    return text.getvalue().encode()


def parquet(rows):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


WRITERS = {
    "pool.json": lambda rows: json.dumps(rows, indent=1).encode(),
    "pool.jsonl": jsonl,
    "pool.NDJSON": jsonl,
    "pool.csv": table,
    "pool.tsv": lambda rows: table(rows, "\t"),
    "pool.parquet": parquet,
    "pool.json.gz": lambda rows: gzip.compress(orjson.dumps(rows)),
    "pool.jsonl.gz": lambda rows: gzip.compress(jsonl(rows)),
    "pool.csv.gz": lambda rows: gzip.compress(table(rows)),
    "pool.json.zst": lambda rows: zstandard.compress(orjson.dumps(rows)),
    "pool.jsonl.zst": lambda rows: zstandard.compress(jsonl(rows)),
    "pool.tsv.zst": lambda rows: zstandard.compress(table(rows, "\t")),
}


@pytest.fixture
def file(tmp_path):
    """Writes bytes under a name, returns the path."""

    def write(name, data):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path.as_posix()

    return write


def outcome(path, **options):
    """(line, "ok" or the reason) of each row."""
    return [(r.line, "ok" if isinstance(r, Sample) else r.reason) for r in stream_file(path, **options)]


@pytest.mark.parametrize("layout", ["alpaca", "sharegpt", "messages", "prompt-response"])
@pytest.mark.parametrize("name", WRITERS)
def test_every_layout_is_read_from_every_kind_of_file(file, name, layout):
    samples = list(stream_file(file(name, WRITERS[name](three(layout)))))
    assert [s.layout for s in samples] == [layout] * 3
    texts = [[(m.role, m.content) for m in s.conversation.messages] for s in samples]
    assert texts == [[("user", f"Question {n}?"), ("assistant", "Yes.")] for n in range(3)]
    assert [str(orjson.loads(s.fields)["n"]) for s in samples] == ["0", "1", "2"]


def test_lines_are_counted_in_the_file(file):
    assert outcome(file("a.jsonl", b"\n" + jsonl([row(1)]) + b"  \n" + jsonl([row(2)]))) == [(2, "ok"), (4, "ok")]
    assert outcome(file("a.json", json.dumps([row(1), row(2)], indent=1).encode())) == [(1, "ok"), (2, "ok")]
    assert outcome(file("a.csv", b'instruction,output\n\n"a\nb",c\nd,e\n')) == [(3, "ok"), (5, "ok")]


def test_a_broken_line_is_a_reject_with_its_line_number(file):
    path = file("a.jsonl", jsonl([row(1)]) + b'{"instruction": "q", \n' + jsonl([row(2)]))
    good, bad, _ = stream_file(path)
    assert (good.line, bad.line, bad.reason) == (1, 2, "broken_json")
    assert "at character 21" in bad.detail


def test_a_badly_encoded_line_is_a_reject(file):
    path = file("a.jsonl", jsonl([row(1)]) + jsonl([row(2)]).replace(b"Yes", b"Oui, \xe9") + jsonl([row(3)]))
    assert outcome(path) == [(1, "ok"), (2, "wrong_encoding"), (3, "ok")]


def test_a_byte_order_mark_is_no_text(file):
    for name in ("a.jsonl", "a.json", "a.csv"):
        path = file(name, b"\xef\xbb\xbf" + WRITERS[name.replace("a.", "pool.")]([row(1)]))
        assert outcome(path) == [(2 if name == "a.csv" else 1, "ok")]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_text_in_another_unicode_encoding_is_read(file, name, encoding):
    rows = [row(n, f"Où est le chat n\u200b° {n}? 😀") for n in range(30)]
    data = WRITERS[name.replace("a.", "pool.").removesuffix(".gz")](rows).decode().encode(encoding)
    samples = list(stream_file(file(name, gzip.compress(data) if name.endswith(".gz") else data)))
    assert [s.conversation.messages[1].content for s in samples] == [r["output"] for r in rows]


def test_half_a_character_at_the_end_costs_the_last_line_only(file):
    data = jsonl([row(1), row(2)]).decode().encode("utf-16")
    assert outcome(file("a.jsonl", data[:-3])) == [(1, "ok"), (2, "wrong_encoding")]


def test_noise_in_the_middle_is_one_reject_for_all_that_follows(file):
    data = jsonl([row(1), row(2)]).decode().encode("utf-32-le") + b"\xff" * 80 + jsonl([row(3)])
    found = outcome(file("a.jsonl", b"\xff\xfe\0\0" + data))
    assert found == [(1, "ok"), (2, "ok"), (3, "broken_compression")]


def test_noise_is_no_text(file):
    with pytest.raises(InputError, match="NUL bytes"):
        list(stream_file(file("a.csv", b"\0\0\0\0noise")))


def test_an_overlong_line_is_skipped_without_being_held(file, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE", 1000)
    monkeypatch.setattr(lines, "CHUNK", 1000)
    path = file("a.jsonl", jsonl([row(1), row(2, "x" * 5_000_000), row(3)]))
    tracemalloc.start()
    assert outcome(path) == [(1, "ok"), (2, "too_large"), (3, "ok")]
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    path = file("a.csv", table([row(1), row(2, "x" * 5000), row(3)]))
    assert outcome(path) == [(2, "ok"), (3, "too_large"), (4, "ok")]


def test_nan_and_huge_integers_pass(file):
    big = 123456789012345678901234567890
    for name, data in (("a.jsonl", b"%s\n%s"), ("a.json", b"[%s,%s]")):
        path = file(name, data % (jsonl([row(1)])[:-2] + b',"x":NaN}', jsonl([row(2)])[:-2] + b',"x":%d}' % big))
        first, second = stream_file(path)
        assert orjson.loads(first.fields)["x"] is None
        assert json.loads(second.fields)["x"] == big


def test_half_a_surrogate_pair_is_a_reject_not_another_text(file):
    rows = [b'{"instruction":"q","output":"a\\ud800\\u0041"}', b'{"instruction":"q","output":"a","x":"\\udc00"}']
    rows += [b'{"instruction":"q","output":"\\ud83d\\ude00"}']
    for name, data in (("a.jsonl", b"\n".join(rows)), ("a.json", b"[" + b",".join(rows) + b"]")):
        assert outcome(file(name, data)) == [(1, "bad_unicode"), (2, "bad_unicode"), (3, "ok")]


def test_a_break_in_an_array_is_one_reject_for_all_that_follows(file):
    whole = orjson.dumps([row(n) for n in range(10)])
    for broken in (
        whole[: len(whole) // 2],
        whole.replace(b'"n":5', b'"n":'),
        whole.replace(b'},{"instruction":"Question 5', b'}{"instruction":"Question 5'),
    ):
        rows = list(stream_file(file("a.json", broken)))
        assert [r.line for r in rows] == list(range(1, len(rows) + 1))
        assert [r.reason for r in rows if isinstance(r, Reject)] == ["broken_json"] and len(rows) in (5, 6)
        assert f"from row {len(rows)} on" in rows[-1].detail


def test_something_behind_an_array_is_a_reject(file):
    assert outcome(file("a.json", orjson.dumps([row(1)]) + b"x")) == [(1, "ok"), (2, "broken_json")]


@pytest.mark.parametrize("key", ["data", "rows", "train", "examples"])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_object_may_hold_the_rows(file, key, indent):
    data = json.dumps({"version": [1, {"x": []}], key: [row(1), row(2)], "end": "."}, indent=indent)
    assert outcome(file("a.json", data.encode())) == [(1, "ok"), (2, "ok")]


def test_json_may_be_lines_after_all(file):
    data = jsonl([row(1) | {"data": [1]}]) + b"{\n" + jsonl([row(3)])
    assert outcome(file("a.json", data)) == [(1, "ok"), (2, "broken_json"), (3, "ok")]


def test_json_may_be_objects_over_several_lines(file):
    assert outcome(file("a.json", json.dumps(row(1), indent=2).encode() * 2)) == [(1, "ok"), (2, "ok")]


def test_tokens_may_be_cut_anywhere_between_chunks(file, monkeypatch):
    rows = [row(n, f'é"\\\n😀 {n}') | {"x": [1.5e3, -12, True, None, {}]} for n in range(20)]
    path = file("a.json", json.dumps(rows, indent=1).encode())
    for chunk in range(1, 40):
        monkeypatch.setattr(jsontext, "CHUNK", chunk)
        assert [orjson.loads(s.fields) for s in stream_file(path)] == rows


def test_a_csv_record_with_other_columns_is_a_reject(file):
    path = file("a.csv", b'instruction,output\na,b\na\na,b,c\n"a" b,c\nd,e\n')
    assert outcome(path) == [(2, "ok"), (3, "broken_csv"), (4, "broken_csv"), (5, "broken_csv"), (6, "ok")]


def test_a_badly_encoded_csv_record_costs_no_other(file):
    path = file("a.csv", "instruction,output\ncafé,b\n".encode() + b"caf\xe9,b\nc,d\n")
    assert outcome(path) == [(2, "ok"), (3, "wrong_encoding"), (4, "ok")]


def test_a_quote_that_is_never_closed_is_a_reject(file):
    assert outcome(file("a.csv", b'instruction,output\na,b\n"c,d\ne,f\n')) == [(2, "ok"), (3, "broken_csv")]


def test_a_long_csv_cell_is_read_and_an_empty_one_is_an_empty_text(file):
    path = file("a.csv", table([row(1, "x" * 300_000) | {"note": ""}]))
    [sample] = stream_file(path)
    assert sample.conversation.n_chars > 300_000 and orjson.loads(sample.fields)["note"] == ""


def test_a_column_named_twice_is_an_error(file):
    with pytest.raises(InputError, match="'output'"):
        list(stream_file(file("a.csv", b"instruction,output,output\na,b,c\n")))


def test_parquet_values_come_back_as_documented(file):
    fields = {"at": datetime(2024, 5, 6), "raw": b"\x00", "tags": ["a"], "none": None}
    [sample] = stream_file(file("a.parquet", parquet([row(1) | fields])))
    expected = {"at": "2024-05-06T00:00:00", "raw": "AA==", "tags": ["a"], "none": None}
    assert orjson.loads(sample.fields) == row(1) | expected


def test_a_parquet_value_beyond_python_costs_no_row(file):
    columns = pa.table(
        {"instruction": ["a", "b"], "output": ["c", "d"], "at": pa.array([0, 10**18], pa.timestamp("ms"))}
    )
    sink = io.BytesIO()
    pq.write_table(columns, sink)
    samples = list(stream_file(file("a.parquet", sink.getvalue())))
    assert [orjson.loads(s.fields)["at"] for s in samples] == [
        "1970-01-01T00:00:00",
        "1000000000000000000 ms since 1970-01-01T00:00:00",
    ]


def test_a_damaged_parquet_file_is_an_error(file):
    data = parquet(three("alpaca"))
    with pytest.raises(InputError, match="Parquet"):
        list(stream_file(file("a.parquet", data[:-10])))


def test_damage_inside_a_parquet_file_is_one_reject_for_all_that_follows(file):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row(n) for n in range(2000)]), sink, row_group_size=1000)
    data = bytearray(sink.getvalue())
    at = pq.read_metadata(sink).row_group(1).column(0).data_page_offset
    data[at : at + 100] = bytes(100)
    found = outcome(file("a.parquet", bytes(data)))
    assert {reason for _, reason in found[:-1]} == {"ok"} and found[-1] == (len(found), "broken_parquet")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "json"])
@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_a_truncated_archive_gives_the_rows_before_it(file, suffix, packed):
    noise = [row(n, hashlib.sha512(b"%d" % n).hexdigest()) for n in range(5000)]
    data = WRITERS[f"pool.{suffix}"](noise)
    squeezed = gzip.compress(data) if packed == "gz" else zstandard.compress(data)
    found = outcome(file(f"a.{suffix}.{packed}", squeezed[: len(squeezed) // 2]))
    assert len(found) > 1000 and {reason for _, reason in found[:-1]} == {"ok"}
    assert found[-1][1] == "broken_compression" and found[-1][0] > found[-2][0]


@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_what_is_no_archive_is_an_error(file, packed):
    with pytest.raises(InputError, match="broken_compression"):
        list(stream_file(file(f"a.jsonl.{packed}", jsonl([row(1)]))))


def test_archives_of_several_members_are_read_to_the_end(file):
    for pack, suffix in ((gzip.compress, "gz"), (zstandard.compress, "zst")):
        path = file(f"a.jsonl.{suffix}", pack(jsonl([row(1)])) + pack(jsonl([row(2)])))
        assert outcome(path) == [(1, "ok"), (2, "ok")]


def test_the_limit_counts_good_and_bad_rows(file):
    path = file("a.jsonl", jsonl([row(1), {"x": 1}, row(2), row(3)]))
    assert outcome(path, limit=3) == [(1, "ok"), (2, "missing_field"), (3, "ok")]
    with pytest.raises(InputError, match="limit"):
        stream_file(path, limit=0)


def test_a_given_layout_is_used_as_it_is(file):
    path = file("a.jsonl", jsonl([row(1), {"prompt": "q", "response": "a"}]))
    assert outcome(path, options=ReadOptions(layout="prompt-response")) == [(1, "ok"), (2, "ok")]
    assert outcome(path, options=ReadOptions(layout="alpaca")) == [(1, "ok"), (2, "missing_field")]
    with pytest.raises(InputError, match=r"2 rows tried .* as sharegpt .2 times missing_field"):
        list(stream_file(path, ReadOptions(layout="sharegpt")))
    with pytest.raises(InputError, match="Invalid value for layout"):
        read_pool(path, layout="chatml")


def test_a_file_without_any_readable_row_names_layouts_and_reason(file):
    rows = stream_file(file("a.jsonl", jsonl([{"page": "q"}] * 3) + b"{\n"))
    assert [r.reason for r in islice(rows, 4)] == ["unknown_layout"] * 3 + ["broken_json"]
    with pytest.raises(InputError, match=r"a\.jsonl .* sharegpt, messages, alpaca, prompt-response, text .*unknown_l"):
        next(rows)


def test_junk_on_top_does_not_hide_the_layout(file):
    found = outcome(file("a.jsonl", b"{\n" * 250 + jsonl([{"text": "q"}] * 250 + [row(1)])))
    assert found[-1] == (501, "ok") and [line for line, _ in found] == list(range(1, 502))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_an_empty_file_is_an_error(file, name):
    data = parquet([row(1)]) if name == "a.parquet" else b""
    if name == "a.parquet":
        sink = io.BytesIO()
        pq.write_table(pq.read_table(io.BytesIO(data)).slice(0, 0), sink)
        data = sink.getvalue()
    for empty in (data, b"[]" if name == "a.json" else data):
        with pytest.raises(InputError, match="is empty"):
            list(stream_file(file(name, empty)))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz", "a.jsonl.zst"])
def test_memory_stays_bounded_whatever_the_rows(file, name, monkeypatch):
    monkeypatch.setattr(jsontext, "CHUNK", 1 << 16)
    path = file(name, WRITERS[name.replace("a.", "pool.")]([row(n, "x" * 2000) for n in range(2500)]))
    tracemalloc.start()
    assert sum(1 for _ in stream_file(path)) == 2500
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000


def test_rows_are_given_before_the_file_is_read(file):
    path = file("a.jsonl", jsonl([row(1)] * 200))
    rows = stream_file(path)
    assert next(rows).line == 1
    with Path(path).open("ab") as late:
        late.write(jsonl([row(2)]) * 3000)
    assert sum(1 for _ in rows) == 3199


ROLES = st.sampled_from(["user", "assistant", "system", "tool"])
MESSAGES = st.lists(st.tuples(ROLES, st.text()), max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.lists(MESSAGES, max_size=4))
def test_any_text_round_trips_exactly(file, conversations):
    ends = [("user", "q"), ("assistant", "a")]
    rows = [{"messages": [{"role": r, "content": t} for r, t in [*c, *ends]]} for c in [*conversations, []]]
    for name in ("a.jsonl", "a.json", "a.parquet"):
        samples = list(stream_file(file(name, WRITERS[name.replace("a.", "pool.")](rows))))
        found = [[(m.role, m.content) for m in s.conversation.messages] for s in samples]
        assert found == [[*c, *ends] for c in [*conversations, []]]
        assert [orjson.loads(s.fields) for s in samples] == rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(
    st.binary(max_size=60), st.sampled_from(["jsonl", "json", "csv", "tsv.gz", "json.zst", "parquet"]), st.booleans()
)
def test_any_bytes_are_rows_or_an_input_error(file, noise, suffix, inside):
    good = jsonl([row(1), row(2)])
    data = good[:40] + noise + good[40:] if inside else noise
    pack = {"gz": gzip.compress, "st": zstandard.compress}.get(suffix[-2:], bytes)
    try:
        lines = [r.line for r in stream_file(file(f"a.{suffix}", pack(data)))]
    except InputError as error:
        assert "a." in str(error)
    else:
        assert lines == sorted(set(lines))


def test_paths_folders_and_globs_become_files(file, tmp_path, monkeypatch):
    for name in ("b.jsonl", "a.csv", "sub/c.parquet", "sub/d.json.gz", ".hidden/x.json", ".y.json", "README.md"):
        file(f"pool/{name}", b"")
    monkeypatch.chdir(tmp_path)
    inside = ["pool/a.csv", "pool/b.jsonl", "pool/sub/c.parquet", "pool/sub/d.json.gz"]
    assert expand("pool") == inside == expand(["pool", Path("pool/a.csv"), tmp_path / "pool/b.jsonl"])
    assert expand(["pool/b.jsonl", "pool"]) == [inside[1], inside[0], *inside[2:]]
    assert expand("pool/*") == inside[:2] and expand("pool/**/*.gz") == inside[3:]
    assert expand("hf://datasets/o/n@main?config=c&split=s") == ["hf://datasets/o/n@main?config=c&split=s"]
    file("pool/[1].jsonl", b"")
    assert expand("pool/[1].jsonl") == ["pool/[1].jsonl"]


@pytest.mark.parametrize("path", ["none.jsonl", "no*.jsonl", "empty", "a.txt", "a.parquet.gz", "s3://b/a.json"])
def test_a_path_without_a_readable_file_is_named_with_what_is_supported(file, tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    file("a.txt", b"")
    file("a.parquet.gz", b"")
    with pytest.raises(InputError) as caught:
        expand(path)
    assert path in str(caught.value) and ".jsonl.zst" in str(caught.value)


def test_no_path_and_a_wrong_dataset_address_are_errors():
    for paths in ([], "hf://datasets/onlyname", "hf://o/n", "hf://datasets/o/n?splt=x"):
        with pytest.raises(InputError):
            expand(paths)


def test_a_pool_merges_exact_duplicates_in_first_seen_order(file):
    one = file("one.jsonl", jsonl([row(1), row(2), row(1) | {"n": 9}, {"instruction": "q"}]))
    two = file("two.json", orjson.dumps(three("messages")))
    samples, rejects = read_pool([one, two])
    assert samples["fields"].to_list()[0] == orjson.dumps(row(1)).decode()
    assert samples["copies"].to_list() == [3, 2, 1]
    assert samples["sources"].to_list()[0] == [
        {"file": one, "line": 1},
        {"file": one, "line": 3},
        {"file": two, "line": 2},
    ]
    assert samples["n_turns"].to_list() == [1, 1, 1] and samples["n_chars"].to_list() == [15, 15, 15]
    assert samples["messages"].to_list()[2][0] == {"role": "user", "content": "Question 0?", "extra": None}
    assert rejects.rows() == [(one, 4, "missing_field", "the row has no field output")]
    assert dict(samples.schema) == readers.POOL and dict(rejects.schema) == readers.POOL_REJECTS


def test_a_pool_of_good_rows_has_an_empty_frame_of_rejects(file):
    assert dict(read_pool(file("a.jsonl", jsonl([row(1)])))[1].schema) == readers.POOL_REJECTS


def test_the_limit_of_a_pool_counts_over_its_files(file):
    paths = [file(f"{name}.jsonl", jsonl([row(name + str(n)) for n in range(3)])) for name in "abc"]
    samples, _ = read_pool(paths, limit=4)
    assert [s[0]["file"] for s in samples["sources"].to_list()] == [paths[0]] * 3 + [paths[1]]
    assert read_pool(paths, limit=3)[0].height == 3


def batch_of(rows):
    builder = BatchBuilder()
    for placed in rows:
        builder.add(FILE_ID, placed)
    return builder.batch()


def test_frames_are_what_their_tables_hold(file):
    path = file("a.jsonl", jsonl([row(1), row(1), row(2), {"x": 1}]))
    batch = batch_of(placed_rows(path))
    for held, frame, height in ((SAMPLES, batch.samples, 2), (SOURCES, batch.sources, 3), (REJECTS, batch.rejects, 1)):
        assert held.validate(frame).height == height
    assert batch.sources["key"].to_list() == [f"{FILE_ID}:{n}" for n in (1, 2, 3)]
    assert batch.sources["sample_id"].to_list() == [batch.samples["id"][i] for i in (0, 0, 1)]
    message_index = batch.samples["message_index"][0].to_list()
    assert [(m["role"], m["n_chars"], m["blank"]) for m in message_index] == [
        ("user", 11, False),
        ("assistant", 4, False),
    ]
    assert message_index[1]["text_id"] == hashlib.blake2b(b"Yes.", digest_size=16).hexdigest()


def test_frames_of_no_rows_are_valid():
    batch = batch_of([])
    assert SAMPLES.validate(batch.samples).height == SOURCES.validate(batch.sources).height == 0
    assert REJECTS.validate(batch.rejects).height == 0


def test_a_files_identity_is_its_content(file):
    one, two, other = file("a.jsonl", b"x"), file("b.jsonl", b"x"), file("c.jsonl", b"y")
    assert content_hash(one) == content_hash(two) != content_hash(other)
    assert content_hash(one) == hashlib.blake2b(b"x", digest_size=16).hexdigest()
    with pytest.raises(InputError, match="none"):
        content_hash("none.jsonl")


def test_a_streaming_dataset_is_read_like_a_file():
    datasets = pytest.importorskip("datasets")
    stream = datasets.Dataset.from_list([row(1), row(2, ""), row(3)]).to_iterable_dataset()
    found = list(judge_rows(dataset_rows(stream)))
    assert [(r.line, isinstance(r, Sample)) for r in found] == [(1, True), (2, False), (3, True)]
    assert orjson.loads(found[0].fields) == row(1)


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    address = "hf://datasets/org/name?split=test"
    for attempt in (lambda: content_hash(address), lambda: next(stream_file(address))):
        with pytest.raises(InputError, match=r"org/name.* hub .*offline"):
            attempt()


LAYOUTS_OF = {
    "alpaca": "alpaca",
    "dolly.jsonl": "prompt-response",
    "dolly_alpaca": "alpaca",
    "fastchat": "sharegpt",
    "messages": "messages",
    "messy": "alpaca",
    "openai": "messages",
    "sharegpt": "sharegpt",
}


@pytest.mark.realdata
@pytest.mark.skipif(not RAW.is_dir(), reason=f"the real data is not at {RAW}")
def test_real_files_are_read_to_the_last_row():
    files = expand(RAW)
    assert len(files) == 12
    for path in files:
        name = Path(path).name
        rows = list(stream_file(path))
        samples = [r for r in rows if isinstance(r, Sample)]
        assert {s.layout for s in samples} == {v for k, v in LAYOUTS_OF.items() if name.startswith(k)}
        assert len(rows) == rows_in(Path(path)) and len(samples) >= 0.95 * len(rows)
    merged, rejects = read_pool(RAW)
    assert merged["copies"].sum() + rejects.height == sum(rows_in(Path(path)) for path in files)


def rows_in(path):
    """The rows of a file, counted another way than the readers do."""
    match path.suffix:
        case ".json":
            return len(json.loads(path.read_text()))
        case ".jsonl":
            return sum(1 for line in path.open() if line.strip())
        case ".csv":
            with path.open(newline="") as text:
                return sum(1 for _ in csv.DictReader(text))
    return pq.read_metadata(path).num_rows
