"""An evolution that is killed twice on its way, against an endpoint that fails in every way it knows."""

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict

import polars as pl
import pytest

from deita_core.store import Store
from deita_core.tables import CHAINS, RANKINGS
from tests.support.evolution_run import write_seeds
from tests.support.killing import kept_answers, kill_after
from tests.support.llm_server import CONTENT_FAULTS, QUICK_FAULTS, SLOW_FAULTS, ServerProcess, evenly
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

SEEDS, ROUNDS, CONCURRENCY, AUDIT = 60, 5, 32, 10
AXES = ("complexity", "quality")
# Whole seconds for which all wait, so only a few of them.
RARE = {"429_date": 0.002}
# Eight faults of content fit a request to evolve, and ten one to rank.
FAULTS = {**evenly(0.2, {*QUICK_FAULTS, *SLOW_FAULTS} - set(RARE)), **RARE, **dict.fromkeys(CONTENT_FAULTS, 0.2 / 8)}
SERVER = {"faults": FAULTS, "latency": 0.01, "jitter": 0.02, "retry_after": 0.02}
SETTINGS = f"""
axis: both
seeds: {SEEDS}
rounds: {ROUNDS}
audit: {AUDIT}
store: store
llm: {{model: m, concurrency: {CONCURRENCY}, timeout: 0.5, first_pause: 0.02, attempts: 20}}
"""
# An answer is lost with a process that has it, but has not come to keep it: milliseconds, on a busy machine more.
LOST = 2.0


class Client:
    """`deita evolve` in a folder of its own, against a server."""

    def __init__(self, folder, url, pool, prefect):
        folder.mkdir()
        (folder / "deita.yaml").write_text(SETTINGS)
        seeds = [ROOT / "examples/pool", pool]
        self.folder, self._line = folder, [sys.executable, "-m", "flows.cli", "evolve", *map(str, seeds)]
        self._line += ["--config", "deita.yaml", "--base-url", url, "--out", "out"]
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": prefect, "COLUMNS": "200"}

    def start(self):
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(self._line, cwd=self.folder, env=self._environment, **quiet)

    def run(self):
        process = self.start()
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
        return said

    def run_until(self, answers):
        """Kill it once so many answers are kept; the moment, by the steady clock."""
        return kill_after(self.start(), self.folder / "store", answers)

    def answered(self):
        """How many answers are kept."""
        return kept_answers(self.folder / "store")

    def table(self, table):
        return Store(self.folder / "store").read(table).sort(table.key)

    def files(self):
        return {path.name: path.read_bytes() for path in sorted((self.folder / "out").glob("*.jsonl"))}

    @property
    def manifest(self):
        return json.loads((self.folder / "out/manifest.json").read_text())


@pytest.fixture(scope="module")
def runs(prefect_server, tmp_path_factory):
    """An undisturbed run, a killed one with the moments of its kills, and what their servers saw."""
    place = tmp_path_factory.mktemp("kills")
    pool = write_seeds(place / "more.jsonl", 80)
    with ServerProcess(**SERVER) as server:
        calm = Client(place / "calm", server.url, pool, prefect_server)
        calm.run()
        calm_log, _ = server.report()
    with ServerProcess(**SERVER) as server:
        client = Client(place / "killed", server.url, pool, prefect_server)
        kills = [client.run_until(calm.answered() * part // 3) for part in (1, 2)]
        said = client.run()
        log, _ = server.report()
    return calm, client, kills, calm_log, log, said


def answers(log):
    """The moments at which each request was answered in full with a good 200."""
    found = defaultdict(list)
    for entry in log:
        if entry.answered is not None:
            found[entry.hash].append(entry.answered)
    return found


def test_the_endpoint_failed_in_every_way_it_knows(runs):
    _, _, _, calm_log, log, _ = runs
    did = Counter(entry.did for entry in [*calm_log, *log])
    assert set(FAULTS) <= set(did)
    transport = sum(did[fault] for fault in (*QUICK_FAULTS, *SLOW_FAULTS))
    assert 0.17 < transport / did.total() < 0.23
    assert 0.17 < sum(did[fault] for fault in CONTENT_FAULTS) / (did.total() - transport) < 0.25


def test_no_answered_request_is_asked_again_but_for_those_that_died_with_the_process(runs):
    calm, client, kills, calm_log, log, said = runs
    assert max(map(len, answers(calm_log).values())) == 1
    found = answers(log)
    twice = {request: times for request, times in found.items() if len(times) > 1}
    before = [min(kill - times[0] for kill in kills if kill > times[0] - LOST) for times in twice.values()]
    did = Counter(entry.did for entry in log)
    print(
        f"\n{len(log):,} requests sent, {len(found):,} answered, of which {len(twice)} twice; "
        f"undisturbed {len(calm_log):,} sent, {len(answers(calm_log)):,} answered; "
        f"those answered twice were first answered {', '.join(f'{1000 * b:.0f}' for b in sorted(before)) or '-'} ms "
        f"before a kill\n{dict(did)}\n{said}"
    )
    assert all(len(times) == 2 for times in twice.values())
    assert len(twice) <= len(kills) * CONCURRENCY
    assert all(-LOST < lag < LOST for lag in before)
    assert client.answered() == calm.answered() == len(found)


@pytest.mark.parametrize("axis", AXES)
def test_every_chain_is_complete_or_says_why_not(axis, runs):
    _, client, *_ = runs
    chains = client.table(CHAINS).filter(axis=axis)
    assert chains["chain"].n_unique() == chains["seed_id"].n_unique() == SEEDS
    rankings = client.table(RANKINGS).filter(repeat=0)
    ranked = dict(rankings.group_by("chain").agg(pl.struct("step", "score", "status", "reason")).iter_rows())
    for rows in chains.partition_by("chain"):
        good = rows.filter(status="ok")
        assert good["step"].to_list() == list(range(len(good)))
        last = rows.row(-1, named=True)
        assert len(good) == ROUNDS + 1 or (last["status"] == "failed" and last["reason"])
        assert (rows["reason"].is_null() == (rows["status"] == "ok")).all()
        judged = ranked.get(last["chain"], [])
        assert len(judged) == (len(good) if len(good) > 1 else 0)
        assert all((row["score"] is None) == bool(row["reason"]) for row in judged)
    counts = client.manifest["counts"][axis]
    assert counts["seeds"] == SEEDS == counts["complete"] + counts["short"] + counts["quarantined"]
    assert sum(counts["reasons"].values()) == counts["short"] + counts["quarantined"]
    assert "no_answer" not in counts["reasons"]


def test_the_tables_are_those_of_an_undisturbed_run(runs):
    calm, client, *_ = runs
    assert client.table(CHAINS).equals(calm.table(CHAINS))
    assert client.table(RANKINGS).equals(calm.table(RANKINGS))
    assert client.manifest["counts"] == calm.manifest["counts"]
    assert client.manifest["audits"] == calm.manifest["audits"]


def test_the_files_are_those_of_an_undisturbed_run_to_the_byte(runs):
    calm, client, *_ = runs
    assert len(client.files()) == 7
    assert client.files() == calm.files()
