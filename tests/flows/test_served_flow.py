"""`deita select` with a scorer that is served, on loopback, by a real tiny model."""

import json
from functools import partial

import polars as pl
import pytest

from deita_core.scorers.causal import CausalScorer
from tests.support import commands
from tests.support.llm_completions import SURE, ModelCompletions, Scripted
from tests.support.llm_server import LLMServer, evenly

KEY = "sk-served-0123456789-very-secret"
TOPICS = ["tea", "rain", "the moon", "a train", "面包", "salt", "an old clock", "ink"]
TALKS = 60


@pytest.fixture(scope="module")
def folder(leaning_llama):
    return leaning_llama


@pytest.fixture
def pool(tmp_path):
    rows = [{"instruction": f"{i}. Why {TOPICS[i % 8]}?", "output": f"Because {TOPICS[i // 8]}."} for i in range(TALKS)]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path / "pool.jsonl"


@pytest.fixture
def deita(prefect_server, laptop, tmp_path):
    """Runs the command in the folder of the pool."""
    limits = {"DEITA_LLM__API_KEY": KEY, "DEITA_LLM__FIRST_PAUSE": "0.01", "DEITA_LLM__ATTEMPTS": "4"}
    return partial(commands.deita, cwd=tmp_path, **limits)


def select(deita, server, out):
    scorers = ("--complexity-scorer", f"{server.url}#tiny", "--quality-scorer", "laptop")
    return deita("select", "pool.jsonl", *scorers, "--budget", "20", "--out", out)


def test_a_pool_is_scored_by_a_served_model_and_asked_about_once(deita, pool, folder, tmp_path):
    faults = evenly(0.2, ("429", "500", "reset", "truncated", "no_logprobs"))
    with LLMServer(completions=ModelCompletions(folder), faults=faults, latency=0.01) as server:
        first = select(deita, server, "first")
        assert first.returncode == 0, first.stderr
        assert len({entry.did for entry in server.log}) > 3 and set(server.answered().values()) == {1}
        asked = len(server.log)
        second = select(deita, server, "second")
        assert second.returncode == 0 and len(server.log) == asked
    with LLMServer(completions=ModelCompletions(folder)) as moved:
        third = select(deita, moved, "third")
        assert third.returncode == 0 and not moved.log
    decisions = pl.read_parquet(tmp_path / "first/decisions.parquet").sort("file", "line")
    rows = [json.loads(line) for line in pool.read_text(encoding="utf-8").splitlines()]
    causal = CausalScorer(folder, "complexity", device="cpu", dtype="float32").score([r["instruction"] for r in rows])
    assert decisions["complexity"].to_list() == pytest.approx(causal["score"].to_list(), abs=1e-4)
    assert (tmp_path / "first/selected.jsonl").read_bytes() == (tmp_path / "third/selected.jsonl").read_bytes()
    said = first.stdout + first.stderr + second.stdout + second.stderr
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert KEY not in said and all(KEY.encode() not in content for content in kept)


def test_a_run_that_is_not_answered_fails_in_a_sentence_and_the_next_asks_what_is_missing(deita, pool, tmp_path):
    with LLMServer(completions=Scripted(SURE), poison={"7. Why": "500"}) as server:
        run = select(deita, server, "out")
        assert run.returncode == 1 and "Traceback" not in run.stdout + run.stderr
        assert f"{server.url} leaves 6 of {TALKS} texts without complexity scores" in run.stderr
        assert not (tmp_path / "out/manifest.json").exists()
    with LLMServer(completions=Scripted(SURE)) as server:
        run = select(deita, server, "out")
        assert run.returncode == 0, run.stderr
        assert len(server.log) == 6
    assert (tmp_path / "out/manifest.json").exists()


def test_a_dry_run_and_a_wrong_name_ask_nobody(deita, pool, tmp_path):
    with LLMServer(completions=Scripted(SURE)) as server:
        run = deita("select", "pool.jsonl", "--complexity-scorer", f"{server.url}#tiny", "--dry-run")
        assert run.returncode == 0, run.stderr
        run = deita("select", "pool.jsonl", "--complexity-scorer", server.url, "--out", "out")
        assert run.returncode == 1 and "#MODEL" in run.stderr and "Traceback" not in run.stderr
        assert not server.log


def test_limits_stand_under_llm_in_the_settings_file_and_not_in_what_is_written(deita, pool, tmp_path):
    (tmp_path / "deita.yaml").write_text("budget: 20\nllm:\n  concurrency: 2\n")
    with LLMServer(completions=Scripted(SURE), latency=0.01) as server:
        scorers = ("--complexity-scorer", f"{server.url}#tiny")
        first = deita("select", "pool.jsonl", *scorers, "--config", "deita.yaml", "--out", "out")
        assert first.returncode == 0, first.stderr
        assert server.most_in_flight == 2 and len(server.log) == TALKS
        again = deita("update", "--out", "out")
        assert again.returncode == 0 and len(server.log) == TALKS, again.stderr
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert "llm" not in manifest["settings"] and manifest["counts"]["selected"] == 20
