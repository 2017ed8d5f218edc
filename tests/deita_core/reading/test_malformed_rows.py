"""Malformed rows of every kind, in every kind of text file: each is a sample or a reject with its line and reason."""

import bz2
import csv
import gzip
import io
import json
import random
import tracemalloc

import orjson
import pytest

from deita_core.errors import UnreadableFileError
from deita_core.reading.pool import Sample, placed_rows, stream_file

GOOD = {"instruction": "Why is the sky blue?", "output": "Light scatters.", "messages": None}
VALUES = (
    None, True, 0, -1.5, 10**400, float("nan"), float("inf"), "", " ", "x" * 3_000, "\0", "\ud800", "\ufeff", "\u2028",
    [], {}, [None], [[]], [{}], {"": ""}, [{"role": "user"}], [{"role": "wizard", "content": "x"}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "[", "[1,", "{'a': 1}",
    "[{'role': 'user', 'content': 'q'}, {'role': 'assistant', 'content': 'a'}]", "[{'a': 1}\n {'a': 2}]",
)  # fmt: skip
FIELDS = (
    "instruction", "input", "output", "history", "system", "conversations", "conversation", "items", "messages",
    "prompt", "question", "response", "answer", "completion", "chosen", "rejected", "label", "tools", "text", "data",
    "train", "id", "", "\ud800",
)  # fmt: skip


def any_value(chance, depth=0):
    if depth < 4 and chance.random() < 0.2:
        inner = [any_value(chance, depth + 1) for _ in range(chance.randrange(4))]
        return inner if chance.random() < 0.5 else {chance.choice(FIELDS): value for value in inner}
    return chance.choice(VALUES)


def any_row(chance):
    """A row of a random kind of damage; most are objects with wrong values."""
    kind = chance.random()
    if kind < 0.1:
        return any_value(chance)
    row = dict(GOOD) if kind < 0.6 else {}
    for _ in range(chance.randrange(1, 5)):
        row[chance.choice(FIELDS)] = any_value(chance)
    return row


def any_line(chance):
    """One line of a JSONL file, damaged as text or bytes in a third of the cases; never empty."""
    text = json.dumps(any_row(chance), ensure_ascii=chance.random() < 0.5)
    data = text.encode("utf-8", "surrogatepass").replace(b"\n", b" ").replace(b"\r", b" ")
    match chance.randrange(12):
        case 0:
            data = data[: chance.randrange(1, len(data) + 1)]
        case 1:
            at = chance.randrange(len(data))
            data = data[:at] + bytes([chance.choice([0, 1, 9, 34, 92, 127, 128, 255])]) + data[at:]
        case 2:
            data = chance.choice(
                [b"[" * 5_000, b'{"a":' * 2_000 + b"1" + b"}" * 2_000, b"9" * 5_000, b"null", b"}", b"]"]
            )
        case 3:
            data += data
    return data if data.strip() else b"x"


def jsonl(chance, count):
    return b"".join(any_line(chance) + b"\n" for _ in range(count))


def csv_file(chance, count):
    names = ["instruction", "output", "messages"]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    for _ in range(count):
        row = any_row(chance)
        cells = [row.get(name) if isinstance(row, dict) else row for name in names]
        writer.writerow([c if isinstance(c, str) else repr(c)[:5_000] for c in cells][: chance.choice([2, 3, 3, 3])])
    return text.getvalue().encode("utf-8", "surrogatepass").replace(b"\0", b"0")


def array(chance, count):
    rows = (json.dumps(any_row(chance)) for _ in range(count))
    return ("[" + ",\n".join(rows) + "]").encode()


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_every_malformed_line_has_one_fate_with_its_line_and_reason(tmp_path, count, pack):
    path = tmp_path / f"a.jsonl{ {bytes: '', gzip.compress: '.gz', bz2.compress: '.bz2'}[pack] }"
    path.write_bytes(pack(orjson.dumps(GOOD) + b"\n" + jsonl(random.Random(12), count)))
    tracemalloc.start()
    fates = [(r.line, "ok" if isinstance(r, Sample) else r.reason) for r in stream_file(path)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [line for line, _ in fates] == list(range(1, count + 2))
    reasons = {reason for _, reason in fates}
    assert {"ok", "broken_json", "wrong_encoding", "wrong_type", "null_field", "not_an_object"} <= reasons
    assert peak < 64 << 20


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "write"), [("a.csv", csv_file), ("a.json", array), ("b.jsonl", array)])
def test_every_malformed_record_and_member_has_one_fate(tmp_path, count, name, write):
    (tmp_path / name).write_bytes(write(random.Random(12), count))
    tracemalloc.start()
    fates = [(r.line, None if isinstance(r, Sample) else (r.reason, r.detail)) for r in stream_file(tmp_path / name)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    numbers = [line for line, _ in fates]
    assert len(fates) == count and numbers == sorted(set(numbers))
    assert all(fate is None or (fate[0].replace("_", "").islower() and 0 < len(fate[1]) <= 500) for _, fate in fates)
    assert None in [fate for _, fate in fates] and peak < 64 << 20


@pytest.mark.parametrize("seeds", [100, pytest.param(2_000, marks=pytest.mark.slow)])
def test_a_small_file_of_anything_ends_in_rows_or_one_sentence(tmp_path, seeds):
    """Files of one to four pieces: damaged lines, lists, ends of lines and marks, under any name."""
    names = ("a.jsonl", "a.json", "a.csv", "a.tsv", "a.ndjson")
    for seed in range(seeds):
        chance = random.Random(seed)
        pieces = [any_line(chance)[:2_000] for _ in range(chance.randrange(1, 5))]
        marks = [b"\n", b"\r", b"\r\n", b",", b";", b"\xef\xbb\xbf", b"[", b"]", b"{", b"", b"sep=;\n"]
        data = b"".join(chance.choice(marks) + piece + chance.choice(marks) for piece in pieces)
        if chance.random() < 0.2:
            data = data.decode("utf-8", "replace").encode(chance.choice(["utf-16", "utf-16-le", "utf-32", "utf-8-sig"]))
        path = tmp_path / chance.choice(names)
        path.write_bytes(data)
        try:
            numbers = [number for _, number, _ in placed_rows(path)]
        except UnreadableFileError as error:
            assert path.name in str(error) and str(error).endswith("."), (seed, data)
        else:
            assert numbers == sorted(set(numbers)), (seed, data)
        path.unlink()
