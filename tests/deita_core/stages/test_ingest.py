"""Reading files into a store: what a file of a folder that cannot be read costs, and files read together."""

import zipfile
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deita_core.errors import InputError, StoreError, UnreadableFileError
from deita_core.stages import ingest
from deita_core.stages.ingest import (
    PoolFile,
    check_readable,
    describe_file,
    describe_pool,
    groups,
    ingest_file,
    ingest_files,
    only_stored,
    pool_files,
    record,
    recorded,
    recounted,
)
from deita_core.store import Store
from deita_core.tables import REJECTS, SAMPLES, SOURCES


def row(n, answer="Yes."):
    return {"instruction": f"Question {n}?", "output": answer}


def lines(rows):
    return b"".join(orjson.dumps(r) + b"\n" for r in rows)


@pytest.fixture
def pool(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pool").mkdir()
    return tmp_path / "pool"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def described(*names, own=(), leave_out=()):
    return describe_pool(pool_files([str(name) for name in names], own, leave_out))


def test_files_read_together_give_the_rows_of_files_read_alone(pool, tmp_path):
    for n in range(30):
        (pool / f"{n:02}.jsonl").write_bytes(lines([row(n), row(n % 7), {"text": "no"}]))
    files = described("pool").files
    together, alone = Store(tmp_path / "together"), Store(tmp_path / "alone")
    counts = ingest_files(together, files)
    assert counts == [ingest_file(alone, file) for file in files]
    assert [(c.rows, c.samples, c.rejects) for c in counts] == [(3, 2, 1)] * 30
    for table in (SAMPLES, SOURCES, REJECTS):
        first, second = (store.read(table).sort(table.key) for store in (together, alone))
        assert first.equals(second) and len(first) == {"samples": 30, "sources": 60, "rejects": 30}[table.name]


def test_a_group_is_a_few_commits_not_three_a_file(pool, store, monkeypatch):
    for n in range(50):
        (pool / f"{n:02}.jsonl").write_bytes(lines([row(n)]))
    written = []
    write = Store.write

    def counted(self, table, frame):
        written.append(table.name)
        return write(self, table, frame)

    monkeypatch.setattr(Store, "write", counted)
    ingest_files(store, described("pool").files)
    assert written == ["samples", "rejects", "sources"]


def test_a_large_file_is_written_in_several_batches(pool, store, monkeypatch):
    monkeypatch.setattr(ingest, "BATCH_ROWS", 10)
    (pool / "a.jsonl").write_bytes(lines(row(n) for n in range(35)))
    (pool / "b.jsonl").write_bytes(lines(row(n) for n in range(7)))
    assert [c.samples for c in ingest_files(store, described("pool").files)] == [35, 7]
    assert store.count(SOURCES) == 42 and store.count(SAMPLES) == 35


def test_a_batch_that_cannot_be_written_fails_the_reading(pool, store, monkeypatch):
    monkeypatch.setattr(ingest, "BATCH_ROWS", 10)
    (pool / "a.jsonl").write_bytes(lines(row(n) for n in range(35)))
    ingest_files(store, described("pool").files)
    for path in Path(store.uri).glob("sources.lance/_versions/*"):
        path.write_bytes(b"no manifest")
    (pool / "a.jsonl").write_bytes(lines(row(n) for n in range(45)))
    with pytest.raises(StoreError, match="sources"):
        ingest_files(Store(store.uri), described("pool").files)


def test_a_file_that_changes_while_it_is_read_leaves_no_row_of_earlier_batches(pool, store, monkeypatch):
    monkeypatch.setattr(ingest, "BATCH_ROWS", 10)
    (pool / "a.jsonl").write_bytes(lines(row(n) for n in range(35)))
    files = described("pool").files
    (pool / "a.jsonl").write_bytes(lines(row(n) for n in range(34)))
    with pytest.raises(InputError, match="has changed while it was read"):
        ingest_files(store, files)
    assert store.count(SAMPLES) == 30 and store.count(SOURCES) == 0


def test_a_file_that_changes_while_its_group_is_read_leaves_no_row(pool, store):
    for name in "abc":
        (pool / f"{name}.jsonl").write_bytes(lines([row(name)]))
    files = described("pool").files
    (pool / "b.jsonl").write_bytes(lines([row("other")]))
    with pytest.raises(InputError, match=r"b\.jsonl has changed while it was read"):
        ingest_files(store, files)
    assert files[1].id not in store.read(SOURCES)["file_id"].to_list()
    assert [c.samples for c in ingest_files(store, described("pool").files)] == [1, 1, 1]


def test_what_was_noted_is_not_read_again_and_what_is_lost_is(pool, store):
    for name in "abc":
        (pool / f"{name}.jsonl").write_bytes(lines([row(name), {"text": "no"}]))
    files = described("pool").files
    counts = ingest_files(store, files[:2])
    record(store, counts)
    assert recorded(store, files) == {count.file_id: count for count in counts}
    store.delete(SOURCES, f"file_id = '{files[0].id}'")
    assert list(recorded(store, files)) == [files[1].id]
    store.delete(SAMPLES, "true")
    assert recorded(store, files) == {} and recounted(store, counts) == [None, None]


def test_a_record_of_another_version_is_passed_over(pool, store):
    (pool / "a.jsonl").write_bytes(lines([row(1)]))
    files = described("pool").files
    record(store, ingest_files(store, files))
    (store.side / "results" / "read-old.json").write_text('[{"path": "a.jsonl"}]')
    assert list(recorded(store, files)) == [files[0].id]


def test_groups_are_bounded_by_files_and_bytes(monkeypatch):
    files = [PoolFile(file=f"{n}", content="0" * 32, size=10) for n in range(7)]
    monkeypatch.setattr(ingest, "TOGETHER", 3)
    assert [len(group) for group in groups(files)] == [3, 3, 1]
    monkeypatch.setattr(ingest, "BATCH_CHARS", 15)
    assert [len(group) for group in groups(files)] == [2, 2, 2, 1]


def unreadable_files(folder):
    """Files that cannot be a pool, by the words of their warnings."""
    pq.write_table(pa.table({"instruction": pa.array([], pa.string())}), folder / "empty.parquet")
    (folder / "empty.jsonl").write_bytes(b"")
    (folder / "other.json").write_text('{"file_name": "x"}')
    (folder / "broken.parquet").write_bytes(b"PAR1 noise")
    (folder / "broken.zip").write_bytes(b"no archive")
    return {
        "empty.parquet": "is empty",
        "empty.jsonl": "is empty",
        "other.json": "Not one of the 1 rows",
        "broken.parquet": "not a whole Parquet file",
        "broken.zip": "not a whole zip archive",
    }


def test_a_file_of_a_folder_that_cannot_be_read_is_set_aside_and_its_rejects_stay(pool, store):
    (pool / "good.jsonl").write_bytes(lines([row(1)]))
    told = unreadable_files(pool)
    files = described("pool").files
    for file, count in zip(files, ingest_files(store, files), strict=True):
        name = Path(file.file).name
        assert (told.get(name, "") in count.set_aside) and (bool(count.set_aside) == (name in told))
        assert (count.samples, count.rejects) == (int(name == "good.jsonl"), int(name == "other.json"))
        check_readable(file, count)
    assert store.read(REJECTS)["file"].to_list() == ["pool/other.json"]


def test_the_same_file_named_by_itself_is_an_error(pool, store):
    for name, words in unreadable_files(pool).items():
        for found in (described(pool / name), describe_pool(pool_files([f"{pool}/{name[:-2]}*"]))):
            [file] = found.files
            assert file.named
            with pytest.raises(UnreadableFileError, match=words):
                ingest_file(store, file)


def test_a_row_in_an_archive_leads_back_to_its_file_and_line(pool, store):
    with zipfile.ZipFile(pool / "a.zip", "w") as archive:
        archive.writestr("x/one.jsonl", lines([row(1), {"text": "no"}, row(2)]))
        archive.writestr("two.jsonl", b"\n" + lines([row(3), row(1)]))
    [file] = described("pool").files
    assert ingest_file(store, file).rows == 5
    sources = store.read(SOURCES).sort("key")
    assert sources.select("file", "line").rows() == [
        ("pool/a.zip!/x/one.jsonl", 1),
        ("pool/a.zip!/x/one.jsonl", 3),
        ("pool/a.zip!/two.jsonl", 2),
        ("pool/a.zip!/two.jsonl", 3),
    ]
    assert set(sources["file_id"]) == {file.id}
    assert store.read(REJECTS).select("file", "line").rows() == [("pool/a.zip!/x/one.jsonl", 2)]
    with zipfile.ZipFile(pool / "a.zip", "a") as archive:
        archive.writestr("three.jsonl", lines([row(4)]))
    assert described("pool").files[0].id != file.id


def test_files_left_out_are_no_longer_of_the_pool_but_those_gone_are(pool, store):
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        (pool / name).write_bytes(lines([row(name)]))
    before = ingest_files(store, described("pool").files)
    (pool / "c.jsonl").unlink()
    found = described("pool", leave_out=["b.*"])
    assert [file.file for file in found.files] == ["pool/a.jsonl"] and found.left_out == ["pool/b.jsonl"]
    assert [file.file for file in only_stored(before, found.files, found.left_out)] == ["pool/c.jsonl"]


def test_own_folders_are_not_of_the_pool_nor_told_about(pool):
    (pool / "a.jsonl").write_bytes(lines([row(1)]))
    (pool / "out").mkdir()
    (pool / "out" / "manifest.json").write_text("{}")
    (pool / "out" / "state.json").write_text("{}")
    found = described("pool", own=[str(pool / "out")])
    assert [file.file for file in found.files] == ["pool/a.jsonl"] and found.warnings == []
    (pool / "a.jsonl").unlink()
    with pytest.raises(InputError, match="nothing but this program's own files"):
        pool_files([str(pool)], [str(pool / "out")])


def test_a_file_described_by_its_name_counts_as_named(pool):
    (pool / "a.jsonl").write_bytes(lines([row(1)]))
    assert describe_file(str(pool / "a.jsonl")).named and not described(pool).files[0].named
