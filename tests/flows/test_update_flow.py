"""A pool that grows: every snapshot is the one of a run from scratch, and says what it changed."""

import shutil

import orjson
import polars as pl
import pytest
from typer.testing import CliRunner

from deita_core.config.settings import RemovalSettings, SelectionSettings, removal_settings
from deita_core.errors import InputError
from deita_core.scorers.endpoint import ServedLimits
from deita_core.stages.diff import compare_snapshots
from deita_core.stages.exporting import export_selection
from deita_core.stages.removal import matching, remove
from deita_core.stages.snapshots import read_snapshot, settings_after, snapshots
from deita_core.store import Store
from deita_core.tables import DECISIONS, REMOVALS, SAMPLES, SOURCES
from tests.support.pools import ALPACA, FURTHER, MESSAGES, MORE, TOOL_TALK, Place, talk


@pytest.fixture(scope="module")
def begun(tmp_path_factory, prefect_server, laptop):
    """The folder of a place with one selection, and a copy of it."""
    place = Place(tmp_path_factory.mktemp("update") / "place").write("a.jsonl", ALPACA)
    place.select(budget=5)
    return place.folder, shutil.copytree(place.folder, tmp_path_factory.mktemp("copy") / "place")


@pytest.fixture
def place(begun):
    """A place with one selection, as no other test has touched it."""
    folder, copy = begun
    shutil.rmtree(folder)
    place = Place(folder)
    shutil.copytree(copy, folder, dirs_exist_ok=True)
    return place


def same_selection(one, other):
    assert (one.out / "selected.jsonl").read_bytes() == (other.out / "selected.jsonl").read_bytes()
    assert one.decisions.equals(other.decisions)


# -- the pool grows


def test_an_update_finds_what_a_run_from_scratch_finds_and_does_only_what_is_new(place):
    place.write("b.jsonl", MESSAGES).write("c.jsonl", MORE)
    report = place.update()
    same_selection(place, place.from_scratch(budget=5))
    # One of the messages is a row of the first file as well.
    assert (report.counts.scored, report.counts.merged) == (2 * 5, 1)
    assert report.counts.encoded == 2 * 5


def test_an_update_takes_files_from_elsewhere_and_remembers_them(place, tmp_path):
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in MORE))
    place.update(elsewhere)
    again = place.update()
    assert again.counts.read == len(ALPACA) + len(MORE)
    assert again.counts.encoded == again.counts.scored == 0


def test_an_update_keeps_the_settings_of_the_snapshot_but_for_what_is_given(place):
    assert place.update().job.settings.budget == 5
    changed = place.update(budget=3)
    assert (changed.job.settings.budget, changed.job.settings.threshold, changed.counts.selected) == (3, 0.9, 3)
    same_selection(place, place.from_scratch(budget=3))


def test_an_update_of_nothing_makes_the_first_snapshot(place):
    place.out = place.folder / "another"
    report = place.update(place.pool, budget=2)
    assert (report.previous, report.counts.selected) == (None, 2)
    assert not (place.out / "added.jsonl").exists()


def test_files_of_the_folder_that_cannot_be_read_are_named_and_set_aside(place, capfd):
    place.write("b.jsonl", MORE).write("empty.jsonl", []).write("other.jsonl", [{"x": 1}])
    (place.pool / "dataset_info.json").write_text("{}")
    (place.pool / "broken.parquet").write_bytes(b"PAR1")
    report = place.update()
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("Set aside: ")]
    assert len(said) == 4
    for name in ("dataset_info.json", "broken.parquet", "empty.jsonl", "other.jsonl"):
        assert sum(name in line for line in said) == 1
    # The row of other.jsonl is a reject.
    assert report.counts.read == len(ALPACA) + len(MORE) + 1
    assert place.decisions.filter(pl.col("file").str.ends_with("other.jsonl"))["fate"].to_list() == ["rejected"]
    same_selection(place, place.from_scratch(budget=5))
    assert place.update().counts.read == report.counts.read
    with pytest.raises(InputError, match=r"empty\.jsonl is empty"):
        place.update(place.pool / "empty.jsonl")


def test_files_left_out_go_from_the_pool_and_come_back(place):
    place.write("b.jsonl", MORE).write("raw/c.jsonl", MESSAGES)
    place.update(leave_out=["raw"])
    same_selection(place, place.from_scratch(budget=5, leave_out=["raw"]))
    assert place.update().counts.read == len(ALPACA) + len(MORE)
    assert place.update(leave_out=["b.*", "raw"]).counts.read == len(ALPACA)
    assert place.update(leave_out=[]).counts.read == len(ALPACA) + len(MORE) + len(MESSAGES)


def test_a_file_that_changed_stands_for_what_it_was(place):
    place.write("a.jsonl", [*ALPACA[2:], *FURTHER])
    report = place.update()
    assert (report.counts.read, report.counts.rejected) == (len(ALPACA) - 2 + len(FURTHER), 0)
    same_selection(place, place.from_scratch(budget=5))
    dropped = {row["reason"] for row in place.lines("dropped.jsonl") if row["id"] in ids_of(place, 0, 1)}
    assert dropped <= {"no longer in the pool"}


def ids_of(place, *numbers):
    return {place.id_of(ALPACA[n]["instruction"]) for n in numbers}


def test_a_file_that_is_gone_keeps_its_rows(place):
    place.write("b.jsonl", MORE)
    (place.pool / "a.jsonl").unlink()
    report = place.update(budget=20)
    assert report.counts.read == len(ALPACA) + len(MORE) == report.counts.selected
    (place.pool / "b.jsonl").unlink()
    assert place.update().counts.selected == report.counts.selected


# -- what changed


def test_an_snapshot_says_what_came_and_what_went_and_why(place):
    before = {row["deita"]["id"] for row in place.lines()}
    place.write("b.jsonl", MESSAGES).write("c.jsonl", MORE)
    place.update()
    after = {row["deita"]["id"] for row in place.lines()}
    added, dropped = place.lines("added.jsonl"), place.lines("dropped.jsonl")
    assert {row["deita"]["id"] for row in added} == after - before != set()
    assert {row["id"] for row in dropped} == before - after
    assert {row["deita"]["reason"] for row in added} == {"new in the pool"}
    assert {row["reason"] for row in dropped} == {"the budget was full before its turn"}
    text = (place.out / "CHANGES.md").read_text()
    assert f"{len(added)} added, {len(dropped)} dropped" in text
    assert "b.jsonl: not there -> 3 rows" in text


def test_a_row_that_is_a_near_duplicate_now_names_its_better(place):
    place.update(threshold=0.99, budget=20)
    place.write("b.jsonl", [{**row, "output": row["output"] + " " * 3 + "."} for row in ALPACA])
    place.update(threshold=0.9)
    for row in place.lines("dropped.jsonl"):
        better = place.decisions.filter(pl.col("id") == row["id"])["duplicate_of"].item()
        assert better in row["reason"] and row["reason"].endswith("and was not selected before")
    assert place.lines("dropped.jsonl")


def test_every_snapshot_can_be_written_again(place):
    first = (place.out / "selected.jsonl").read_bytes()
    place.write("b.jsonl", MORE)
    place.update(budget=4)
    store = Store(place.store)
    export_selection(store, read_snapshot(store, 1).report, place.folder / "again")
    assert (place.folder / "again" / "selected.jsonl").read_bytes() == first
    assert snapshots(store)["number"].to_list() == [1, 2]
    with pytest.raises(InputError, match="has no snapshot 7; it has 1 to 2"):
        read_snapshot(store, 7)


def test_any_two_snapshots_can_be_compared(place):
    place.write("b.jsonl", MORE)
    place.update(budget=7)
    place.update(budget=5)
    found = compare_snapshots(Store(place.store), 1, 3)
    runs = [read_snapshot(Store(place.store), n).report.job.run_id for n in (1, 3)]
    one, three = (
        set(Store(place.store).read(DECISIONS, ["id"], f"run_id = '{run}' AND fate = 'selected'")["id"]) for run in runs
    )
    assert (set(found.added["id"]), set(found.dropped["id"])) == (three - one, one - three)


def test_only_so_many_snapshots_are_kept(place):
    for budget in (4, 3, 2):
        place.update(budget=budget, keep_snapshots=2)
    store = Store(place.store)
    assert snapshots(store)["number"].to_list() == [3, 4]
    assert set(store.read(DECISIONS, ["run_id"])["run_id"]) == set(snapshots(store)["run_id"])


# -- nothing half-written


def test_a_selection_that_cannot_be_written_leaves_the_one_before(place):
    place.write("tools.jsonl", [TOOL_TALK])
    files = {path.name: path.read_bytes() for path in place.out.iterdir()}
    decided = Store(place.store).count(DECISIONS)
    with pytest.raises(InputError, match="tool messages"):
        place.update(format="alpaca", budget=20)
    assert {path.name: path.read_bytes() for path in place.out.iterdir()} == files
    assert Store(place.store).count(DECISIONS) == decided
    assert snapshots(Store(place.store))["number"].to_list() == [1]
    # What it encoded is not lost.
    assert place.update(budget=20).counts.encoded == 0


def test_decisions_of_a_run_that_was_killed_are_forgotten_by_the_next(place):
    store = Store(place.store)
    store.write(DECISIONS, store.read(DECISIONS).with_columns(run_id=pl.lit("killed")))
    place.update()
    assert "killed" not in set(store.read(DECISIONS, ["run_id"])["run_id"])


# -- takedowns


def test_a_removed_conversation_is_gone_from_everything(place):
    best = place.lines()[0]
    text, id_, line = best["output"], best["deita"]["id"], best["deita"]["line"]
    assert place.holds(text) and place.holds(id_)
    assert place.remove(ids=[id_], reason="asked for by its author").model_dump() == {"samples": 1, "rows": 1}
    assert not place.holds(text)
    tables = [name for name in Store(place.store).tables() if name.startswith(("vectors__", "scores__"))]
    assert len(tables) == 3
    report = place.update(budget=20)
    assert report.counts.encoded == 0 and report.counts.rejected == 1
    assert id_ not in {row["deita"]["id"] for row in place.lines()}
    rejected = place.decisions.filter(pl.col("fate") == "rejected").row(0, named=True)
    assert (rejected["line"], rejected["id"]) == (line, None)
    assert rejected["reason"].startswith("removed: taken down on")
    [dropped] = [row for row in place.lines("dropped.jsonl") if row["id"] == id_]
    assert dropped["reason"].startswith("taken down on")


def test_what_is_removed_takes_only_its_own_texts(place):
    shared = talk(ALPACA[1]["instruction"], "Stand on a chair and hum.")
    place.write("b.jsonl", [shared])
    place.update(budget=20)
    place.remove(ids=[next(i for i in pool_ids(place) if "hum" in answer_of(place, i))])
    report = place.update()
    assert report.counts.encoded == 0
    assert report.counts.selected == len(ALPACA)


def pool_ids(place):
    return Store(place.store).read(SAMPLES, ["id"])["id"].to_list()


def answer_of(place, id_):
    return Store(place.store).read(SAMPLES, ["messages"], f"id = '{id_}'").item(0, 0)[-1]["content"]


def test_a_removed_conversation_does_not_come_back_with_a_file(place):
    id_ = place.id_of(ALPACA[1]["instruction"])
    place.remove(ids=[id_])
    place.write("a.jsonl", [*ALPACA, *FURTHER]).write("copy.jsonl", ALPACA[:3])
    report = place.update(budget=50)
    assert report.counts.rejected == 2
    assert id_ not in pool_ids(place) and not place.holds(ALPACA[1]["output"])
    assert report.counts.read == sum((report.counts.selected, report.counts.skipped, 2, report.counts.merged))


def test_a_removal_that_was_killed_is_carried_out_by_the_next_run(place):
    id_ = place.id_of(ALPACA[1]["instruction"])
    row = {"id": id_, "status": "started", "removed": "2026-01-02", "reason": ""}
    Store(place.store).write(REMOVALS, pl.DataFrame([row]))
    report = place.update(budget=20)
    assert report.counts.rejected == 1 and not place.holds(ALPACA[1]["output"])
    assert Store(place.store).read(REMOVALS, ["status"])["status"].sort().to_list() == ["finished", "started"]


def test_rows_are_removed_by_a_condition(place):
    place.write("b.jsonl", MORE)
    place.update(budget=50)
    file = place.pool / "b.jsonl"
    assert place.remove(where=f"file = '{file}' AND line < 3").samples == 2
    assert place.update().counts.selected == len(ALPACA) + 1
    assert Store(place.store).count(SOURCES) == len(ALPACA) + 1


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"ids": ["0" * 32]}, "There is no sample 0000"),
        ({"where": "nonsense =="}, "cannot be read"),
        ({"where": "colour = 'red'"}, "cannot be read"),
        ({"where": " "}, "where"),
        ({"reason": "x" * 301}, "reason"),
    ],
)
def test_a_removal_that_means_nothing_is_refused(place, asked, told):
    nothing = {"ids": [], "where": None, "reason": "", "old_versions": False}
    with pytest.raises(InputError, match=told):
        matching(Store(place.store), removal_settings(**{**nothing, **asked}))


def test_a_condition_is_on_files_as_they_are_now_unless_the_past_is_asked_for(place):
    place.write("a.jsonl", [FURTHER[0], *ALPACA])
    place.update()
    store = Store(place.store)
    second = place.id_of(ALPACA[0]["instruction"]), place.id_of(ALPACA[1]["instruction"])
    now = matching(store, RemovalSettings(where="line = 2"))
    assert (now.ids, now.older) == ([second[0]], 1)
    assert set(matching(store, RemovalSettings(where="line = 2", old_versions=True)).ids) == set(second)


@pytest.mark.parametrize("broken", [1, 2, 3])
def test_a_removal_that_breaks_off_while_old_versions_are_dropped_is_finished_by_the_next_run(
    place, monkeypatch, broken
):
    """However far the dropping came."""
    text, id_ = place.lines()[0]["output"], place.lines()[0]["deita"]["id"]
    purge, left = Store._purge, broken

    def break_off(store, *given):
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return purge(store, *given)

    with monkeypatch.context() as broken_off:
        broken_off.setattr(Store, "_purge", break_off)
        with pytest.raises(KeyboardInterrupt):
            remove(Store(place.store), [id_], "")
    assert place.holds(text)
    place.update()
    assert not place.holds(text)


# -- what breaks off between two writes


def break_off(*_, **__):
    raise ConnectionError("the server is gone")


def test_an_snapshot_stands_whatever_fails_after_it(place, monkeypatch):
    place.write("b.jsonl", MORE)
    with monkeypatch.context() as failing:
        failing.setattr(Store, "compact", break_off)
        with pytest.raises(ConnectionError):
            place.update()
    store = Store(place.store)
    assert snapshots(store)["number"].to_list() == [1, 2]
    export_selection(store, read_snapshot(store, 2).report, place.folder / "again")
    assert (place.folder / "again" / "selected.jsonl").read_bytes() == (place.out / "selected.jsonl").read_bytes()


def test_a_run_retried_after_its_snapshot_was_recorded_only_hands_it_over(place, monkeypatch):
    import flows.selection

    place.write("b.jsonl", MORE)
    failures = iter([True])
    hand_over = flows.selection.place_files

    def fail_once(*given):
        return break_off() if next(failures, False) else hand_over(*given)

    monkeypatch.setattr(flows.selection, "place_files", fail_once)
    flows.selection.update.with_options(retries=1)([], str(place.out), place.settings())
    made = snapshots(Store(place.store))
    assert (made["number"].to_list(), made["run_id"].n_unique()) == ([1, 2], 2)
    assert {row["deita"]["reason"] for row in place.lines("added.jsonl")} == {"new in the pool"}
    same_selection(place, place.from_scratch(budget=5))


# -- where an update goes on from


def test_folders_of_one_store_keep_their_own_snapshots(place):
    other = Place.__new__(Place)
    other.folder, other.pool, other.store, other.out = place.folder, place.pool, place.store, place.folder / "other"
    for budget in (4, 3, 2):
        other.update(place.pool, budget=budget, keep_snapshots=2)
    assert snapshots(Store(place.store))["number"].to_list() == [1, 3, 4]
    assert place.update().job.settings.budget == 5
    store = Store(place.store)
    export_selection(store, read_snapshot(store, 3).report, place.folder / "third")
    assert not (place.folder / "third" / "CHANGES.md").exists()


def test_a_folder_of_another_store_is_not_overwritten(place):
    files = {path.name: path.read_bytes() for path in place.out.iterdir()}
    right, place.store = place.store, place.folder / "wrong"
    with pytest.raises(InputError, match=f"a selection of the store {right}"):
        place.update(place.pool)
    place.out = place.folder / "new"
    with pytest.raises(InputError, match="has no snapshot"):
        place.update()
    assert {path.name: path.read_bytes() for path in (place.folder / "out").iterdir()} == files


def test_a_pool_named_from_a_folder_is_looked_for_there(place, monkeypatch, tmp_path):
    monkeypatch.chdir(place.folder)
    place.out = place.folder / "relative"
    place.select(pool="pool")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"is named from {place.folder}"):
        place.update()


def test_a_file_that_only_moved_is_the_same_file(place):
    (place.pool / "a.jsonl").rename(place.pool / "z.jsonl")
    report = place.update()
    assert (report.counts.read, report.counts.merged) == (len(ALPACA), 0)
    same_selection(place, place.from_scratch(budget=5))


def test_a_limit_that_is_lowered_reads_no_more_than_that(place):
    assert place.update(limit=3).counts.read == 3


def test_a_threshold_can_be_left_to_auto_where_the_snapshot_has_a_budget(place):
    report = place.update(threshold="auto")
    assert (report.job.settings.threshold, report.counts.selected) == ("auto", 5)


def test_results_of_other_snapshots_are_no_data(place):
    place.out = place.pool / "results"
    place.select(budget=3)
    place.out = place.folder / "out"
    assert place.update().counts.read == len(ALPACA)


def test_another_preset_takes_back_what_presets_set():
    paper = SelectionSettings(preset="paper", budget=7, runner="processes")
    now = settings_after(paper, SelectionSettings(preset="laptop"))
    assert (now.encoder, now.turns, now.budget, now.runner) == (SelectionSettings().encoder, "mean", 7, "threads")


def test_how_much_a_served_scorer_is_asked_is_never_taken_over():
    before = SelectionSettings(budget=7, llm=ServedLimits(concurrency=2))
    assert settings_after(before, SelectionSettings()).llm is None
    now = settings_after(before, SelectionSettings(llm=ServedLimits(timeout=5)))
    assert (now.budget, now.llm) == (7, ServedLimits(timeout=5))


def test_settings_of_a_snapshot_made_before_there_were_limits_can_be_read():
    written = SelectionSettings(budget=7).model_dump(exclude={"llm"})
    assert settings_after(SelectionSettings(**written), SelectionSettings()) == SelectionSettings(budget=7)


# -- the command


def deita(place, *words):
    """What a command prints; its exit code must be 0."""
    from flows.cli.main import app

    done = CliRunner().invoke(app, [*map(str, words), "--store", str(place.store)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_commands_tell_what_they_did(place):
    place.write("b.jsonl", MORE)
    assert "Snapshot 2, after 1:" in deita(place, "update", "--out", place.out)
    assert [line.split()[0] for line in deita(place, "snapshots").splitlines()[1:]] == ["1", "2"]
    assert "# Snapshot 2 beside snapshot 1" in deita(place, "diff")
    assert "Would remove 2 conversations" in deita(place, "remove", "--where", "line = 1", "--dry-run")
    assert Store(place.store).count(REMOVALS) == 0
    assert "Removed 2 conversations" in deita(place, "remove", "--where", "line = 1")
    assert Store(place.store).count(REMOVALS, "status = 'finished'") == 2
    deita(place, "export", "1", "--out", place.folder / "first")
    assert (place.folder / "first" / "manifest.json").exists()
