import csv
import json
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest

from deita_core.config.settings import SelectionSettings
from deita_core.errors import InputError, StoreError
from deita_core.store import Store
from deita_core.tables import DECISIONS, SAMPLES, SNAPSHOTS, SOURCES
from tests.support.pools import ALPACA, MESSAGES, TOOL_TALK, talk
from tests.support.prefect_runs import ended_tasks

# Another row with the same texts, and one with a word changed.
TWIN = {**ALPACA[3], "source": "another site"}
ALMOST = {**ALPACA[3], "output": ALPACA[3]["output"].replace("everywhere", "all sides")}
BAD_ALPACA = [
    b'{"instruction": "Broken',
    b'{"instruction": "No answer here"}',
    b'{"instruction": "Blank", "output": "  "}',
]
SHAREGPT = [
    {
        "id": "talk-1",
        "system": "You answer in one sentence.",
        "conversations": [
            {"from": "human", "value": "Who painted the Mona Lisa?"},
            {"from": "gpt", "value": "Leonardo da Vinci, between about 1503 and 1506."},
            {"from": "human", "value": "Where does it hang?"},
            {"from": "gpt", "value": "In the Louvre in Paris."},
        ],
    },
    {
        "id": "talk-2",
        "conversations": [
            {"from": "human", "value": "用一句话介绍长城。"},
            {"from": "gpt", "value": "长城是中国古代修建的防御工程，全长两万多公里。"},
        ],
    },
    {"id": "talk-3", "conversations": [{"from": "narrator", "value": "Once"}, {"from": "gpt", "value": "upon a time"}]},
]


READ = 7 + 2 + 3 + 3 + 3 + 3
REJECTED = 3 + 1 + 1
MERGED = 2
DISTINCT = READ - REJECTED - MERGED


def write_pool(folder):
    """21 rows in four layouts: 5 bad, 2 exact duplicates (one in another file), one almost a duplicate."""
    folder.mkdir(parents=True)
    good = [orjson.dumps({**row, "n": 10**15 + n, "tags": ["a", "ü"]}) for n, row in enumerate([*ALPACA, TWIN, ALMOST])]
    (folder / "alpaca.jsonl").write_bytes(b"\n".join([*good[:5], *BAD_ALPACA, *good[5:]]) + b"\n")
    (folder / "sharegpt.json").write_bytes(orjson.dumps(SHAREGPT))
    pl.DataFrame(MESSAGES).write_parquet(folder / "messages.parquet")
    with (folder / "notes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["prompt", "response", "rating"], ["Name a prime.", "Seventeen.", "4"]])
        # The second record is one cell short.
        writer.writerows([["Capital of Peru?", "Lima"], ["Define entropy.", "How many microstates there are.", "5"]])
    return folder


@dataclass
class Run:
    pool: Path
    store: Path
    out: Path
    report: object

    @property
    def decisions(self):
        return pl.read_parquet(self.out / "decisions.parquet")

    @property
    def selected(self):
        return [json.loads(line) for line in (self.out / "selected.jsonl").read_text(encoding="utf-8").splitlines()]

    @property
    def manifest(self):
        return json.loads((self.out / "manifest.json").read_text())


@pytest.fixture(scope="module")
def run_flow(prefect_server, laptop):
    """Runs the flow on a pool."""
    from flows.selection import select

    def run(pool, store, out, **settings):
        files = [str(path) for path in pool] if isinstance(pool, list) else [str(pool)]
        report = select(files, str(out), SelectionSettings(store=str(store), **settings))
        return Run(pool, Path(store), Path(out), report)

    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("select")
    write_pool(folder / "pool")
    return folder


@pytest.fixture(scope="module")
def first(run_flow, place):
    """A run over the whole pool, without a budget."""
    return run_flow(place / "pool", place / "store", place / "first")


@pytest.fixture(scope="module")
def second(first, run_flow, place):
    """The same once more, into another folder."""
    return run_flow(place / "pool", place / "store", place / "second")


def ranked_ids(run):
    return [row["deita"]["id"] for row in run.selected]


# -- where every row went


def test_counts_are_those_planted(first):
    counts = first.report.counts
    assert (counts.read, counts.rejected, counts.merged) == (READ, REJECTED, MERGED)
    assert counts.selected + counts.near_duplicate + counts.over_budget == DISTINCT
    assert counts.near_duplicate >= 1


def test_counts_add_up(first, second):
    for run in (first, second):
        counts = run.report.counts
        assert counts.read == counts.selected + counts.skipped + counts.rejected + counts.merged


def test_every_row_of_the_pool_has_a_decision(first):
    decisions = first.decisions
    assert decisions["copies"].sum() + decisions["id"].null_count() == READ
    assert Counter(decisions["fate"]) == {
        "selected": first.report.counts.selected,
        "near_duplicate": first.report.counts.near_duplicate,
        "rejected": REJECTED,
    }
    assert (decisions.filter(pl.col("fate") != "selected")["reason"].str.len_chars() > 10).all()


def test_bad_rows_are_rejected_by_file_line_and_reason(first):
    rejected = first.decisions.filter(pl.col("fate") == "rejected")
    places = {(Path(file).name, line) for file, line in rejected.select("file", "line").iter_rows()}
    assert places == {
        ("alpaca.jsonl", 6),
        ("alpaca.jsonl", 7),
        ("alpaca.jsonl", 8),
        ("sharegpt.json", 3),
        ("notes.csv", 3),
    }


def test_exact_duplicates_are_one_row_with_two_copies(first):
    copies = {
        row["deita"]["file"].rsplit("/", 1)[-1]: row["deita"]["copies"]
        for row in first.selected
        if row["deita"]["copies"] > 1
    }
    decided = first.decisions.filter(pl.col("copies") > 1)
    assert len(decided) == MERGED
    assert set(copies.values()) <= {2}


def test_a_near_duplicate_names_the_better_one_that_blocked_it(first):
    blocked = first.decisions.filter(pl.col("fate") == "near_duplicate").to_dicts()
    sky = {i for i, text in texts_by_id(first).items() if text.startswith("Why is the sky blue?")}
    assert len(sky) == 2
    row = next(row for row in blocked if row["id"] in sky)
    assert row["duplicate_of"] in sky - {row["id"]}
    assert row["similarity"] > 0.9
    assert row["duplicate_of"] in row["reason"]
    winner = next(other for other in first.selected if other["deita"]["id"] == row["duplicate_of"])
    assert winner["deita"]["score"] >= row["score"]


def texts_by_id(run):
    frame = Store(run.store).read(SAMPLES, ["id", "messages"])
    return {id_: "\n\n".join(m["content"] for m in messages) for id_, messages in frame.iter_rows()}


def test_no_two_selected_rows_are_more_alike_than_the_threshold(first, laptop):
    """Checked from the texts, with vectors of our own."""
    messages = [m["content"] for row in read_parquet_rows(first) for m in row]
    encoded = dict(zip(messages, laptop.encode(messages).vectors.astype(np.float64), strict=True))
    talks = np.stack([sum(len(m["content"]) * encoded[m["content"]] for m in row) for row in read_parquet_rows(first)])
    talks /= np.linalg.norm(talks, axis=1, keepdims=True)
    likeness = talks @ talks.T
    np.fill_diagonal(likeness, -1)
    assert likeness.max() <= 0.9 + 2e-3


def read_parquet_rows(run):
    return pl.read_parquet(run.out / "selected.parquet")["messages"].to_list()


def test_selected_rows_come_best_first(first):
    facts = [row["deita"] for row in first.selected]
    assert [fact["rank"] for fact in facts] == sorted(fact["rank"] for fact in facts)
    assert [fact["score"] for fact in facts] == sorted((fact["score"] for fact in facts), reverse=True)
    assert all(1 <= fact[axis] <= 6 for fact in facts for axis in ("complexity", "quality"))


def test_own_fields_come_back_as_they_were(first):
    given = [{**row, "n": 10**15 + n, "tags": ["a", "ü"]} for n, row in enumerate([*ALPACA, TWIN, ALMOST])]
    given += SHAREGPT + MESSAGES
    given += [{"prompt": "Name a prime.", "response": "Seventeen.", "rating": "4"}]
    given += [{"prompt": "Define entropy.", "response": "How many microstates there are.", "rating": "5"}]
    for row in first.selected:
        own = {name: value for name, value in row.items() if name != "deita"}
        assert own in given


def test_a_row_leads_back_to_its_line(first):
    lines = (first.pool / "alpaca.jsonl").read_bytes().splitlines()
    rows = [row for row in first.selected if row["deita"]["file"].endswith("alpaca.jsonl")]
    assert len(rows) >= 5
    for row in rows:
        assert orjson.loads(lines[row["deita"]["line"] - 1])["instruction"] == row["instruction"]


# -- the folder and the store


def test_a_folder_holds_the_whole_selection(first):
    names = {path.name for path in first.out.iterdir()}
    assert names >= {"selected.jsonl", "selected.parquet", "decisions.parquet", "README.md", "manifest.json"}
    assert not [name for name in names if name.endswith(".partial")]
    assert first.manifest["counts"]["read"] == READ
    assert (
        f"{first.report.counts.selected:,} conversations selected from {READ}" in (first.out / "README.md").read_text()
    )


def test_the_run_is_recorded(first):
    made = Store(first.store).read(SNAPSHOTS)
    row = made.row(by_predicate=pl.col("run_id") == first.manifest["run_id"], named=True)
    settings = json.loads(row["report"])["job"]["settings"]
    del settings["llm"]
    assert settings == first.manifest["settings"]
    decided = Store(first.store).count(DECISIONS, f"run_id = '{first.manifest['run_id']}'")
    assert decided == DISTINCT


def test_results_of_tasks_lie_inside_the_store(first):
    assert any((first.store / "results").iterdir())


def test_the_lock_is_given_back(first):
    with Store(first.store).lock("another run"):
        pass


# -- once more


def test_a_second_run_encodes_and_scores_nothing(first, second):
    assert first.report.encoded > 20 and first.report.scored > 20
    assert (second.report.encoded, second.report.scored) == (0, 0)


def test_a_second_run_selects_the_same_to_the_byte(first, second):
    for name in ("selected.jsonl", "selected.parquet", "decisions.parquet"):
        assert (first.out / name).read_bytes() == (second.out / name).read_bytes()


def test_rows_gone_from_the_store_are_noticed_and_read_again(first, second, run_flow, place):
    store = Store(place / "store")
    before = store.count(SOURCES)
    store.delete(SOURCES, "line > 1")
    assert store.count(SOURCES) < before
    again = run_flow(place / "pool", place / "store", place / "again")
    assert store.count(SOURCES) == before
    assert (again.report.encoded, again.report.scored) == (0, 0)
    assert (again.out / "selected.jsonl").read_bytes() == (first.out / "selected.jsonl").read_bytes()


def test_rows_of_a_file_with_a_task_of_its_own_are_noticed_and_read_again(first, run_flow, place):
    """With a limit, each file is read by a task of its own, as large files are."""
    limited = run_flow(place / "pool", place / "store", place / "limited", limit=40)
    store = Store(place / "store")
    before = store.count(SOURCES)
    store.delete(SOURCES, "line > 1")
    assert store.count(SOURCES) < before
    again = run_flow(place / "pool", place / "store", place / "limited-again", limit=40)
    assert again.report.counts == limited.report.counts
    assert ranked_ids(again) == ranked_ids(limited)


def test_samples_gone_from_the_store_are_noticed_and_read_again(first, second, run_flow, place):
    store = Store(place / "store")
    store.delete(SAMPLES, f"id = '{ranked_ids(first)[-1]}'")
    again = run_flow(place / "pool", place / "store", place / "resampled")
    assert again.report.counts.merged == MERGED
    assert ranked_ids(again) == ranked_ids(first)


def test_results_gone_from_the_store_are_no_loss(first, second, run_flow, place):
    shutil.rmtree(place / "store/results")
    again = run_flow(place / "pool", place / "store", place / "without-results")
    assert (again.report.encoded, again.report.scored) == (0, 0)
    assert (again.out / "selected.jsonl").read_bytes() == (first.out / "selected.jsonl").read_bytes()


def test_a_budget_takes_the_best_of_the_same_walk(first, second, run_flow, place):
    some = run_flow(place / "pool", place / "store", place / "budget", budget=5)
    assert ranked_ids(some) == ranked_ids(first)[:5]
    counts = some.report.counts
    assert (counts.selected, counts.encoded, counts.scored) == (5, 0, 0)
    assert counts.over_budget == DISTINCT - 5 - counts.near_duplicate
    reasons = some.decisions.filter(pl.col("fate") == "over_budget")["reason"].unique().to_list()
    assert reasons == ["the budget was full before its turn"]


def test_auto_finds_a_threshold_that_fills_the_budget(first, second, run_flow, place):
    some = run_flow(place / "pool", place / "store", place / "auto", budget=6, threshold="auto")
    assert some.report.counts.selected == 6
    assert 0 <= some.manifest["threshold"] < 0.9
    tighter = round(some.manifest["threshold"] - 0.001, 3)
    fewer = run_flow(place / "pool", place / "store", place / "tighter", budget=6, threshold=tighter)
    assert fewer.report.counts.selected < 6


def test_the_order_of_the_files_changes_nothing(first, second, run_flow, place):
    files = sorted((place / "pool").iterdir(), reverse=True)
    assert ranked_ids(run_flow(files, place / "store", place / "reversed")) == ranked_ids(first)


def test_an_updated_pool_costs_only_what_is_new_and_ends_as_from_scratch(first, run_flow, place, tmp_path):
    shutil.copytree(place / "store", tmp_path / "store")
    grown = tmp_path / "pool"
    shutil.copytree(place / "pool", grown)
    new = talk("Why do cats purr?", "Often from contentment, but also to calm themselves when hurt or afraid.")
    (grown / "update.jsonl").write_bytes(orjson.dumps(new) + b"\n" + orjson.dumps(MESSAGES[0]) + b"\n")
    updated = run_flow(grown, tmp_path / "store", tmp_path / "updated")
    assert (updated.report.encoded, updated.report.scored) == (2, 2)
    scratch = run_flow(grown, tmp_path / "another-store", tmp_path / "scratch")
    assert ranked_ids(updated) == ranked_ids(scratch)
    assert updated.report.counts.merged == scratch.report.counts.merged == MERGED + 1
    pairs = zip(updated.selected, scratch.selected, strict=True)
    assert all(a["deita"]["score"] == pytest.approx(b["deita"]["score"], abs=0.02) for a, b in pairs)


# -- formats


def render(run, id_):
    return next(row for row in run.selected if row["deita"]["id"] == id_)


def id_of(run, beginning):
    return next(id_ for id_, text in texts_by_id(run).items() if beginning in text)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("messages", {"messages": [
            {"role": "system", "content": "You answer in one sentence."},
            {"role": "user", "content": "Who painted the Mona Lisa?"},
            {"role": "assistant", "content": "Leonardo da Vinci, between about 1503 and 1506."},
            {"role": "user", "content": "Where does it hang?"},
            {"role": "assistant", "content": "In the Louvre in Paris."},
        ]}),
        ("sharegpt", {"conversations": [
            {"from": "system", "value": "You answer in one sentence."},
            {"from": "human", "value": "Who painted the Mona Lisa?"},
            {"from": "gpt", "value": "Leonardo da Vinci, between about 1503 and 1506."},
            {"from": "human", "value": "Where does it hang?"},
            {"from": "gpt", "value": "In the Louvre in Paris."},
        ]}),
        ("alpaca", {
            "instruction": "Where does it hang?",
            "input": "",
            "output": "In the Louvre in Paris.",
            "system": "You answer in one sentence.",
            "history": [["Who painted the Mona Lisa?", "Leonardo da Vinci, between about 1503 and 1506."]],
        }),
    ],
)  # fmt: skip
def test_a_selection_is_written_in_the_layout_asked_for(layout, expected, first, second, run_flow, place):
    run = run_flow(place / "pool", place / "store", place / layout, format=layout)
    assert ranked_ids(run) == ranked_ids(first)
    assert len({tuple(sorted(row.keys() - {"system", "history"})) for row in run.selected}) == 1
    row = render(run, id_of(run, "Mona Lisa"))
    assert {name: value for name, value in row.items() if name != "deita"} == expected


@pytest.mark.parametrize("layout", ["messages", "sharegpt", "alpaca"])
def test_what_is_written_is_read_again_as_the_same_samples(layout, first, second, run_flow, place):
    run = run_flow(place / "pool", place / "store", place / f"{layout}-again", format=layout)
    twice = run_flow(run.out / "selected.jsonl", place / "store", place / f"{layout}-twice", threshold=1.0)
    assert sorted(ranked_ids(twice)) == sorted(ranked_ids(run))


# -- tasks


def task_runs(run):
    """Names and states of a run's tasks."""
    from prefect.client.schemas.filters import FlowRunFilter

    tasks = ended_tasks(FlowRunFilter(id={"any_": [run.manifest["run_id"]]}), "record run")
    return [(task.name, task.state.name) for task in tasks]


def test_every_task_of_a_run_is_completed(first):
    from prefect.client.orchestration import get_client

    states = task_runs(first)
    names = " ".join(name for name, _ in states)
    assert all(state == "Completed" for _, state in states)
    for step in (
        "find files",
        "read ",
        "plan encoding",
        "encode ",
        "score complexity and quality",
        "select",
        "export",
    ):
        assert step in names
    assert len(states) < 100
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(first.manifest["run_id"]).state.is_completed()


def test_a_second_run_reads_no_file_again_and_has_no_shards(second):
    names = dict(task_runs(second))
    assert "find files" in names
    assert not [name for name in names if name.startswith(("read ", "encode ", "score "))]


def test_counts_and_the_best_rows_are_artifacts(first):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter

    with get_client(sync_client=True) as client:
        found = client.read_artifacts(flow_run_filter=FlowRunFilter(id={"any_": [first.manifest["run_id"]]}))
    artifacts = {artifact.key: artifact for artifact in found}
    assert f"| read | {READ} |" in artifacts["selection-counts"].data
    table = json.loads(artifacts["selection-top"].data)
    assert [row["id"] for row in table] == ranked_ids(first)[:50]


# -- failures


@pytest.fixture
def small(tmp_path):
    """A pool of two rows, one of which has tool messages."""
    file = tmp_path / "pool.jsonl"
    file.write_bytes(orjson.dumps(TOOL_TALK) + b"\n" + orjson.dumps(MESSAGES[0]) + b"\n")
    return file


def test_a_failed_export_loses_neither_the_earlier_selection_nor_work(small, run_flow, tmp_path):
    store, out = tmp_path / "store", tmp_path / "out"
    run_flow(small, store, out)
    with pytest.raises(InputError, match="tool messages"):
        run_flow(small, store, out, format="alpaca")
    assert (out / "manifest.json").exists()
    again = run_flow(small, store, out, format="messages")
    assert (again.report.encoded, again.report.scored) == (0, 0)
    assert again.manifest["counts"]["selected"] == 2


def test_a_run_that_failed_is_not_recorded(small, run_flow, tmp_path):
    with pytest.raises(InputError):
        run_flow(small, tmp_path / "store", tmp_path / "out", format="alpaca")
    assert Store(tmp_path / "store").count(SNAPSHOTS) == 0


def test_a_failed_task_of_the_users_making_is_not_tried_again(small, run_flow, tmp_path):
    from prefect.client.schemas.filters import FlowRunFilter

    with pytest.raises(InputError):
        run_flow(small, tmp_path / "store", tmp_path / "a very own name", format="alpaca")
    tasks = ended_tasks(FlowRunFilter(name={"like_": "a very own name"}), "prepare")
    [export] = [task for task in tasks if task.name.startswith("prepare")]
    assert export.state.is_failed()
    assert export.run_count == 1


def test_a_locked_store_fails_at_once_with_the_holders_name(small, run_flow, tmp_path):
    with Store(tmp_path / "store").lock("nightly run 7"):
        started = time.monotonic()
        with pytest.raises(StoreError, match="nightly run 7") as refused:
            run_flow(small, tmp_path / "store", tmp_path / "out")
        assert time.monotonic() - started < 30
    assert "wait for it to end" in str(refused.value)
    assert not (tmp_path / "out").exists()
    assert Store(tmp_path / "store").tables() == []
    assert run_flow(small, tmp_path / "store", tmp_path / "out").report.counts.selected == 2


def test_a_pool_that_is_not_there_fails_in_one_sentence(run_flow, tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.jsonl does not exist"):
        run_flow(tmp_path / "nowhere.jsonl", tmp_path / "store", tmp_path / "out")


def test_a_file_without_one_good_row_fails_by_its_name(run_flow, tmp_path):
    (tmp_path / "bad.jsonl").write_bytes(b"\n".join(BAD_ALPACA))
    with pytest.raises(InputError, match=r"bad\.jsonl"):
        run_flow(tmp_path / "bad.jsonl", tmp_path / "store", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_limit_counts_the_rows_of_all_files(first, run_flow, place):
    run = run_flow(place / "pool", place / "store", place / "limited", limit=13)
    counts = run.report.counts
    # Files come in the order of their names: 12 rows of alpaca.jsonl, one of messages.parquet.
    assert (counts.read, counts.rejected, counts.merged) == (13, 3, 1)
    assert counts.read == counts.selected + counts.skipped + counts.rejected + counts.merged


def test_a_limit_that_ends_at_a_bad_row_costs_only_that_row(run_flow, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(orjson.dumps(ALPACA[0]) + b"\n")
    (tmp_path / "b.jsonl").write_bytes(BAD_ALPACA[0] + b"\n" + orjson.dumps(ALPACA[1]) + b"\n")
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    counts = run_flow(files, tmp_path / "store", tmp_path / "out", limit=2).report.counts
    assert (counts.read, counts.selected, counts.rejected) == (2, 1, 1)
