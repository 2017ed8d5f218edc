"""Damaged tables: named in one sentence whatever is asked of them, found by examining, and repaired."""

import pickle
import random
import shutil
from pathlib import Path

import numpy as np
import obstore
import polars as pl
import pyarrow as pa
import pytest

from deita_core.errors import StoreError, StoreUnavailableError
from deita_core.stages.repair import FOREIGN, check, examine, repair
from deita_core.store import Store, compaction
from deita_core.store.damage import DamagedTableError, is_of_libraries, surroundings
from deita_core.store.remote import open_objects
from deita_core.tables import InvalidTableError, scores_table, vectors_table
from tests.support.remote_server import s3_server

SCORES = scores_table("quality-1")
VECTORS = vectors_table("tiny-1", 8)
FOLDER = f"{SCORES.name}.lance"


def ids(start, end):
    return [f"{number:032x}" for number in range(start, end)]


def scores(start, end):
    return pl.DataFrame([(id_, 0, 2.5, "ok") for id_ in ids(start, end)], schema=SCORES.empty().schema, orient="row")


def vectors(start, end):
    rows = {"text_id": ids(start, end), "n_tokens": [5] * (end - start)}
    rows["vector"] = np.tile(np.eye(8, dtype=np.float32)[3], (end - start, 1))
    return pl.DataFrame(rows, schema=VECTORS.empty().schema)


def fill(store):
    """Five versions of scores with 300 rows, of which one is deleted at last, and one table more."""
    for start in (0, 100, 200):
        store.write(SCORES, scores(start, start + 100))
    store.delete(SCORES, f"id = '{ids(5, 6)[0]}'")
    store.write(VECTORS, vectors(0, 50))
    return store


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    return fill(Store(tmp_path_factory.mktemp("filled") / "store"))


@pytest.fixture
def store(filled, tmp_path):
    """A copy of its own of the filled store."""
    shutil.copytree(filled.side, tmp_path / "store")
    return Store(tmp_path / "store")


def manifests(store):
    """A table's manifests, the newest first."""
    return sorted((store.side / FOLDER / "_versions").glob("*.manifest"))


def data(store):
    """A table's files of rows, the newest first."""
    files = (store.side / FOLDER / "data").iterdir()
    return sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def empty(*paths):
    for path in paths:
        path.write_bytes(b"")


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scramble(path):
    path.write_bytes(random.Random(0).randbytes(path.stat().st_size))


# What is done to the store, the version it can go back to and that one's rows.
DAMAGE = {
    "newest manifest empty": (lambda s: empty(manifests(s)[0]), 4, 300),
    "newest manifest cut": (lambda s: halve(manifests(s)[0]), 4, 300),
    "newest manifest scrambled": (lambda s: scramble(manifests(s)[0]), 4, 300),
    "two newest manifests empty": (lambda s: empty(*manifests(s)[:2]), 3, 200),
    "list of deletions empty": (lambda s: empty(*(s.side / FOLDER / "_deletions").iterdir()), 4, 300),
    "list of deletions gone": (lambda s: [f.unlink() for f in (s.side / FOLDER / "_deletions").iterdir()], 4, 300),
    "newest rows empty": (lambda s: empty(data(s)[0]), 3, 200),
    "newest rows cut": (lambda s: halve(data(s)[0]), 3, 200),
    "newest rows gone": (lambda s: data(s)[0].unlink(), 3, 200),
    "all manifests empty": (lambda s: empty(*manifests(s)), None, 0),
    "all manifests gone": (lambda s: [manifest.unlink() for manifest in manifests(s)], None, 0),
    "oldest rows gone": (lambda s: data(s)[-1].unlink(), 1, 0),
}
USES = {
    "read": lambda store: store.read(SCORES),
    "read some": lambda store: store.read(SCORES, where="turn = 0"),
    "fetch": lambda store: store.fetch(SCORES, "id", ids(0, 3)),
    "scan": lambda store: store.fetch(SCORES, "id", ids(0, 900), ["id"]),
    "take": lambda store: store.take(SCORES, store.row_ids(SCORES, "id"), ["id"]),
    "missing": lambda store: store.missing(SCORES, pl.Series(ids(0, 3))),
    "write": lambda store: store.write(SCORES, scores(900, 910)),
    "delete": lambda store: store.delete(SCORES, "score < 3"),
    "compact": lambda store: store.compact(),
    "purge": lambda store: store.compact(purge=True),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_table_is_named_in_one_sentence_whatever_is_asked_of_it(store, kind, use, monkeypatch):
    monkeypatch.setattr(compaction, "COMMITS", 0)
    DAMAGE[kind][0](store)
    with pytest.raises(DamagedTableError) as found:
        USES[use](Store(store.uri))
    said = str(found.value)
    assert said.startswith(f"Table {SCORES.name} of {store.uri} is damaged (")
    assert f"run deita doctor --store {store.uri} --repair" in said
    assert "\n" not in said and ".rs:" not in said and "LanceError" not in said
    assert pickle.loads(pickle.dumps(found.value)).reason == found.value.reason


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_repair_goes_back_to_the_newest_whole_version_and_deletes_nothing(store, kind, monkeypatch):
    damage, number, rows = DAMAGE[kind]
    damage(store)
    before = sorted(path.name for path in store.side.rglob("*") if path.is_file())
    whole, damaged = sorted(examine(Store(store.uri)), key=lambda health: health.name, reverse=True)
    assert (whole.name, whole.trouble, whole.can_be_repaired) == (VECTORS.name, None, False)
    assert damaged.trouble and damaged.can_be_repaired
    assert (damaged.newest_valid.number if damaged.newest_valid else None) == number
    assert sorted(path.name for path in store.side.rglob("*") if path.is_file()) == before
    with Store(store.uri).lock("test"):
        repair(Store(store.uri), [damaged])
    assert {path.name for path in store.side.rglob("*") if path.is_file()} >= {*before} - {"latest_version_hint.json"}
    repaired = Store(store.uri)
    assert [health.trouble for health in examine(repaired)] == [None] * (1 if number is None else 2)
    assert repaired.count(SCORES) == rows
    assert len(repaired.read(SCORES)) == rows
    assert repaired.write(SCORES, scores(0, 310)) == 310 - rows
    monkeypatch.setattr(compaction, "COMMITS", 0)
    repaired.compact()
    repaired.compact(purge=True)
    assert not (repaired.side / "damaged").exists(), "a purge has left what may hold removed texts"
    assert len(Store(store.uri).read(SCORES)) == 310


def test_what_would_be_lost_is_counted_where_the_damaged_version_can_still_be_counted(store):
    data(store)[0].unlink()
    [found] = [health for health in examine(store) if health.trouble]
    assert "from version 5 to 3, which has 200 rows, and lose 99 rows: the next run scores them again" in found.loss


def test_a_damaged_earlier_version_hinders_nothing_but_compacting_and_is_put_aside_without_loss(store):
    empty(manifests(store)[2])
    assert len(Store(store.uri).read(SCORES)) == 299
    [found] = [health for health in examine(store) if health.can_be_repaired]
    assert (found.trouble, [version.number for version in found.broken]) == (None, [3])
    assert "without loss" in found.loss
    repair(store, [found])
    assert not any(health.can_be_repaired for health in examine(Store(store.uri)))
    assert len(Store(store.uri).read(SCORES)) == 299


def test_damaged_transactions_hinder_nothing(store):
    empty(*(store.side / FOLDER / "_transactions").iterdir())
    assert not any(health.can_be_repaired for health in examine(store))
    assert Store(store.uri).write(SCORES, scores(900, 910)) == 10


def test_rows_that_no_run_has_written_are_damage(store):
    import lancedb

    lancedb.connect(store.side).open_table(SCORES.name).add(scores(7, 9))
    assert check(Store(store.uri), SCORES.name)[1] == "4 of its rows have the key of another"
    lancedb.connect(store.side).open_table(SCORES.name).add(scores(400, 401).with_columns(score=pl.lit(77.0)))
    assert "refused" in check(Store(store.uri), SCORES.name)[1]
    [found] = [health for health in examine(store) if health.trouble]
    assert (found.newest_valid.number, found.newest_valid.rows) == (5, 299)


def test_a_table_of_another_program_is_left_to_it(store):
    import lancedb

    lancedb.connect(store.side).create_table("samples", data=pl.DataFrame({"a": [1]}).to_arrow())
    [found] = [health for health in examine(store) if health.trouble]
    assert (found.trouble, found.can_be_repaired) == (FOREIGN, False)


@pytest.mark.parametrize("seed", range(40))
def test_any_damage_to_any_file_is_no_other_error_than_one_in_a_sentence_and_is_repaired(store, seed):
    chance = random.Random(seed)
    file = chance.choice(sorted(path for path in store.side.rglob("*.lance/*/*") if path.is_file()))
    content = bytearray(file.read_bytes())
    for _ in range(chance.choice([1, 3, 20])):
        content[chance.randrange(len(content))] = chance.randrange(256)
    place = chance.randrange(len(content))
    file.write_bytes(chance.choice([content, content[:place], content[:place] + bytes(200) + content[place + 200 :]]))
    for table, use in ((t, u) for t in (SCORES, VECTORS) for u in (Store.count, Store.read)):
        try:
            found = use(Store(store.uri), table)
            if isinstance(found, pl.DataFrame):
                table.validate(found)
        except (StoreError, InvalidTableError) as error:
            assert "\n" not in str(error)
    repair(store, [health for health in examine(Store(store.uri)) if health.can_be_repaired])
    assert not any(health.can_be_repaired for health in examine(Store(store.uri)))
    Store(store.uri).write(SCORES, scores(0, 300))
    assert Store(store.uri).count(SCORES) == 300


# -- what is no damage


BASES = (pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException)
FOUND = [kind for module in (pa.lib, pl.exceptions) for kind in vars(module).values() if isinstance(kind, type)]
CLASSES = sorted({kind for kind in FOUND if issubclass(kind, BASES)}, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, *CLASSES], ids=lambda kind: kind.__name__)
def test_whatever_class_of_theirs_is_raised_over_a_damaged_table_the_table_is_named(store, kind):
    empty(manifests(store)[0])

    def fail():
        raise kind("something in a library")

    expected = StoreUnavailableError if issubclass(kind, MemoryError) else DamagedTableError
    with pytest.raises(expected, match=f"Table {SCORES.name} of "):
        Store(store.uri)._using(SCORES.name, fail)


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, TypeError, KeyError, *CLASSES], ids=lambda k: k.__name__)
def test_over_a_whole_table_a_defect_of_the_program_stays_what_it_is(store, kind):
    def fail():
        raise kind("a defect")

    expected = StoreUnavailableError if issubclass(kind, MemoryError) else kind
    with pytest.raises(expected):
        store._using(SCORES.name, fail)


def test_a_condition_that_cannot_be_read_is_no_damage(store):
    for where in ("nothing = 3", "turn = = 3", "turn = 'abc'"):
        with pytest.raises(ValueError, match="Invalid input"):
            store.read(SCORES, where=where)


def test_what_was_replaced_while_it_was_read_is_read_again(store):
    tries = []

    def read():
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("lance error: Not found: data/0101.lance, /lance-io-13.0.0/src/local.rs:273:40")
        return 7

    assert store._using(SCORES.name, read) == 7


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("lance error: LanceError(IO): No space left on device (os error 28), /a/w.rs:258:9", StoreUnavailableError),
        ("lance error: LanceError(IO): Unable to walk dir: Too many open files (os error 24)", StoreUnavailableError),
        ("lance error: LanceError(IO): Input/output error (os error 5)", StoreUnavailableError),
        ("lance error: LanceError(IO): Generic S3 error: GET http://x: timed out", StoreUnavailableError),
        ("lance error: LanceError(IO): Permission denied (os error 13)", StoreError),
        ("lance error: LanceError(IO): Read-only file system (os error 30)", StoreError),
    ],
)  # fmt: skip
def test_what_the_surroundings_do_is_told_apart_and_only_what_may_pass_is_tried_again(said, kind):
    found = surroundings("Table samples of s", RuntimeError(said))
    assert type(found) is kind
    assert str(found).startswith("Table samples of s cannot be used") and "LanceError" not in str(found)
    assert surroundings("Table samples of s", RuntimeError("file size is too small")) is None
    assert not is_of_libraries(OSError(28, "No space left on device"))


# -- on object storage


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["manifest", "rows", "all"])
def test_a_store_on_object_storage_is_examined_and_repaired_as_one_in_a_folder(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("DEITA_CACHE", str(tmp_path / "cache"))
    with s3_server("pool") as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        store = fill(Store(f"s3://pool/{kind}"))
        objects = open_objects(store.uri)
        listed = sorted(obstore.list(objects, prefix=f"{FOLDER}/").collect(), key=lambda file: file["last_modified"])
        versions = sorted(file["path"] for file in listed if file["path"].endswith(".manifest"))
        rows = [file["path"] for file in listed if "/data/" in file["path"]]
        for path in {"manifest": versions[:1], "rows": rows, "all": versions}[kind]:
            obstore.put(objects, path, b"")
        with pytest.raises(DamagedTableError, match=f"Table {SCORES.name} of {store.uri} is damaged"):
            Store(store.uri).read(SCORES)
        with Store(store.uri).lock("test"):
            repair(Store(store.uri), [health for health in examine(Store(store.uri)) if health.can_be_repaired])
        left = {"manifest": 300, "rows": 0, "all": 0}[kind]
        assert len(Store(store.uri).read(SCORES)) == left
        assert Store(store.uri).write(SCORES, scores(0, 310)) == 310 - left
        assert not any(health.can_be_repaired for health in examine(Store(store.uri)))


def test_paths_stand_in_the_sentence_as_they_were_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = fill(Store("my store"))
    empty(manifests(store)[0])
    with pytest.raises(DamagedTableError, match="of my store is damaged"):
        Store("my store").read(SCORES)
    assert [health.name for health in examine(Store(Path("my store"))) if health.trouble] == [SCORES.name]
