"""The paper preset end to end, with tiny models in the places of those of 7B."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import polars as pl
import pytest

from deita_core.config.settings import SelectionSettings
from deita_core.conversation import conversation
from deita_core.models.encoder_spec import find_encoder
from deita_core.models.lm_encoder import LanguageModelEncoder, render
from deita_core.scorers import load_scorer
from deita_core.selection import select_diverse
from deita_core.stages import encoding
from deita_core.stages.encoding import encoder_table
from deita_core.store import Store
from tests.support.paths import ROOT
from tests.support.tiny_llama import make_tiny_llama

pytestmark = pytest.mark.slow

WORDS = ["river", "lamp", "garden", "engine", "letter", "clock", "market", "bridge", "violin", "7", "面包", "salt"]
TALKS = 90
SHARD = 1_500
DRIVER = f"""
import deita_core.stages.encoding as encoding
encoding.CHARS_PER_CAUSAL_SHARD = {SHARD}
from flows.cli.main import main
main()
"""


def rows():
    """Conversations of one to three turns, one of them twice, one of no answer, one said again with another system."""
    draw = random.Random(4)

    def words(most):
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(2, most)))

    for i in range(TALKS):
        turns = [(f"Story {i}: {words(9)}?", f"{words(60)}.") for _ in range(1 + i % 3)]
        messages = [m for q, a in turns for m in ({"role": "user", "content": q}, {"role": "assistant", "content": a})]
        yield {"messages": [{"role": "system", "content": words(5)}, *messages] if i % 5 == 0 else messages}
    yield {"messages": messages}
    yield {"messages": [{"role": "user", "content": "And no answer?"}]}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a pool, an encoder and a scorer for each axis."""
    folder = tmp_path_factory.mktemp("paper")
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    for seed, name in enumerate(("encoder", "complexity", "quality")):
        make_tiny_llama(folder / name, seed=seed)
    return folder


def paper(place, **changes):
    models = {
        "encoder": str(place / "encoder"),
        "complexity_scorer": str(place / "complexity"),
        "quality_scorer": str(place / "quality"),
    }
    return SelectionSettings(**{"preset": "paper", "precision": "float32", **models, **changes})


def lm_table(place, **changes):
    settings = paper(place, **changes)
    return encoder_table(find_encoder(settings.encoder, settings.precision, settings.encoder_pooling))


@pytest.fixture(scope="module")
def run(prefect_server, place):
    """Runs the flow with settings, into a folder of a name; its report."""
    from flows.selection import select

    def run(out, **changes):
        changes = {"store": str(place / "store"), **changes}
        return select([str(place / "pool.jsonl")], str(place / out), paper(place, **changes))

    return run


@pytest.fixture(scope="module")
def first(run):
    return run("first")


@pytest.fixture(scope="module")
def decisions(first, place):
    return pl.read_parquet(place / "first/decisions.parquet")


def test_the_settings_are_the_papers(first):
    settings = first.job.settings
    assert (settings.turns, settings.threshold, settings.encoder_pooling) == ("sum", 0.9, "last")
    assert (first.job.encoder.kind, first.job.encoder.pooling) == ("causal", "last")


def test_every_row_has_one_fate(first, decisions):
    counts = first.counts
    assert (counts.read, counts.merged, counts.rejected) == (TALKS + 2, 1, 1)
    assert counts.read == counts.selected + counts.near_duplicate + counts.over_budget + counts.rejected + counts.merged
    assert counts.selected > 0 and counts.near_duplicate > 0
    assert Counter(decisions["fate"]) == {
        "selected": counts.selected,
        "near_duplicate": counts.near_duplicate,
        "rejected": 1,
    }


def test_each_conversation_is_encoded_and_each_turn_scored_once(first):
    assert first.encoded == TALKS
    assert first.scored == 2 * sum(1 + i % 3 for i in range(TALKS))


@pytest.fixture(scope="module")
def talks(place):
    """The distinct conversations of the pool by their ids."""
    lines = (place / "pool.jsonl").read_text().splitlines()[:TALKS]
    found = [conversation((m["role"], m["content"]) for m in json.loads(line)["messages"]) for line in lines]
    return {talk.id: talk for talk in found}


def test_a_score_is_the_sum_over_turns_of_complexity_times_quality(decisions, talks, place):
    turns = [(id_, turn) for id_, talk in talks.items() for turn in talk.turns]
    asked, answered = [turn.instruction for _, turn in turns], [turn.response for _, turn in turns]
    complexity, quality = (
        load_scorer(str(place / axis), axis).score(asked, answered)["score"] for axis in ("complexity", "quality")
    )
    expected = pl.DataFrame({"id": [id_ for id_, _ in turns], "product": complexity * quality}).group_by("id").sum()
    compared = decisions.drop_nulls("score").join(expected, on="id")
    assert len(compared) == TALKS
    # In the precision of this machine, and in other batches.
    assert np.abs(compared["score"].to_numpy() / compared["product"].to_numpy() - 1).max() < 0.02


def test_the_selection_is_the_plain_walk_past_vectors_encoded_one_by_one(decisions, talks, place):
    model = LanguageModelEncoder(find_encoder(str(place / "encoder"), "float32"), "cpu", max_tokens_per_batch=1)
    vectors = model.encode([render(talk, model.tokenizer) for talk in talks.values()]).vectors
    score_of = dict(decisions.drop_nulls("score").select("id", "score").iter_rows())
    scores = np.array([score_of[id_] for id_ in talks])
    walked = select_diverse(vectors, scores, threshold=0.9, ids=list(talks)).decisions
    found = decisions.drop_nulls("rank").sort("rank")
    assert found["id"].to_list() == walked["id"].to_list()
    assert found["duplicate_of"].to_list() == walked["duplicate_of"].to_list()


def test_a_second_run_encodes_and_scores_nothing_and_ends_the_same(first, run, place):
    second = run("second")
    assert (second.encoded, second.scored) == (0, 0)
    for name in ("selected.jsonl", "selected.parquet", "decisions.parquet"):
        assert (place / "first" / name).read_bytes() == (place / "second" / name).read_bytes()


def test_turns_fit_needs_no_other_vectors(first, run, place):
    short, whole = (run(f"fit-{room}", turns="fit", training_tokens=room) for room in (100, 100_000))
    assert (short.encoded, whole.encoded) == (0, 0)
    scored = [pl.read_parquet(place / f"fit-{room}/decisions.parquet")["score"].sum() for room in (100, 100_000)]
    assert scored[0] < scored[1] == pytest.approx(pl.read_parquet(place / "first/decisions.parquet")["score"].sum())


@pytest.mark.parametrize("change", [{"encoder_pooling": "mean"}, {"encoder_storage": "float16"}])
def test_another_pooling_or_storage_has_vectors_of_its_own(change, first, run, place):
    other = run(f"other-{next(iter(change))}", **change)
    assert (other.encoded, other.scored) == (TALKS, 0)
    assert other.job.encoder.slug != first.job.encoder.slug
    assert Store(place / "store").count(encoder_table(other.job.encoder)) == TALKS


def environment(server):
    """That of a command, which computes in one thread as the tests do."""
    told = {"PREFECT_API_URL": server, "DEITA_PRECISION": "float32", "OMP_NUM_THREADS": "1"}
    return {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb", **told}


def test_a_run_killed_while_encoding_is_resumed_and_ends_as_if_undisturbed(run, prefect_server, place, monkeypatch):
    (place / "driver.py").write_text(DRIVER)
    models = ["--encoder", "encoder", "--complexity-scorer", "complexity", "--quality-scorer", "quality"]
    command = [sys.executable, "driver.py", "select", "pool.jsonl", "--preset", "paper", *models]
    command += ["--store", "killed-store", "--out", "killed"]
    how = {"cwd": place, "env": environment(prefect_server)}

    table, store = lm_table(place), Store(place / "killed-store")
    victim = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **how)
    try:
        while store.count(table) == 0:
            assert victim.poll() is None, "it ended before a shard was written"
            time.sleep(0.02)
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    present = store.count(table)
    assert 0 < present < TALKS, "it was killed between its first shard and its last"
    assert not (place / "killed").exists()

    resumed = subprocess.run(command, capture_output=True, text=True, timeout=300, **how)
    assert resumed.returncode == 0, resumed.stderr
    counts = json.loads((place / "killed/manifest.json").read_text())["counts"]
    assert counts["encoded"] == TALKS - present

    monkeypatch.chdir(place)
    monkeypatch.setattr(encoding, "CHARS_PER_CAUSAL_SHARD", SHARD)
    from flows.selection import select

    report = select(["pool.jsonl"], "undisturbed", paper(place, store="undisturbed-store"))
    assert report.encoded == TALKS
    for name in ("selected.jsonl", "selected.parquet", "decisions.parquet"):
        assert (place / "killed" / name).read_bytes() == (place / "undisturbed" / name).read_bytes()


def test_without_the_hub_the_preset_ends_in_one_sentence(prefect_server, place):
    command = [sys.executable, "-m", "flows.cli", "select", "pool.jsonl", "--preset", "paper", "--out", "nowhere"]
    told = {**environment(prefect_server), "HF_HOME": str(place / "empty-cache"), "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, cwd=place, env=told, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1
    assert "mistralai/Mistral-7B-v0.1" in ended.stderr and "Traceback" not in ended.stderr
    assert "connect to the hub" in ended.stderr
    assert not (place / "nowhere").exists()
