import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import lancedb
import numpy as np
import polars as pl
import pytest

from deita_core.errors import DeitaError, InputError, StoreError
from deita_core.store import Store, compaction
from deita_core.store.store import JOIN_ABOVE, ROW
from deita_core.tables import SAMPLES, SOURCES, InvalidTableError, scores_table, vectors_table
from tests.support.paths import ROOT

SCORES = scores_table("quality-1")
VECTORS = vectors_table("minilm-1", 3)


def id_of(number):
    return f"{number:032x}"


def ids_of(numbers):
    return [id_of(number) for number in numbers]


def scores(numbers, turns=1, score=2.5):
    rows = [(id_of(number), turn, score, "ok") for number in numbers for turn in range(turns)]
    return pl.DataFrame(rows, schema=SCORES.empty().schema, orient="row")


def vectors(by_number):
    rows = {
        "text_id": ids_of(by_number),
        "n_tokens": [5] * len(by_number),
        "vector": np.array(list(by_number.values()), np.float32),
    }
    return pl.DataFrame(rows, schema=VECTORS.empty().schema)


def rows_of(frame):
    return sorted(frame.rows())


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def python(code, *arguments):
    """Another Python process that runs `code`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=environment)


# -- an empty store


def test_a_store_that_is_not_there_reads_as_empty_and_is_not_made_by_reading(store):
    assert store.tables() == []
    assert store.versions() == {}
    assert store.count(SCORES) == 0
    assert store.read(SCORES).equals(SCORES.empty())
    assert store.fetch(SCORES, "id", ids_of([1, 2]), ["score"]).equals(SCORES.empty().select("score"))
    assert store.missing(SCORES, pl.Series(ids_of([2, 1]))).to_list() == ids_of([2, 1])
    assert not store.side.exists()


def test_deleting_from_a_table_that_is_not_there_does_nothing(store):
    store.delete(SCORES, "turn = 0")
    assert store.tables() == []


@pytest.mark.parametrize("uri", ["http://host/store", "db://pool", "memory://", "s3://"])
def test_a_store_that_is_neither_a_folder_nor_on_object_storage_is_bad_usage(uri):
    with pytest.raises(
        InputError, match=f"^The store {uri} is neither a folder nor on object storage; give a folder, s3"
    ):
        Store(uri)


def test_a_file_in_place_of_the_store_is_an_error_in_words(tmp_path):
    (tmp_path / "store").write_text("something else")
    with pytest.raises(DeitaError), Store(tmp_path / "store").lock("a run"):
        pass
    with pytest.raises(DeitaError):
        Store(tmp_path / "store").count(SCORES)


def test_a_table_that_something_else_wrote_is_an_error_in_words(store):
    lancedb.connect(store.uri).create_table(SCORES.name, pl.DataFrame({"a": [1]}).to_arrow())
    with pytest.raises(StoreError, match=SCORES.name):
        store.read(SCORES)
    with pytest.raises(StoreError, match=SCORES.name):
        store.write(SCORES, scores([1]))


# -- writing


def test_what_is_written_is_read_back(store):
    assert store.write(SCORES, scores([1, 2], turns=2)) == 4
    assert rows_of(store.read(SCORES)) == rows_of(scores([1, 2], turns=2))
    assert store.read(SCORES).schema == SCORES.empty().schema
    assert store.count(SCORES) == 4
    assert store.tables() == [SCORES.name]


def test_nested_rows_are_read_back_as_they_were(store):
    messages = [{"role": "user", "content": "Wie heißt\u2028du? 😀\x00"}, {"role": "assistant", "content": ""}]
    message_index = [{"role": "user", "text_id": id_of(7), "n_chars": 12, "blank": False}]
    row = {"id": id_of(1), "messages": messages, "message_index": message_index, "extra": '{"tools":[]}'}
    row |= {"multimodal": True, "n_turns": 1, "n_chars": 12}
    frame = pl.DataFrame([row], schema=SAMPLES.empty().schema)
    store.write(SAMPLES, frame)
    assert Store(store.uri).read(SAMPLES).equals(frame)


def test_writing_the_same_rows_again_changes_nothing(store):
    store.write(SCORES, scores([1, 2], turns=3))
    before = rows_of(store.read(SCORES))
    assert store.write(SCORES, scores([2, 1], turns=3)) == 0
    assert rows_of(store.read(SCORES)) == before


def test_only_rows_whose_key_is_new_are_added_and_no_row_ever_changes(store):
    store.write(SCORES, scores([1, 2], score=2.0))
    assert store.write(SCORES, scores([2, 3], turns=2, score=5.0)) == 3
    found = {(id_, turn): score for id_, turn, score, _ in store.read(SCORES).rows()}
    assert found == {
        (id_of(1), 0): 2.0,
        (id_of(2), 0): 2.0,
        (id_of(2), 1): 5.0,
        (id_of(3), 0): 5.0,
        (id_of(3), 1): 5.0,
    }


def test_a_key_is_never_stored_twice_even_if_one_frame_has_it_twice(store):
    twice = pl.concat([scores([1], score=2.0), scores([1], score=3.0), scores([2])])
    try:
        store.write(SCORES, twice)
    except InvalidTableError:
        assert store.count(SCORES) == 0
    else:
        assert sorted(store.read(SCORES)["id"]) == ids_of([1, 2])


def test_writing_no_rows_makes_no_table(store):
    assert store.write(SCORES, SCORES.empty()) == 0
    assert store.tables() == []


def test_nothing_of_a_refused_frame_is_ever_visible(store):
    bad = scores([1, 2, 3]).with_columns(score=pl.Series([2.0, 3.0, float("nan")]))
    with pytest.raises(InvalidTableError):
        store.write(SCORES, bad)
    assert store.tables() == []
    store.write(SCORES, scores([9]))
    versions = store.versions()
    with pytest.raises(InvalidTableError):
        store.write(SCORES, bad)
    assert store.versions() == versions
    assert store.read(SCORES)["id"].to_list() == [id_of(9)]


def test_a_write_is_one_commit(store):
    store.write(SCORES, scores([0]))
    for number in range(1, 4):
        before = store.versions()[SCORES.name]
        store.write(SCORES, scores(range(1_000 * number, 1_000 * number + 500)))
        assert store.versions()[SCORES.name] == before + 1


def counts_seen_during(store, frames):
    """How many rows a reader finds while the frames are written, one after the other."""
    begun, done, seen = Event(), Event(), set()

    def watch():
        reader = Store(store.uri)
        while not done.is_set():
            seen.add(reader.count(SCORES))
            begun.set()

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        begun.wait()
        try:
            for frame in frames:
                store.write(SCORES, frame)
        finally:
            done.set()
        watching.result()
    return seen


def test_a_reader_never_sees_half_a_write(store):
    store.write(SCORES, scores(range(2_000)))
    frames = [scores(range(start, start + 2_000)) for start in range(2_000, 20_000, 2_000)]
    assert {count % 2_000 for count in counts_seen_during(store, frames)} == {0}


def test_a_reader_sees_all_or_nothing_of_the_first_write(tmp_path):
    for trial in range(15):
        store = Store(tmp_path / str(trial))
        store.side.mkdir()
        assert counts_seen_during(store, [scores(range(1_000))]) <= {0, 1_000}


def test_rows_are_deleted_by_a_condition(store):
    store.write(SCORES, scores([1, 2], turns=2))
    store.delete(SCORES, f"id = '{id_of(1)}'")
    assert store.read(SCORES)["id"].unique().to_list() == [id_of(2)]
    assert store.write(SCORES, scores([1])) == 1


def test_replacing_rows_leaves_all_others(store):
    store.write(SCORES, scores([1, 2, 3], turns=2, score=2.0))
    store.replace(SCORES, "turn = 0", scores([2, 3, 4], score=5.0))
    kept = [(id_of(number), 1, 2.0, "ok") for number in (1, 2, 3)]
    assert rows_of(store.read(SCORES)) == sorted([*kept, *scores([2, 3, 4], score=5.0).rows()])
    store.replace(SCORES, "turn = 0", SCORES.empty())
    assert rows_of(store.read(SCORES)) == kept


def test_replacing_again_after_an_error_stores_nothing_twice(store):
    """An error may come after the rows have been inserted, as when an answer of object storage is lost."""
    store.write(SCORES, scores([1], turns=2))
    handle, added = store._handle(SCORES.name), []

    class Failing:
        def __getattr__(self, name):
            return getattr(handle, name)

        def add(self, rows):
            handle.add(rows)
            added.append(rows)
            if len(added) == 1:
                raise RuntimeError("commit conflict")

    store._open[SCORES.name] = Failing()
    store.replace(SCORES, "turn = 0", scores([2, 3]))
    assert len(added) == 2
    assert sorted(Store(store.uri).read(SCORES).select("id", "turn").rows()) == [
        (id_of(1), 1),
        (id_of(2), 0),
        (id_of(3), 0),
    ]


def test_replacing_checks_rows_and_stores_none_twice(store):
    store.replace(SCORES, "turn = 0", pl.concat([scores([1]), scores([1])]))
    assert store.count(SCORES) == 1
    with pytest.raises(InvalidTableError):
        store.replace(SCORES, "turn = 0", scores([2], score=float("nan")))
    assert store.count(SCORES) == 1


def test_each_write_is_seen_by_stores_opened_before(store):
    early = Store(store.uri)
    store.write(SCORES, scores([1]))
    assert early.count(SCORES) == 1
    early.write(SCORES, scores([2]))
    assert store.count(SCORES) == 2


# -- writers at once


def write_at_once(stores, frames):
    """Each store writes its frames, all starting at the same moment; raises what any of them raised."""
    start = Barrier(len(stores))

    def run(store, mine):
        start.wait()
        for frame in mine:
            store.write(SCORES, frame)

    with ThreadPoolExecutor(len(stores)) as pool:
        for running in [pool.submit(run, store, mine) for store, mine in zip(stores, frames, strict=True)]:
            running.result()


def test_the_first_shards_of_a_table_may_be_written_at_once(tmp_path):
    for trial in range(25):
        stores = [Store(tmp_path / str(trial)) for _ in range(2)]
        for store in stores:
            store.side.mkdir(exist_ok=True)
            assert store.tables() == []
        write_at_once(stores, [[scores([1])], [scores([2])]])
        assert sorted(store.read(SCORES)["id"]) == ids_of([1, 2])


def test_threads_that_write_other_rows_lose_none(store):
    store.write(SCORES, scores([0]))
    parts = [[scores(range(k, k + 10)) for k in range(start, start + 50, 10)] for start in (100, 200, 300)]
    write_at_once([Store(store.uri) for _ in parts], parts)
    expected = [0, *range(100, 150), *range(200, 250), *range(300, 350)]
    assert sorted(store.read(SCORES)["id"]) == ids_of(expected)


def test_threads_that_write_the_same_new_rows_make_no_duplicates(store):
    store.write(SCORES, scores([0]))
    same = [scores(range(k, k + 10)) for k in range(100, 300, 10)]
    write_at_once([Store(store.uri), Store(store.uri)], [same, same])
    assert sorted(store.read(SCORES)["id"]) == ids_of([0, *range(100, 300)])


@pytest.mark.slow
def test_processes_that_write_the_same_new_rows_make_no_duplicates(store):
    store.write(SCORES, scores([0]))
    code = """
        import sys, polars as pl
        from deita_core.store import Store
        from deita_core.tables import scores_table
        table, store = scores_table("quality-1"), Store(sys.argv[1])
        store.count(table)
        print("ready", flush=True)
        for start in map(int, sys.stdin):
            rows = [(f"{number:032x}", 0, 2.5, "ok") for number in range(start, start + 10)]
            store.write(table, pl.DataFrame(rows, schema=table.empty().schema, orient="row"))
            print("written", flush=True)
    """
    with python(code, store.uri) as other:
        assert other.stdout.readline() == "ready\n"
        for start in range(100, 300, 10):
            other.stdin.write(f"{start}\n")
            other.stdin.flush()
            store.write(SCORES, scores(range(start, start + 10)))
            assert other.stdout.readline() == "written\n"
        other.stdin.close()
    assert sorted(store.read(SCORES)["id"]) == ids_of([0, *range(100, 300)])


# -- reading


def test_columns_come_in_the_order_asked_for(store):
    store.write(SCORES, scores([1]))
    assert store.read(SCORES, ["score", "id"]).columns == ["score", "id"]
    assert store.fetch(SCORES, "id", ids_of([1]), ["status", "score"]).columns == ["status", "score"]


def test_rows_are_read_and_counted_by_a_condition(store):
    store.write(SCORES, scores([1, 2, 3], turns=2))
    assert store.count(SCORES, "turn = 1") == 3
    assert store.read(SCORES, ["turn"], f"id = '{id_of(2)}'")["turn"].sort().to_list() == [0, 1]


def test_more_than_a_page_of_rows_is_read(store):
    store.write(SCORES, scores(range(3_000)))
    assert sorted(store.read(SCORES, ["id"])["id"]) == ids_of(range(3_000))


def test_missing_ids_come_once_each_in_their_order(store):
    store.write(SCORES, scores([1, 2], turns=2))
    asked = pl.Series(ids_of([9, 1, 5, 9, 2, 3, 5]))
    assert store.missing(SCORES, asked).to_list() == ids_of([9, 5, 3])
    assert store.missing(SCORES, pl.Series(ids_of([1, 2]))).to_list() == []
    assert store.missing(SCORES, pl.Series([], dtype=pl.String)).to_list() == []


@pytest.mark.parametrize("columns", [None, ["score", "turn"]], ids=str)
@pytest.mark.parametrize("found", [75, 200], ids=["few of the rows", "most of the rows"])
def test_asking_for_many_ids_finds_what_asking_for_few_at_a_time_finds(store, columns, found):
    for start in (0, 200):
        store.write(SCORES, scores(range(start, start + 200, 2), turns=2))
    asked = ids_of([*range(400 - 2 * found, 400), *range(1_000, 1_000 + JOIN_ABOVE)])
    assert len(asked) > JOIN_ABOVE
    many = store.fetch(SCORES, "id", asked, columns)
    few = pl.concat([store.fetch(SCORES, "id", asked[i : i + 50], columns) for i in range(0, len(asked), 50)])
    assert many.columns == few.columns
    assert rows_of(many) == rows_of(few)
    assert len(many) == found * 2


@pytest.mark.parametrize("others", [10, 5_000])
def test_an_id_asked_for_twice_is_found_once(store, others):
    store.write(SCORES, scores([1]))
    asked = ids_of([1, *range(10, 10 + others), 1])
    assert len(store.fetch(SCORES, "id", asked)) == 1


def test_rows_are_taken_by_their_row_ids(store):
    for start in (0, 100):
        store.write(SCORES, scores(range(start, start + 100)))
    rows = store.row_ids(SCORES, "id")
    wanted = rows.filter(pl.col("id").is_in(ids_of([3, 150, 7])))
    assert sorted(store.take(SCORES, wanted, ["id"])["id"]) == sorted(ids_of([3, 7, 150]))
    assert store.take(SCORES, rows, ["score"]).columns == ["score"]
    assert len(store.take(SCORES, rows, ["score"])) == 200


def test_a_table_that_is_not_there_has_no_row_ids(store):
    assert store.row_ids(SCORES, "id").schema == {"id": pl.String, ROW: pl.UInt64}
    assert store.row_ids(SCORES, "id").is_empty()


def test_row_ids_are_read_once_until_the_table_changes(store):
    store.write(SCORES, scores([1, 2]))
    rows = store.row_ids(SCORES, "id")
    assert store.row_ids(SCORES, "id") is rows
    Store(store.uri).write(SCORES, scores([3]))
    assert sorted(store.row_ids(SCORES, "id")["id"]) == ids_of([1, 2, 3])
    store.delete_rows(SCORES, "id", ids_of([2]))
    assert sorted(store.row_ids(SCORES, "id")["id"]) == ids_of([1, 3])


def test_what_was_found_in_a_table_is_found_again_only_once_the_table_has_changed(store):
    asked = []

    def count():
        asked.append(store.count(SCORES))
        return asked[-1]

    assert [store.once(SCORES, "rows", count) for _ in range(2)] == [0, 0]
    store.write(SCORES, scores([1, 2]))
    assert [store.once(SCORES, "rows", count) for _ in range(2)] == [2, 2]
    assert store.once(SCORES, "rows of another name", count) == 2
    store.delete_rows(SCORES, "id", ids_of([1]))
    assert [store.once(SCORES, "rows", count) for _ in range(2)] == [1, 1]
    assert asked == [0, 2, 2, 1]


def test_row_ids_from_before_a_compaction_never_give_another_row(store):
    vectors_of = {n: [1, 0, 0] if n % 2 else [0, 1, 0] for n in range(40)}
    for n, vector in vectors_of.items():
        store.write(VECTORS, vectors({n: vector}))
    rows = store.row_ids(VECTORS, "text_id")
    store.delete_rows(VECTORS, "text_id", ids_of([0, 5]))
    Store(store.uri).compact(purge=True)
    stale = store.take(VECTORS, rows.filter(pl.col("text_id").is_in(ids_of([7, 8]))), ["text_id", "vector"])
    assert set(stale["text_id"]) <= set(ids_of([7, 8]))
    # Vectors are read again where the row ids no longer hold.
    assert store.vectors(VECTORS, ids_of([8, 7]), rows).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_values_with_quotes_are_fetched(store):
    row = {"key": f"{id_of(1)}:1", "file_id": id_of(1), "file": "it's 'here'.jsonl", "line": 1}
    row |= {"sample_id": id_of(2), "layout": "alpaca", "fields": "{}"}
    store.write(SOURCES, pl.DataFrame([row], schema=SOURCES.empty().schema))
    assert store.fetch(SOURCES, "file", ["it's 'here'.jsonl", "'"], ["line"]).rows() == [(1,)]


def test_fetching_nothing_is_an_empty_frame(store):
    store.write(SCORES, scores([1]))
    assert store.fetch(SCORES, "id", [], ["turn"]).equals(SCORES.empty().select("turn"))


def test_vectors_come_in_the_order_of_their_ids_as_often_as_asked(store):
    store.write(VECTORS, vectors({1: [1, 0, 0], 2: [0, 1, 0]}))
    store.write(VECTORS, vectors({3: [0, 0.6, 0.8]}))
    found = store.vectors(VECTORS, ids_of([3, 1, 3, 2]))
    assert found.dtype == np.float32
    assert found.tolist() == np.array([[0, 0.6, 0.8], [1, 0, 0], [0, 0.6, 0.8], [0, 1, 0]], np.float32).tolist()


def test_no_vectors_have_the_encoders_dimensions(store):
    assert store.vectors(VECTORS, []).shape == (0, 3)
    store.write(VECTORS, vectors({1: [1, 0, 0]}))
    assert store.vectors(VECTORS, []).shape == (0, 3)


def test_a_vector_that_is_not_there_is_an_error_that_counts_the_lacking(store):
    with pytest.raises(StoreError, match="lacks 1 vectors"):
        store.vectors(VECTORS, ids_of([1]))
    store.write(VECTORS, vectors({1: [1, 0, 0]}))
    with pytest.raises(StoreError, match=f"Table {VECTORS.name} lacks 2 vectors; run the command again"):
        store.vectors(VECTORS, ids_of([4, 1, 5]))


def test_many_vectors_come_back_each_in_its_place(store):
    rng = np.random.default_rng(0)
    units = rng.normal(size=(2_000, 3))
    units = (units / np.linalg.norm(units, axis=1, keepdims=True)).astype(np.float32)
    store.write(VECTORS, vectors(dict(enumerate(units))))
    order = rng.integers(0, 2_000, 5_000)
    assert store.vectors(VECTORS, ids_of(order)).tobytes() == units[order].tobytes()


# -- the lock


HOLD = """
    import sys
    from deita_core.store import Store
    with Store(sys.argv[1]).lock("nightly (42)"):
        print("held", flush=True)
        sys.stdin.readline()
"""


@pytest.mark.slow
def test_a_store_in_use_names_the_run_that_holds_it_and_is_free_once_that_is_killed(store):
    holder = python(HOLD, store.uri)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(StoreError, match=rf"in use by run nightly \(42\) \(process {holder.pid} on "), store.lock("me"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=30)
    with store.lock("me"), pytest.raises(StoreError, match=rf"in use by run me \(process {os.getpid()} on "):
        Store(store.uri).lock("another").__enter__()
    holder.communicate()


def test_a_run_that_ends_frees_the_store(store):
    for _ in range(2):
        with store.lock("first"):
            pass
        with Store(store.uri).lock("second"):
            pass


def test_a_run_that_fails_frees_the_store(store):
    with pytest.raises(ZeroDivisionError), store.lock("first"):
        raise ZeroDivisionError
    with Store(store.uri).lock("second"):
        pass


def test_a_store_in_use_can_be_read_and_written_by_its_run(store):
    with store.lock("first"):
        store.write(SCORES, scores([1]))
        assert Store(store.uri).count(SCORES) == 1
        assert store.tables() == [SCORES.name]


def test_two_stores_do_not_block_each_other(tmp_path):
    with Store(tmp_path / "one").lock("first"), Store(tmp_path / "two").lock("second"):
        pass


# -- compacting


def test_compacting_leaves_one_fragment_and_the_same_rows(store, monkeypatch):
    monkeypatch.setattr(compaction, "COMMITS", 12)
    for number in range(12):
        store.write(SCORES, scores([number], turns=2))
        store.write(VECTORS, vectors({number: [0, 0, 1]}))
    before = {table.name: rows_of(store.read(table)) for table in (SCORES,)}
    assert fragments(store, SCORES) == 12
    store.compact()
    assert fragments(store, SCORES) == fragments(store, VECTORS) == 1
    assert rows_of(store.read(SCORES)) == before[SCORES.name]
    assert store.vectors(VECTORS, ids_of(range(12))).tolist() == [[0, 0, 1]] * 12
    assert store.write(SCORES, scores([3, 99], turns=2)) == 2


def test_a_table_of_few_commits_is_not_written_anew(store):
    for number in range(12):
        store.write(SCORES, scores([number]))
    before = store.versions()
    store.compact()
    assert store.versions() == before
    assert fragments(store, SCORES) == 12


def test_a_purge_leaves_nothing_of_a_table_whose_rows_are_all_deleted(store):
    store.write(SCORES, scores([7, 8]))
    store.delete(SCORES, "turn >= 0")
    store.compact(purge=True)
    files = [path for path in store.side.rglob("*") if path.is_file()]
    assert files and not [path for path in files if id_of(7).encode() in path.read_bytes()]
    assert store.count(SCORES) == 0 and store.write(SCORES, scores([7])) == 1


def test_compacting_a_whole_store_changes_nothing(store):
    store.compact()
    store.write(SCORES, scores([1]))
    versions = store.versions()
    store.compact()
    assert store.versions() == versions


def test_a_store_opened_before_reads_on_after_compacting(store, monkeypatch):
    monkeypatch.setattr(compaction, "COMMITS", 2)
    early = Store(store.uri)
    for number in range(3):
        store.write(SCORES, scores([number]))
    assert early.count(SCORES) == 3
    store.compact()
    assert fragments(store, SCORES) == 1
    assert sorted(early.read(SCORES)["id"]) == ids_of(range(3))


def fragments(store, table):
    return lancedb.connect(store.uri).open_table(table.name).stats()["fragment_stats"]["num_fragments"]
