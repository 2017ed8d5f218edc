"""`deita select` and `deita score` with a judge as the scorer, on loopback, and a run of it that is killed twice."""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from functools import partial

import polars as pl
import pytest

from tests.support import commands
from tests.support.killing import kept_answers, kill_after
from tests.support.llm_rules import RANK_FAULTS
from tests.support.llm_server import QUICK_FAULTS, LLMServer, ServerProcess, evenly
from tests.support.paths import ROOT

KEY = "sk-judge-0123456789-very-secret"
ROWS = 40
CONCURRENCY = 8
# An answer is lost with a process that has it, but has not come to keep it: milliseconds, on a busy machine more.
LOST = 2.0


def write_pool(file, rows=ROWS):
    lines = [{"instruction": f"{i}. Why tea?", "output": "Because it calms." + " So." * (i % 7)} for i in range(rows)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def deita(prefect_server, tmp_path):
    """Runs the command in the folder of a pool."""
    write_pool(tmp_path / "pool.jsonl")
    limits = {"DEITA_LLM__API_KEY": KEY, "DEITA_LLM__FIRST_PAUSE": "0.01", "DEITA_LLM__ATTEMPTS": "8"}
    return partial(commands.deita, cwd=tmp_path, **limits)


def test_a_judge_scores_a_pool_once_and_its_unreadable_rows_are_rejected(deita, laptop, tmp_path):
    faults = {**evenly(0.1, ("429", "500", "reset")), **dict.fromkeys(("refusal", "no_json", "out_of_range"), 0.1)}
    with LLMServer(faults=faults) as server:
        line = (
            "select",
            "pool.jsonl",
            "--quality-scorer",
            f"judge+{server.url}#m",
            "--judge-votes",
            "2",
            "--budget",
            "5",
        )
        first = deita(*line, "--out", "first")
        assert first.returncode == 0, first.stderr
        assert set(server.answered().values()) == {1}
        asked = len(server.log)
        assert deita(*line, "--out", "second").returncode == 0 and len(server.log) == asked
    decisions = pl.read_parquet(tmp_path / "first/decisions.parquet").sort("line")
    unread = decisions.filter(pl.col("quality").is_null())
    assert 0 < len(unread) < ROWS and set(unread["fate"]) == {"rejected"}
    assert set(unread["reason"]) == {"a turn has no readable score"}
    outputs = [json.loads(row)["output"] for row in (tmp_path / "pool.jsonl").read_text().splitlines()]
    for quality, output in zip(decisions["quality"], outputs, strict=True):
        assert quality in (None, 1 + len(output) % 6)
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert KEY not in first.stdout + first.stderr and all(KEY.encode() not in content for content in kept)
    assert set(decisions.filter(pl.col("quality").is_not_null())["quality_spread"]) == {0.0}
    manifest = json.loads((tmp_path / "first/manifest.json").read_text())
    assert manifest["scorers"]["quality"]["name"].startswith("judge+http") and manifest["settings"]["judge_votes"] == 2


def test_a_run_and_the_explanation_of_a_row_say_why_a_judge_gave_no_score(deita, laptop, tmp_path):
    def by_row(prompt):
        number = int(re.search(r"^(\d+)\. Why", prompt, re.M)[1])
        said = {0: "I'm sorry, but I can't help with that.", 1: "Score: 8/10", 2: "Score: 9/10"}
        return said.get(number, json.dumps({"reason": "", "score": 3}))

    with LLMServer(chat=by_row) as server:
        name = f"judge+{server.url}#m"
        runs = [
            deita("select", "pool.jsonl", "--quality-scorer", name, "--out", "out"),
            deita("score", "pool.jsonl", "--quality-scorer", name, "--out", "scores.parquet"),
        ]
        assert len(server.log) == ROWS
    why = "the score is not a whole number from 1 to 6 (2), the reply is a refusal (1)"
    assert all(f"No quality score from {name} for 3 turns: {why}.\n" in run.stderr for run in runs)
    explained = [deita("explain", f"pool.jsonl:{line}", "--out", "out").stdout for line in (1, 2, 4)]
    assert "quality none (unreadable: the reply is a refusal)" in explained[0]
    assert "quality none (unreadable: the score is not a whole number from 1 to 6)" in explained[1]
    assert "unreadable" not in explained[2] and "quality 3.00" in explained[2]
    found = json.loads(deita("explain", "pool.jsonl:2", "--out", "out", "--json").stdout)
    assert found["turns"][0]["quality_unread"] == "other_scale" and found["turns"][0]["complexity_unread"] is None


def test_a_dry_run_tells_requests_tokens_and_cost_of_what_is_left_and_asks_nobody(deita, laptop, tmp_path):
    with LLMServer() as server:
        line = ("pool.jsonl", "--quality-scorer", f"judge+{server.url}#m", "--judge-votes", "3")
        dry = deita("select", *line, "--dry-run")
        assert dry.returncode == 0, dry.stderr
        assert f"Would send about {3 * ROWS} requests to m for quality: " in dry.stdout
        assert "prompt tokens and 7,200 answer tokens" in dry.stdout and "DEITA_LLM__INPUT_PRICE" in dry.stdout
        assert not server.log and not (tmp_path / ".deita").exists()
        prices = {"DEITA_LLM__INPUT_PRICE": "0", "DEITA_LLM__OUTPUT_PRICE": "100"}
        priced = deita("select", *line, "--dry-run", **prices)
        assert "; about 0.72 at the prices given." in priced.stdout
        one = deita("score", *line[:3], "--complexity-scorer", f"judge+{server.url}#m", "--out", "one.parquet")
        assert one.returncode == 0 and len(server.log) == 2 * ROWS, one.stderr
        # The first vote of each text is kept, though three votes are another scorer.
        left = deita("select", *line, "--dry-run")
        assert f"Would send about {2 * ROWS} requests to m for quality: " in left.stdout
        done = deita("select", *line[:3], "--dry-run")
        assert "Would send about 0 requests to m for quality: " in done.stdout and len(server.log) == 2 * ROWS


def test_the_spread_of_votes_stands_beside_the_scores(deita, tmp_path):
    def leaning(prompt):
        """One point less if the criteria stand in their first order, but for the rows of one digit."""
        first = re.search(r"Consider:\n- (knowledge|correctness)", prompt)
        return json.dumps({"reason": "", "score": 1 if first and not re.search(r"^\d\. Why", prompt, re.M) else 2})

    with LLMServer(chat=leaning) as server:
        names = [word for axis in ("quality", "complexity") for word in (f"--{axis}-scorer", f"judge+{server.url}#m")]
        run = deita("score", "pool.jsonl", *names, "--judge-votes", "2", "--out", "scores.parquet")
    assert run.returncode == 0, run.stderr
    scores = pl.read_parquet(tmp_path / "scores.parquet")
    assert {"quality", "quality_status", "quality_spread", "complexity_spread"} <= set(scores.columns)
    for axis in ("quality", "complexity"):
        assert scores.sort("line")[f"{axis}_spread"].to_list() == [0.0] * 10 + [1.0] * 30
        assert scores.sort("line")[axis].to_list() == [2.0] * 10 + [1.5] * 30


# -- kills


class Client:
    """`deita score` in a folder of its own, with the judge of a server for both axes."""

    def __init__(self, folder, url, prefect):
        folder.mkdir()
        write_pool(folder / "pool.jsonl", 80)
        limits = f"{{concurrency: {CONCURRENCY}, timeout: 5, first_pause: 0.02, attempts: 20}}"
        (folder / "deita.yaml").write_text(f"store: store\njudge_votes: 2\nllm: {limits}\n")
        self.folder = folder
        self._line = [sys.executable, "-m", "flows.cli", "score", "pool.jsonl", "--config", "deita.yaml"]
        for axis in ("complexity", "quality"):
            self._line += [f"--{axis}-scorer", f"judge+{url}#m"]
        self._line += ["--out", "scores.parquet"]
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

    def scores(self):
        return pl.read_parquet(self.folder / "scores.parquet").drop("file")


@pytest.mark.slow
def test_a_killed_run_asks_again_only_for_what_died_with_it_and_ends_in_the_same_scores(prefect_server, tmp_path):
    faults = {**evenly(0.2, set(QUICK_FAULTS) - {"429_date"}), **dict.fromkeys([*RANK_FAULTS, "cut_off"], 0.03)}
    with ServerProcess(faults=faults, latency=0.03, jitter=0.03, retry_after=0.02) as server:
        calm = Client(tmp_path / "calm", server.url, prefect_server)
        calm.run()
        before = len(server.report()[0])
        client = Client(tmp_path / "killed", server.url, prefect_server)
        kills = [client.run_until(calm.kept() * part // 4) for part in (1, 3)]
        client.run()
        log = server.report()[0]
    answers = defaultdict(list)
    for entry in log[before:]:
        if entry.answered is not None:
            answers[entry.hash].append(entry.answered)
    twice = [times for times in answers.values() if len(times) > 1]
    assert len(answers) == calm.kept() == client.kept() == 4 * 80
    assert len(twice) <= len(kills) * CONCURRENCY and all(len(times) == 2 for times in twice)
    assert all(min(abs(kill - times[0]) for kill in kills) < LOST for times in twice)
    assert client.scores().equals(calm.scores())
    assert {"ok", "unreadable"} == set(client.scores()["quality_status"])
