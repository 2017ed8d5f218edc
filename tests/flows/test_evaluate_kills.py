"""Evaluations that are killed twice on their way, against an endpoint that fails in every quick way it knows."""

import json
import os
import subprocess
import sys
from collections import defaultdict

import pytest

from tests.support.evaluation_run import alpaca_eval, mt_bench, with_template, write_rows
from tests.support.killing import kept_answers, kill_after
from tests.support.llm_rules import RANK_FAULTS
from tests.support.llm_server import QUICK_FAULTS, ServerProcess, evenly
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

CONCURRENCY = 8
FAULTS = {
    **evenly(0.2, set(QUICK_FAULTS) - {"429_date"}),
    **dict.fromkeys([*RANK_FAULTS, "cut_off", "content_filter", "empty"], 0.02),
}
SERVER = {"faults": FAULTS, "latency": 0.02, "jitter": 0.02, "retry_after": 0.02}
LIMITS = f"{{concurrency: {CONCURRENCY}, timeout: 5, first_pause: 0.02, attempts: 20}}"
SETTINGS = f"store: store\nmax_tokens: 100\nbatch: 2\nprecision: float32\nllm: {LIMITS}\nanswering: {LIMITS}\n"
# An answer is lost with a process that has it, but has not come to keep it: milliseconds, on a busy machine more.
LOST = 2.0


class Client:
    """`deita evaluate judge` in a folder of its own; a model of None is served by the judge's server."""

    def __init__(self, folder, url, prefect, questions, reference, model):
        folder.mkdir()
        (folder / "deita.yaml").write_text(SETTINGS)
        self.folder = folder
        self._line = [sys.executable, "-m", "flows.cli", "evaluate", "judge", str(model or f"{url}#tuned")]
        self._line += ["--questions", questions, "--judge", f"{url}#m", "--config", "deita.yaml", "--out", "out"]
        self._line += ["--reference", reference] if reference else []
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": prefect, "COLUMNS": "200"}

    def start(self):
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(self._line, cwd=self.folder, env=self._environment, **quiet)

    def run(self):
        process = self.start()
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said

    def run_until(self, answers):
        """Kill it once so many answers are kept; the moment, by the steady clock."""
        return kill_after(self.start(), self.folder / "store", answers)

    def kept(self):
        """How many answers are kept."""
        return kept_answers(self.folder / "store")

    def results(self):
        """The files, and the figures without what belongs to one run or one server's address."""
        figures = json.loads((self.folder / "out/figures.json").read_text())
        rows = [(self.folder / "out" / name).read_text() for name in ("answers.jsonl", "judgements.jsonl")]
        kept = {name: figures[name] for name in ("figures", "counts", "protocol", "fingerprint", "judge", "job")}
        return kept, [line for text in rows for line in text.splitlines()]


@pytest.fixture(scope="module", params=["scores", "pairs", "scores of a model here"])
def runs(request, prefect_server, tiny_llama, tmp_path_factory):
    """An undisturbed run, a killed one with the moments of its kills, and what its server saw."""
    place = tmp_path_factory.mktemp("kills")
    pairs = request.param == "pairs"
    questions = write_rows(place / "questions.jsonl", alpaca_eval(60) if pairs else mt_bench(30))
    model = with_template(tiny_llama, place / "model") if "here" in request.param else None
    given = (prefect_server, questions, questions if pairs else None, model)
    with ServerProcess(**SERVER) as server:
        calm = Client(place / "calm", server.url, *given)
        calm.run()
        client = Client(place / "killed", server.url, *given)
        before = len(server.report()[0])
        kills = [client.run_until(calm.kept() * part // 4) for part in (1, 3)]
        client.run()
        log = server.report()[0]
    return calm, client, kills, log[:before], log[before:]


def answers(log):
    """The moments at which each request was answered in full with a good 200."""
    found = defaultdict(list)
    for entry in log:
        if entry.answered is not None:
            found[entry.hash].append(entry.answered)
    return found


def test_nothing_answered_is_asked_again_but_for_what_died_with_the_process(runs):
    calm, client, kills, calm_log, log = runs
    assert max(map(len, answers(calm_log).values())) == 1 and len(calm_log) > len(answers(calm_log))
    found = answers(log)
    twice = [times for times in found.values() if len(times) > 1]
    print(f"\n{len(log):,} requests sent, {len(found):,} answered, of which {len(twice)} twice")
    assert len(twice) <= len(kills) * CONCURRENCY and all(len(times) == 2 for times in twice)
    assert all(min(abs(kill - times[0]) for kill in kills) < LOST for times in twice)
    assert set(found) == set(answers(calm_log)) and client.kept() == calm.kept()


def test_files_and_figures_are_those_of_an_undisturbed_run(runs):
    calm, client, *_ = runs
    assert client.results() == calm.results()
    assert client.results()[0]["counts"]["quarantined"]
