"""Compressed files, and zip and tar archives of text files."""

import bz2
import gzip
import io
import lzma
import tarfile
import tracemalloc
import zipfile
import zlib

import orjson
import pytest
import zstandard

from deita_core.errors import InputError, UnreadableFileError
from deita_core.reading.pool import Sample, placed_rows, read_pool, stream_file


def row(n, answer="Yes."):
    return {"instruction": f"Question {n}?", "output": answer, "n": n}


def lines(rows):
    return b"".join(orjson.dumps(r) + b"\n" for r in rows)


PACKERS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}
MEMBERS = {
    "a/one.jsonl": lines([row(1), {"text": "no"}]),
    "a/two.json": orjson.dumps([row(2), row(3)]),
    "three.csv": b"instruction,output,n\nq,a,4\n",
    "four.jsonl.gz": gzip.compress(lines([row(5)])),
    "README.md": b"# no data",
    ".hidden/x.jsonl": lines([row(6)]),
    "__MACOSX/._one.jsonl": b"\0\5\x16\7",
    "dataset_info.json": b"{}",
}
EXPECTED = [("a/one.jsonl", 1, 1), ("a/one.jsonl", 2, None), ("a/two.json", 1, 2), ("a/two.json", 2, 3)]
EXPECTED += [("three.csv", 2, "4"), ("four.jsonl.gz", 1, 5)]


def zipped(members, compression=zipfile.ZIP_DEFLATED):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return sink.getvalue()


def tarred(members, format=tarfile.PAX_FORMAT):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=format) as archive:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
        folder = tarfile.TarInfo("folder.jsonl")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    return sink.getvalue()


ARCHIVES = {
    "a.zip": zipped(MEMBERS),
    "stored.ZIP": zipped(MEMBERS, zipfile.ZIP_STORED),
    "bzip2.zip": zipped(MEMBERS, zipfile.ZIP_BZIP2),
    "lzma.zip": zipped(MEMBERS, zipfile.ZIP_LZMA),
    "a.tgz": gzip.compress(tarred(MEMBERS)),
    "a.tbz2": bz2.compress(tarred(MEMBERS)),
    "a.txz": lzma.compress(tarred(MEMBERS)),
    "gnu.tar": tarred(MEMBERS, tarfile.GNU_FORMAT),
    **{f"a.tar{ending}": pack(tarred(MEMBERS)) for ending, pack in PACKERS.items()},
}


def placed(path):
    found = []
    for place, _, r in placed_rows(path):
        file, _, member = place.partition("!/")
        assert file == path.as_posix()
        found.append((member, r.line, orjson.loads(r.fields)["n"] if isinstance(r, Sample) else None))
    return found


@pytest.mark.parametrize("name", ARCHIVES)
def test_the_text_files_of_an_archive_are_read_in_order(tmp_path, name):
    (tmp_path / name).write_bytes(ARCHIVES[name])
    assert placed(tmp_path / name) == EXPECTED
    numbers = [number for _, number, _ in placed_rows(tmp_path / name)]
    assert numbers == sorted(set(numbers))
    assert len(list(tmp_path.iterdir())) == 1


def test_the_rows_of_a_pool_say_where_in_the_archive_they_stand(tmp_path):
    (tmp_path / "a.zip").write_bytes(ARCHIVES["a.zip"])
    samples, rejects = read_pool(tmp_path)
    assert samples["sources"][2].to_list() == [{"file": f"{tmp_path.as_posix()}/a.zip!/a/two.json", "line": 2}]
    assert rejects.select("file", "line").rows() == [(f"{tmp_path.as_posix()}/a.zip!/a/one.jsonl", 2)]


def test_shards_of_one_row_a_file_are_read_row_by_row(tmp_path):
    shard = {
        f"{n:06}.{kind}": orjson.dumps(row(n)) if kind == "json" else b"x"
        for n in range(300)
        for kind in ("jpg", "json")
    }
    (tmp_path / "a.tar").write_bytes(tarred(shard))
    assert placed(tmp_path / "a.tar") == [(f"{n:06}.json", 1, n) for n in range(300)]


def test_the_limit_counts_over_the_files_of_an_archive(tmp_path):
    (tmp_path / "a.tar").write_bytes(tarred(MEMBERS))
    assert [len(list(stream_file(tmp_path / "a.tar", limit=n))) for n in (1, 3, 6, 99)] == [1, 3, 6, 6]


def test_an_encrypted_file_and_a_table_in_an_archive_are_one_reject_each(tmp_path):
    data = bytearray(
        zipped({"b.jsonl": lines([row(1)]), "c.jsonl": lines([row(2)]), "d.parquet": b"PAR1", "e.zip": b""})
    )
    for begin in (data.index(b"PK\3\4") + 6, data.index(b"PK\1\2") + 8):
        data[begin] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    rows = [
        (r.line, "ok" if isinstance(r, Sample) else r.reason, getattr(r, "detail", ""))
        for r in stream_file(tmp_path / "a.zip")
    ]
    assert [r[:2] for r in rows] == [
        (1, "broken_compression"),
        (1, "ok"),
        (1, "unsupported_content"),
        (1, "unsupported_content"),
    ]
    assert "encrypted" in rows[0][2] and "unpack" in rows[2][2]


def test_a_member_that_is_no_text_is_one_reject_and_the_next_is_read(tmp_path):
    (tmp_path / "a.tar").write_bytes(
        tarred({"a.csv": b"x,x\n1,2\n", "b.jsonl": b"\0\0\0\0", "c.jsonl": lines([row(1)])})
    )
    found = list(stream_file(tmp_path / "a.tar"))
    assert [getattr(r, "reason", "ok") for r in found] == ["unsupported_content", "unsupported_content", "ok"]
    assert "two columns named 'x'" in found[0].detail


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.zst", "a.zip"])
def test_an_archive_cut_anywhere_says_so(tmp_path, name):
    path = tmp_path / name
    whole = ARCHIVES[name]
    for cut in range(0, len(whole) - 1025 if name == "a.tar" else len(whole), 97):
        path.write_bytes(whole[:cut])
        try:
            rows = list(stream_file(path))
        except UnreadableFileError as error:
            assert name in str(error)
        else:
            assert rows[-1].reason == "broken_compression"


def test_a_damaged_header_ends_a_tar_with_a_reject_not_in_silence(tmp_path):
    data = bytearray(tarred({f"{n}.jsonl": lines([row(n)]) for n in range(4)}))
    data[2 * 1024 + 10] ^= 0xFF
    (tmp_path / "a.tar").write_bytes(data)
    found = list(stream_file(tmp_path / "a.tar"))
    assert [getattr(r, "reason", "ok") for r in found] == ["ok", "ok", "broken_compression"]
    assert "header" in found[-1].detail


def test_joined_tars_are_read_to_the_end(tmp_path):
    (tmp_path / "a.tar").write_bytes(tarred({"a.jsonl": lines([row(1)])}) + tarred({"b.jsonl": lines([row(2)])}))
    assert placed(tmp_path / "a.tar") == [("a.jsonl", 1, 1), ("b.jsonl", 1, 2)]


def test_a_header_of_gigabytes_is_not_held(tmp_path):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 8 << 30
    good = tarred({"a.jsonl": lines([row(1)])})[:1024]
    (tmp_path / "a.tar").write_bytes(good + header.tobuf(tarfile.GNU_FORMAT) + bytes(10_000))
    found = list(stream_file(tmp_path / "a.tar"))
    assert [getattr(r, "reason", "ok") for r in found] == ["ok", "broken_compression"]


@pytest.mark.parametrize(
    "name", ["a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.xz", "a.jsonl.zst", "a.zip", "a.tar.gz", "a.tar.xz"]
)
def test_a_bomb_is_not_held_in_memory(tmp_path, name, monkeypatch):
    """A line of 100 MB of one character."""
    monkeypatch.setattr("deita_core.reading.lines.MAX_LINE", 4 << 20)
    bomb = lines([row(1)]) + b'"' + b"x" * (100 << 20) + b'"\n' + lines([row(2)])
    if name == "a.zip":
        data = zipped({"a.jsonl": bomb})
    elif ".tar" in name:
        data = PACKERS["." + name.rpartition(".")[2]](tarred({"a.jsonl": bomb}))
    else:
        data = PACKERS["." + name.rpartition(".")[2]](bomb)
    assert len(data) < 1 << 20
    (tmp_path / name).write_bytes(data)
    del bomb, data
    tracemalloc.start()
    found = [getattr(r, "reason", "ok") for r in stream_file(tmp_path / name)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == ["ok", "too_large", "ok"]
    # Two copies of the longest line that is read, and a piece of a compressed file.
    assert peak < 80 << 20


def test_an_xz_file_that_asks_for_gigabytes_is_refused(tmp_path):
    packed = lzma.compress(lines([row(1)]), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}])
    # The size of the dictionary in the block's header, and the header's sum.
    place = packed.index(b"\x21\x01")
    data = bytearray(packed)
    data[place + 2] = 40
    data[20:24] = zlib.crc32(bytes(data[12:20])).to_bytes(4, "little")
    (tmp_path / "a.jsonl.xz").write_bytes(data)
    with pytest.raises(InputError, match="broken_compression"):
        list(stream_file(tmp_path / "a.jsonl.xz"))


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_several_frames_and_zeros_at_the_end_are_one_file(tmp_path, ending):
    pack = PACKERS[ending]
    (tmp_path / f"a.jsonl{ending}").write_bytes(pack(lines([row(1)])) + pack(lines([row(2)])) + bytes(8))
    assert [r.line for r in stream_file(tmp_path / f"a.jsonl{ending}")] == [1, 2]


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_a_compressed_file_cut_anywhere_says_so(tmp_path, ending):
    whole = PACKERS[ending](lines(row(n) for n in range(50)))
    for cut in range(1, len(whole), 7):
        (tmp_path / f"a.jsonl{ending}").write_bytes(whole[:cut])
        try:
            rows = list(stream_file(tmp_path / f"a.jsonl{ending}"))
        except UnreadableFileError as error:
            assert "broken_compression" in str(error)
        else:
            assert rows[-1].reason == "broken_compression"
