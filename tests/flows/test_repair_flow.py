"""A store damaged by a hard reset: the same command says so, and after a repair makes what it would have made."""

import re
import shutil
from functools import partial

import pytest
from typer.testing import CliRunner

from deita_core.errors import StoreError
from deita_core.store import Store
from tests.support.pools import ALPACA, FURTHER, MESSAGES, MORE, Place


def files_of(place):
    names = ("selected.jsonl", "selected.parquet", "decisions.parquet")
    return {name: (place.out / name).read_bytes() for name in names}


def put_back(place, copy):
    for name in ("store", "out"):
        shutil.rmtree(place.folder / name, ignore_errors=True)
        shutil.copytree(copy / name, place.folder / name)


def doctor(place, *options):
    from flows.cli.main import app

    return CliRunner().invoke(app, ["doctor", "--store", str(place.store), *options])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, prefect_server, laptop):
    """Two snapshots, a copy of them, and what the next commands make of them."""
    place = Place(tmp_path_factory.mktemp("repaired")).write("a.jsonl", [*ALPACA, {"instruction": "?"}])
    place.select(budget=5)
    place.write("b.jsonl", MORE).update(budget=6)
    place.write("c.jsonl", [*MESSAGES, *FURTHER, {"broken": 1}])
    copy = tmp_path_factory.mktemp("copy")
    for name in ("store", "out"):
        shutil.copytree(place.folder / name, copy / name)
    commands = {"select": partial(place.select, budget=6), "update": partial(place.update, budget=6)}
    expected = {}
    for name, command in commands.items():
        command()
        expected[name] = files_of(place)
        put_back(place, copy)
    return place, copy, commands, expected


def tables(place):
    return Store(place.store).tables()


KINDS = ("samples", "sources", "rejects", "vectors", "scores", "decisions", "snapshots", "plans")


# An update reads the same tables in the same way, but for the snapshot that it follows and the files of its pool.
CASES = [
    *((kind, "select") for kind in (*KINDS, "all")),
    *((kind, "update") for kind in ("snapshots", "sources", "all")),
]


@pytest.mark.parametrize(("kind", "command"), CASES)
def test_after_a_repair_the_same_command_makes_the_same_files(undisturbed, kind, command):
    place, copy, commands, expected = undisturbed
    put_back(place, copy)
    hit = [name for name in tables(place) if kind in ("all", name.partition("__")[0])]
    assert hit
    for name in hit:
        newest = min((place.store / f"{name}.lance" / "_versions").glob("*.manifest"))
        newest.write_bytes(b"")
    before = files_of(place)
    with pytest.raises(StoreError, match=rf"^Table \S+ of {re.escape(str(place.store))} is damaged \(.*--repair"):
        commands[command]()
    assert files_of(place) == before

    assert doctor(place).exit_code == 1
    refused = doctor(place, "--repair")
    assert "there is no terminal to ask on" in str(refused.exception)
    done = doctor(place, "--repair", "--yes")
    assert done.exit_code == 0, done.output
    assert done.output.count("damaged: ") == len(hit)
    again = doctor(place)
    assert again.exit_code == 0, again.output
    commands[command]()
    assert files_of(place) == expected[command]
    assert doctor(place).exit_code == 0


COMMANDS = {
    "snapshots": ["snapshots"],
    "diff": ["diff"],
    "export": ["export", "1", "--out", "OUT"],
    "remove --dry-run": ["remove", "--where", "line = 1", "--dry-run"],
    "select --dry-run": ["select", "POOL", "--dry-run", "--out", "OUT"],
    "doctor": ["doctor"],
}  # fmt: skip


def score(place, settings):
    from flows.score import score

    score([str(place.pool)], str(place.folder / "scores.csv"), settings)


def calibrate(place, settings):
    from flows.score import calibrate

    calibrate([str(place.pool)], settings)


def remove(place, settings):
    place.remove(where="line = 1")


def damaged(place, copy):
    put_back(place, copy)
    for manifest in place.store.rglob("*.manifest"):
        manifest.write_bytes(b"")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_opens_a_damaged_store_says_so_in_one_sentence(undisturbed, tmp_path, command):
    from flows.cli.main import app

    place, copy, _, _ = undisturbed
    damaged(place, copy)
    named = {"OUT": str(tmp_path / "out"), "POOL": str(place.pool)}
    arguments = [named.get(word, word) for word in COMMANDS[command]]
    ended = CliRunner().invoke(app, [*arguments, "--store", str(place.store)])
    assert isinstance(ended.exception, StoreError), ended.output
    assert re.search(r"\bis damaged\b|\bare not whole\b", str(ended.exception))
    assert "\n" not in str(ended.exception)


@pytest.mark.parametrize("flow", [score, calibrate, remove], ids=lambda flow: flow.__name__)
def test_every_flow_that_opens_a_damaged_store_says_so_without_trying_again(undisturbed, flow):
    place, copy, _, _ = undisturbed
    damaged(place, copy)
    with pytest.raises(StoreError, match="is damaged"):
        flow(place, place.settings())


def test_what_is_damaged_while_a_run_goes_on_is_not_tried_again_and_what_may_pass_is(undisturbed):
    from prefect.states import exception_to_failed_state
    from prefect.utilities.asyncutils import run_coro_as_sync

    from deita_core.errors import StoreUnavailableError
    from deita_core.store.damage import damaged as damage_error
    from tasks.runtime.policy import worth_retrying

    def judged(error):
        return run_coro_as_sync(worth_retrying(None, None, run_coro_as_sync(exception_to_failed_state(error))))

    assert not judged(damage_error("s", "samples", "file size is too small"))
    assert not judged(StoreError("no permission"))
    assert judged(StoreUnavailableError("no space left on device"))
    assert judged(OSError(28, "No space left on device"))
