"""Stores on object storage, against a real S3 server in a process of its own."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Barrier

import numpy as np
import obstore
import polars as pl
import pytest

from deita_core.errors import InputError, StoreError, StoreUnavailableError
from deita_core.store import Store
from deita_core.store.locks import object_lock
from deita_core.store.remote import open_objects
from deita_core.tables import SAMPLES, scores_table, vectors_table
from tests.support.commands import deita
from tests.support.paths import ROOT
from tests.support.remote_server import s3_server

pytestmark = pytest.mark.slow

SCORES = scores_table("quality-1")
VECTORS = vectors_table("tiny-1", 16)
names = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Variables of a server with the bucket `pool`, set for this process as well."""
    with s3_server("pool") as variables, pytest.MonkeyPatch.context() as patch:
        variables["DEITA_CACHE"] = str(tmp_path_factory.mktemp("cache"))
        for name, value in variables.items():
            patch.setenv(name, value)
        yield variables


@pytest.fixture
def uri(server):
    """A store that is not there yet."""
    return f"s3://pool/stores/{next(names)}"


def machine(uri, tmp_path):
    """The store as another machine opens it: with a cache folder, and so a write lock, of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEITA_CACHE", str(tmp_path / f"machine-{next(names)}"))
        return Store(uri)


def id_of(number):
    return f"{number:032x}"


def scores(numbers, turns=1):
    rows = [(id_of(number), turn, 2.5, "ok") for number in numbers for turn in range(turns)]
    return pl.DataFrame(rows, schema=SCORES.empty().schema, orient="row")


def vectors(numbers):
    rows = {"text_id": [id_of(n) for n in numbers], "n_tokens": [5] * len(numbers)}
    rows["vector"] = np.tile(np.eye(16, dtype=np.float32)[3], (len(numbers), 1))
    return pl.DataFrame(rows, schema=VECTORS.empty().schema)


def samples(texts):
    rows = [
        {
            "id": id_of(number),
            "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}],
            "message_index": [{"role": "user", "text_id": id_of(number), "n_chars": len(text), "blank": False}],
            "multimodal": False,
            "n_turns": 1,
            "n_chars": len(text),
        }
        for number, text in enumerate(texts)
    ]
    return pl.DataFrame(rows, schema=SAMPLES.empty().schema)


def python(code, *arguments, **variables):
    """Another Python process that runs `code`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=environment)


# -- opening


def test_what_one_machine_writes_another_reads(uri, tmp_path):
    assert Store(uri).tables() == []
    assert Store(uri).write(SCORES, scores(range(10), turns=2)) == 20
    other = machine(uri + "/", tmp_path)
    assert sorted(other.read(SCORES).rows()) == sorted(scores(range(10), turns=2).rows())
    assert other.write(SCORES, scores(range(8, 12), turns=2)) == 4
    assert Store(uri).count(SCORES) == 24
    assert Store(uri).missing(SCORES, pl.Series([id_of(11), id_of(12)])).to_list() == [id_of(12)]


def test_a_table_is_read_in_full_and_vectors_in_their_order(uri):
    Store(uri).write(VECTORS, vectors(range(3_000)))
    assert Store(uri).count(VECTORS) == 3_000
    assert Store(uri).vectors(VECTORS, [id_of(7), id_of(2_999)]).tolist() == [np.eye(16)[3].tolist()] * 2


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://not-there/x", "The bucket of the store s3://not-there/x does not exist"),
        ("s3://closed/x", "The store s3://closed/x is closed to the credentials found; check the AWS_"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_one_sentence(server, uri, said):
    for use in (lambda store: store.tables(), lambda store: store.lock("a run").__enter__()):
        with pytest.raises(StoreError, match=f"^{said}[^.]*\\.$".replace("AWS_", r"AWS_\*")):
            use(Store(uri))


def test_a_server_that_does_not_answer_is_one_sentence_within_seconds(server, uri, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(StoreError, match=rf"^The store {uri} cannot be used \(.*\); check the AWS_\* variables\.$"):
        Store(uri).count(SCORES)
    assert time.monotonic() - started < 30


def test_a_server_that_goes_away_is_a_trouble_that_tasks_try_again(monkeypatch):
    with s3_server("pool") as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert Store("s3://pool/passing").tables() == []
    with pytest.raises(StoreUnavailableError, match="The store s3://pool/passing cannot be reached"):
        Store("s3://pool/passing").tables()


def test_without_the_package_for_it_a_remote_store_says_what_to_install(server, uri, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(StoreError, match=r"pip install 'deita-flows\[remote\]'"):
        Store(uri).tables()


def test_credentials_in_the_address_are_refused_and_not_repeated():
    with pytest.raises(InputError) as refusal:
        Store("s3://key:secret@bucket/x")
    assert "secret" not in str(refusal.value)


def test_every_remote_store_has_a_folder_of_its_own_for_what_is_no_table(server, tmp_path):
    folders = {Store(f"s3://pool/{name}").side for name in ("a/b", "a-b", "a_b", "a")}
    assert len(folders) == 4
    assert {folder.parent for folder in folders} == {Path(server["DEITA_CACHE"])}
    assert Store("s3://pool/a/").side == Store("s3://pool/a").side
    assert Store(tmp_path).side == tmp_path


# -- writers at once


def write_at_once(stores, write):
    """Each store is written to at the same moment; raises what any of them raised."""
    start = Barrier(len(stores))

    def run(place, store):
        start.wait()
        write(place, store)

    with ThreadPoolExecutor(len(stores)) as pool:
        for running in [pool.submit(run, place, store) for place, store in enumerate(stores)]:
            running.result()


def test_machines_that_make_a_table_at_once_lose_no_row(server, tmp_path):
    for _ in range(8):
        stores = [machine(f"s3://pool/new/{next(names)}", tmp_path)]
        stores += [machine(stores[0].uri, tmp_path) for _ in range(3)]
        write_at_once(stores, lambda place, store: store.write(SCORES, scores([place])))
        assert sorted(stores[0].read(SCORES)["id"]) == [id_of(number) for number in range(4)]
        # Made once, and written four times: no table was put in the place of another.
        assert stores[0].versions() == {SCORES.name: 1 + 4}


@pytest.mark.parametrize(("table", "rows"), [(SCORES, scores), (VECTORS, vectors)], ids=["two-columns", "one-column"])
def test_machines_that_write_the_same_shard_at_once_double_no_row(uri, tmp_path, table, rows):
    shards = [range(start, start + 20) for start in range(0, 160, 20)]
    stores = [machine(uri, tmp_path) for _ in range(3)]
    write_at_once(stores, lambda _, store: [store.write(table, rows(shard)) for shard in shards])
    assert sorted(stores[0].read(table)[table.key[0]]) == [id_of(number) for number in range(160)]


def test_machines_that_write_other_shards_lose_none(uri, tmp_path):
    stores = [machine(uri, tmp_path) for _ in range(3)]
    write_at_once(
        stores, lambda place, store: [store.write(SCORES, scores([100 * place + n])) for n in range(6)]
    )  # fmt: skip
    assert sorted(stores[0].read(SCORES)["id"]) == [id_of(100 * place + n) for place in range(3) for n in range(6)]


def test_a_commit_that_others_got_ahead_of_is_made_again_but_not_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("deita_core.store.store.PAUSES", (0.001, 0.001))
    tries = []

    def commit(works_at, text):
        tries.append(text)
        if len(tries) < works_at:
            raise RuntimeError(text)
        return "written"

    conflicts = "Retryable commit conflict for version 2", "Too many concurrent writers. Attempted 3 times"
    for text in conflicts:
        tries.clear()
        assert Store(tmp_path)._commit("scores", lambda text=text: commit(3, text)) == "written"
    tries.clear()
    with pytest.raises(StoreError, match=r"Table scores of .* is written by too many at once"):
        Store(tmp_path)._commit("scores", lambda: commit(4, conflicts[0]))
    tries.clear()
    with pytest.raises(RuntimeError, match="disk full"):
        Store(tmp_path)._commit("scores", lambda: commit(2, "disk full"))
    assert len(tries) == 1


WORKER = """
    import sys
    sys.path.insert(0, sys.argv[2])
    from test_remote_store import SCORES, VECTORS, scores, vectors
    from deita_core.store import Store
    store = Store(sys.argv[1])
    store.tables()
    print("ready", flush=True)
    for start in range(0, 4_000, 200):
        store.write(VECTORS, vectors(range(start, start + 200)))
        store.write(SCORES, scores(range(start, start + 200)))
        print("written", flush=True)
"""


def test_a_worker_killed_in_the_middle_of_a_write_leaves_a_store_that_a_repeated_write_completes(uri, server):
    draw, grown = random.Random(0), [0]
    for _ in range(5):
        worker = python(WORKER, uri, Path(__file__).parent, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
        assert worker.stdout.readline() == "ready\n"
        for _ in range(draw.randrange(4)):
            assert worker.stdout.readline() == "written\n"
        time.sleep(draw.uniform(0, 0.15))
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        for table in (VECTORS, SCORES):
            found = Store(uri).read(table, [table.key[0]])[table.key[0]]
            assert len(found) == found.n_unique()
            assert len(found) % 200 == 0
        grown.append(len(found))
    assert grown == sorted(grown)
    assert 0 < grown[-1] < 4_000
    for start in range(0, 4_000, 200):
        Store(uri).write(VECTORS, vectors(range(start, start + 200)))
    assert sorted(Store(uri).read(VECTORS)["text_id"]) == [id_of(number) for number in range(4_000)]


# -- the lock


HOLD = """
    import sys
    from deita_core.errors import StoreError
    from deita_core.store.locks import object_lock
    from deita_core.store import Store
    sys.path.insert(0, sys.argv[2])
    from test_remote_store import SCORES, scores
    try:
        with object_lock(sys.argv[1], "nightly (42)", renew=0.2, expiry=3):
            print("held", flush=True)
            sys.stdin.readline()
            Store(sys.argv[1]).write(SCORES, scores([1]))
            print("written", flush=True)
    except StoreError as error:
        print(error, flush=True)
"""


@pytest.fixture
def holder(uri):
    """A process that holds the store until told to write and end; three seconds without a sign of life free it."""
    process = python(HOLD, uri, Path(__file__).parent, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_refused_at_once_with_the_name_of_the_first(holder, uri):
    started = time.monotonic()
    with pytest.raises(
        StoreError, match=rf"^The store {uri} is in use by run nightly \(42\) \(process {holder.pid} on "
    ):
        Store(uri).lock("me").__enter__()
    assert time.monotonic() - started < 15
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "written\n"
    holder.wait(timeout=30)
    with Store(uri).lock("me"), pytest.raises(StoreError, match=rf"in use by run me \(process {os.getpid()} on "):
        Store(uri).lock("another").__enter__()


def test_a_run_that_lives_keeps_its_store_for_longer_than_a_dead_one_would(holder, uri):
    time.sleep(4.5)
    with pytest.raises(StoreError, match="in use by run nightly"), object_lock(uri, "me", expiry=3):
        pass


def test_the_store_of_a_killed_run_is_taken_over_once_its_lock_is_old_and_not_before(holder, uri):
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=30)
    with (
        pytest.raises(StoreError, match="wait for it to end, or 3 s if it was killed"),
        object_lock(uri, "me", expiry=3),
    ):
        pass
    time.sleep(4.5)
    with object_lock(uri, "me", expiry=3), pytest.raises(StoreError, match="in use by run me"):
        Store(uri).lock("another").__enter__()


def test_a_run_that_slept_too_long_finds_its_store_taken_and_writes_no_more(holder, uri):
    holder.send_signal(signal.SIGSTOP)
    time.sleep(4.5)
    with object_lock(uri, "me", expiry=3):
        holder.send_signal(signal.SIGCONT)
        time.sleep(2)
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.stdout.readline().startswith(f"This run's hold of the store {uri} was lost to run me (process ")
    assert Store(uri).count(SCORES) == 0


def test_of_many_runs_that_find_an_old_lock_one_gets_the_store(uri):
    with object_lock(uri, "old"):
        pass
    for _ in range(5):
        held = [None] * 6
        start = Barrier(6)

        def try_it(place, start=start, held=held):
            lock = object_lock(uri, f"run {place}")
            start.wait()
            try:
                lock.__enter__()
            except StoreError:
                return
            held[place] = lock

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(try_it, range(6)))
        taken = [lock for lock in held if lock]
        assert len(taken) == 1
        taken[0].__exit__(None, None, None)


def test_a_store_is_free_after_its_run_even_if_the_answer_to_the_last_sign_of_life_was_lost(uri):
    objects = open_objects(uri)
    with Store(uri).lock("first"):
        # The same content, written by this run, of which it has not learnt the version.
        obstore.put(objects, "lock.json", bytes(obstore.get(objects, "lock.json").bytes()))
        obstore.put(objects, "lock.json", bytes(obstore.get(objects, "lock.json").bytes()) + b" ")
    with Store(uri).lock("second"):
        pass


def test_a_run_that_fails_frees_the_store(uri):
    with pytest.raises(ZeroDivisionError), Store(uri).lock("first"):
        raise ZeroDivisionError
    with Store(uri).lock("second"):
        pass


# -- deleting for good


def stored_bytes(store):
    """Every byte of a store's tables."""
    if not store.is_remote:
        return b"".join(path.read_bytes() for path in sorted(store.side.rglob("*")) if path.is_file())
    objects = open_objects(store.uri)
    paths = [found["path"] for batch in obstore.list(objects) for found in batch]
    return b"".join(bytes(obstore.get(objects, path).bytes()) for path in paths)


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_after_a_purge_no_file_holds_what_was_deleted(uri, tmp_path, kind):
    store = Store(uri if kind == "s3" else tmp_path / "store")
    texts = [np.random.default_rng(number).bytes(40).hex() for number in range(60)]
    store.write(SAMPLES, samples(texts))
    assert texts[7].encode() in stored_bytes(store), "the test could not tell"
    store.delete(SAMPLES, f"id = '{id_of(7)}'")
    store.compact()
    assert texts[7].encode() in stored_bytes(store), "nothing to purge"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.compact(purge=True)
    assert texts[7].encode() not in stored_bytes(store)
    assert texts[8].encode() in stored_bytes(store)
    expected = samples(texts).filter(pl.col("id") != id_of(7))
    assert store.read(SAMPLES).sort("id").equals(expected)
    assert store.write(SAMPLES, samples(texts[:10])) == 1


def test_a_purge_without_deletions_writes_no_table_anew(uri):
    store = Store(uri)
    for number in range(3):
        store.write(SCORES, scores([number]))
    store.compact(purge=True)
    before = store.versions()
    store.compact(purge=True)
    assert store.versions() == before
    store.delete(SCORES, "turn = 0")
    store.compact(purge=True)
    assert store.count(SCORES) == 0
    assert store.write(SCORES, scores([1])) == 1


# -- the whole of it


def test_a_selection_with_a_store_on_s3_is_that_with_a_folder_and_another_machine_goes_on_with_it(
    prefect_server, laptop, uri, tmp_path, monkeypatch
):
    from deita_core.config.settings import SelectionSettings
    from flows.selection import select

    pool, settings = [str(ROOT / "examples" / "pool" / "alpaca.jsonl")], {"limit": 25, "budget": 8}
    select(pool, str(tmp_path / "local"), SelectionSettings(store=str(tmp_path / "store"), **settings))
    monkeypatch.chdir(tmp_path)
    done = deita("select", *pool, "--store", uri, "--limit", 25, "--budget", 8, "--out", "remote", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("s3")] == []
    for name in ("selected.jsonl", "selected.parquet", "decisions.parquet"):
        assert (tmp_path / "remote" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    assert json.loads((tmp_path / "remote" / "manifest.json").read_text())["store"]["uri"] == uri

    monkeypatch.setenv("DEITA_CACHE", str(tmp_path / "another-machine"))
    again = select(pool, str(tmp_path / "again"), SelectionSettings(store=uri, **settings))
    assert (again.encoded, again.scored, again.counts.selected) == (0, 0, 8)
