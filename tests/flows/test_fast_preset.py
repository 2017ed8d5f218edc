"""The preset fast with its real models: made at first use, scoring both axes, and selecting."""

import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from deita_core.config.settings import PRESETS, SelectionSettings
from deita_core.conversation import stored_conversation
from deita_core.errors import ModelError
from deita_core.models.encoder_spec import find_encoder
from deita_core.models.pooling import weighted_means
from deita_core.models.static_encoder import StaticEncoder
from deita_core.reading.pool import read_pool
from deita_core.scorers import find_scorer, load_found, load_scorer
from deita_core.stages.encoding import load_encoder
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

GOOD = (
    "Why are there two high tides a day and not one?",
    "Because the Moon's pull is not the same everywhere on Earth. On the near side it is stronger than at the centre, "
    "so water there is drawn towards the Moon; on the far side it is weaker, so the Earth is pulled away from it "
    "and leaves a second bulge behind. As the Earth turns, most coasts pass through both bulges.",
)
HARD = (
    "Design a rate limiter for a public API that serves 50,000 requests a second from three regions, and compare token "
    "buckets with sliding windows in memory, accuracy and behaviour when a region is cut off."
)


@pytest.fixture(scope="module")
def encoder(laptop):
    return find_encoder("fast")


@pytest.fixture(scope="module")
def heads(encoder):
    return {axis: load_scorer("fast", axis) for axis in ("complexity", "quality")}


def test_both_axes_are_scored(heads):
    asked, answered = GOOD
    poor = ["Sure!", "...", "I'm sorry, but I can't help with that.", HARD]
    found = heads["quality"].score([asked] * 5, [answered, *poor])
    assert found["status"].to_list() == ["ok"] * 5
    assert found["score"][0] > found["score"][1:].max() + 0.3
    hard, easy = heads["complexity"].score([HARD, "Say hello."])["score"]
    assert 1 <= easy < hard - 0.5 <= 6


def test_a_scorer_is_found_without_being_made_and_is_the_one_that_is_loaded(encoder, heads, tmp_path, monkeypatch):
    monkeypatch.setenv("DEITA_CACHE", str(tmp_path / "empty"))
    found = {axis: find_scorer("fast", axis, encoder) for axis in heads}
    assert not (tmp_path / "empty").exists()
    monkeypatch.undo()
    for axis, head in heads.items():
        assert find_scorer("fast", axis, encoder) == found[axis]
        assert load_found(found[axis], encoder).fingerprint == head.fingerprint
    assert len({files.fingerprint for files in found.values()}) == 2


def test_a_second_load_makes_nothing(heads, capsys):
    before = {path: path.stat().st_mtime_ns for path in Path(os.environ["DEITA_CACHE"]).rglob("*")}
    load_scorer("fast", "quality")
    assert {path: path.stat().st_mtime_ns for path in before} == before and capsys.readouterr().err == ""


def test_vectors_of_another_encoder_are_refused(laptop):
    with pytest.raises(ModelError, match="reads vectors of the encoder fast, not of sentence-transformers/all-MiniLM"):
        find_scorer("fast", "quality", laptop.files)


def test_a_vector_does_not_depend_on_other_texts(encoder):
    model, texts = StaticEncoder(encoder), [HARD[: 3 * n] for n in range(1, 60)]
    alone = np.concatenate([model.encode([text]).vectors for text in texts])
    assert np.array_equal(model.encode(texts).vectors, alone)
    assert np.array_equal(model.encode([*GOOD, *texts[::-1], *texts]).vectors[2:61], alone[::-1])


def cosines(encoder):
    """Of every pair of conversations in examples/pool."""
    talks = [stored_conversation(messages) for messages in read_pool([str(ROOT / "examples/pool")])[0]["messages"]]
    texts = list(dict.fromkeys(message.text for talk in talks for message in talk.messages))
    row = {text: number for number, text in enumerate(texts)}
    members = [(i, row[m.text], len(m.text)) for i, talk in enumerate(talks) for m in talk.messages]
    members = pl.DataFrame(members, schema=["group", "row", "weight"], orient="row")
    vectors = weighted_means(members, len(talks), load_encoder(encoder).encode(texts).vectors)
    return (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]


def test_the_threshold_blocks_the_planted_rewordings_of_the_examples_and_nothing_else(encoder, laptop):
    fast, slow = cosines(encoder), cosines(laptop.files)
    rewordings = slow >= 0.95
    assert rewordings.sum() == 12
    assert fast[rewordings].min() > 0.92 > PRESETS["fast"]["threshold"] > 0.65 > fast[~rewordings].max()


def test_a_selection_records_the_preset_and_a_second_one_computes_nothing(prefect_server, heads, tmp_path):
    from flows.selection import select

    settings = SelectionSettings(preset="fast", store=str(tmp_path / "store"), budget=30)
    pool = [str(ROOT / "examples" / "pool")]
    first = select(pool, str(tmp_path / "out"), settings)
    again = select(pool, str(tmp_path / "again"), settings)
    assert first.counts.selected == 30 and first.encoded > 300 and again.encoded == again.scored == 0
    recorded = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (recorded["settings"]["encoder"], recorded["settings"]["threshold"]) == ("fast", 0.9)
    selected = [(tmp_path / name / "selected.jsonl").read_bytes() for name in ("out", "again")]
    assert selected[0] == selected[1]
