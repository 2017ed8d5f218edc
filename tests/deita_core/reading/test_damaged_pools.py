"""Whatever has happened to a file of the pool: its rows up to there, or one sentence that names it."""

import gzip
import io
import os
import random
from functools import partial

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from deita_core.errors import DeitaError, InputError
from deita_core.reading.pool import content_hash, expand, read_pool, stream_file

ROWS = [{"prompt": f"q{i}" * 30, "response": f"a{i} " * 50, "x": [{"k": "v" * i}], "n": i / 7} for i in range(300)]
LINES = b"".join(orjson.dumps(row) + b"\n" for row in ROWS)
TABLE = b"prompt,response\n" + b"".join(b'"%s","%s"\n' % (r["prompt"].encode(), r["response"].encode()) for r in ROWS)


def parquet(**options):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink, row_group_size=100, **options)
    return sink.getvalue()


FILES = {
    "a.jsonl": LINES,
    "a.json": orjson.dumps(ROWS),
    "a.csv": TABLE,
    "a.jsonl.gz": gzip.compress(LINES),
    "a.json.gz": gzip.compress(orjson.dumps(ROWS)),
    "a.jsonl.zst": zstandard.compress(LINES),
    "a.csv.zst": zstandard.compress(TABLE),
    "snappy.parquet": parquet(),
    "zstd.parquet": parquet(compression="zstd"),
    "plain.parquet": parquet(compression="none", use_dictionary=False),
    "checked.parquet": parquet(write_page_checksum=True, data_page_version="2.0"),
}


def flipped(content, chance, times):
    content = bytearray(content)
    for _ in range(times):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content)


def end_flipped(content, chance):
    return content[:-400] + flipped(content[-400:], chance, 3)


def cut(content, chance):
    return content[: chance.randrange(len(content))]


def zeroed(content, chance):
    place = chance.randrange(len(content))
    return content[:place] + bytes(512) + content[place + 512 :]


def with_nuls(content, chance):
    place = chance.randrange(len(content))
    return content[:place] + b"\0\0" + content[place:]


DAMAGE = {
    "one byte": partial(flipped, times=1),
    "twenty bytes": partial(flipped, times=20),
    "its end": end_flipped,
    "cut": cut,
    "zeros": zeroed,
    "NULs": with_nuls,
    "nothing in it": lambda content, chance: b"",
    "noise": lambda content, chance: chance.randbytes(len(content)),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_gives_rows_and_rejects_or_one_sentence_that_names_it(tmp_path, name, kind):
    for seed in range(10):
        path = tmp_path / name
        path.write_bytes(DAMAGE[kind](FILES[name], random.Random(seed)))
        try:
            lines = [row.line for row in stream_file(path)]
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error) and str(error).endswith(".")
        else:
            assert lines == sorted(set(lines))


def test_two_columns_of_one_name_are_an_error_in_parquet_as_in_csv(tmp_path):
    table = pa.table([["a"], ["b"], ["c"]], names=["prompt", "prompt", "response"])
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("prompt,prompt,response\na,b,c\n")
    for name in ("a.parquet", "a.csv"):
        with pytest.raises(InputError, match=rf"{name} has two columns named 'prompt'; rename one of them"):
            read_pool(tmp_path / name)


def test_a_time_in_an_unknown_zone_costs_no_row(tmp_path):
    times = pa.array([None, 1], pa.timestamp("us", "Mars/Phobos"))
    pq.write_table(pa.table({"prompt": ["a", "b"], "response": ["c", "d"], "x": times}), tmp_path / "a.parquet")
    samples, rejects = read_pool(tmp_path)
    assert rejects.is_empty()
    assert [orjson.loads(fields)["x"] for fields in samples["fields"]] == [
        None,
        "1970-01-01T00:00:00.000001Z[Mars/Phobos]",
    ]


def test_a_name_that_is_not_utf_8_is_an_error_in_words(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"\xff.jsonl")).write_bytes(LINES)
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(InputError, match="not UTF-8, so that no result could say it; rename the file"):
        expand(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_goes_away_is_named(tmp_path, name):
    for read in (content_hash, lambda path: list(stream_file(path))):
        with pytest.raises(DeitaError, match=name):
            read(tmp_path / name)
