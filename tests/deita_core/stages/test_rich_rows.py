"""Rows with reasoning, calls, untrained answers and images, through reading, encoding, scoring and ranking."""

import json

import polars as pl
import pytest

from benchmarks.tiny import make_head, make_tiny_model
from deita_core.config.settings import SelectionSettings
from deita_core.conversation import text_id
from deita_core.models.encoder_spec import find_encoder
from deita_core.scorers import find_scorer, load_found
from deita_core.stages.encoding import encode_shard, encoder_table, load_encoder, message_tokens, plan_encoding
from deita_core.stages.exporting import all_decisions, selected_rows
from deita_core.stages.ingest import describe_file, ingest_file
from deita_core.stages.job import Job
from deita_core.stages.ranking import rank_pool
from deita_core.stages.scoring import plan_scoring, score_shard
from deita_core.stages.selecting import select
from deita_core.store import Store
from deita_core.tables import SAMPLES, scores_table

ASKED = {"role": "user", "content": "bake bread"}
ANSWER = {"role": "assistant", "content": "salt a fox"}
THOUGHT = ANSWER | {"reasoning_content": "the dog runs . the cat runs . hello world"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "bake", "arguments": "{}"}}]}
ROWS = {
    "plain": [ASKED, ANSWER],
    "thought": [ASKED, THOUGHT],
    "called": [ASKED, CALL, {"role": "tool", "content": "bread"}, ANSWER],
    "untrained": [ASKED, {**ANSWER, "content": "cat", "weight": 0}, ASKED, ANSWER],
    "image": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "bake bread"}]}, ANSWER],
    "two": [ASKED, THOUGHT, {"role": "user", "content": "dog ?"}, ANSWER],
}


class Pool:
    """A store with ROWS, encoded and scored with the reasoning or without it."""

    def __init__(self, folder, models, reasoning, **settings):
        (folder / "pool.jsonl").write_text("".join(json.dumps({"messages": m}) + "\n" for m in ROWS.values()))
        self.store = Store(folder / f"store-{reasoning}")
        files = ingest_file(self.store, describe_file(str(folder / "pool.jsonl")))
        encoder = find_encoder(str(models / "encoder"), "float32").model_copy(update={"reasoning": reasoning})
        scorers = [find_scorer(str(models / axis), axis, encoder) for axis in ("complexity", "quality")]
        loaded = load_encoder(encoder)
        for shard in plan_encoding(self.store, encoder, [files.file_id]):
            encode_shard(self.store, loaded, shard)
        for scorer in scorers:
            for shard in plan_scoring(self.store, [scorer], [files.file_id]):
                score_shard(self.store, [(load_found(scorer, encoder), scorer)], encoder, shard)
        self.encoder, self.quality = encoder, scorers[1]
        self.job = Job(
            run_id="r", file_ids=(files.file_id,), encoder=encoder, complexity=scorers[0], quality=scorers[1],
            settings=SelectionSettings(threshold=1, **settings),
        )  # fmt: skip
        samples = self.store.read(SAMPLES)
        self.ids = {}
        for id_, messages in samples.select("id", "messages").iter_rows():
            contents = [m["extra"] or m["content"] for m in messages]
            self.ids[next(n for n, row in ROWS.items() if _contents(row) == contents)] = id_

    def scores(self, name):
        rows = self.store.read(scores_table(self.quality.slug)).filter(pl.col("id") == self.ids[name]).sort("turn")
        return rows["score"].to_list()


def _contents(row):
    from deita_core.reading.layouts import parse_row

    return [m.extra or m.content for m in parse_row({"messages": row}, "messages").messages]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    encoder = make_tiny_model(folder / "encoder")
    for axis in ("complexity", "quality"):
        make_head(folder / axis, axis, encoder)
    return folder


@pytest.fixture(scope="module")
def ignoring(models, tmp_path_factory):
    return Pool(tmp_path_factory.mktemp("ignore"), models, "ignore")


@pytest.fixture(scope="module")
def scoring(models, tmp_path_factory):
    return Pool(tmp_path_factory.mktemp("score"), models, "score")


def test_reasoning_is_not_scored_unless_it_is_asked_for(ignoring, scoring):
    assert ignoring.scores("thought") == ignoring.scores("plain") == scoring.scores("plain")
    assert scoring.scores("thought") != scoring.scores("plain")


def test_scores_with_and_without_reasoning_are_kept_apart(ignoring, scoring):
    assert ignoring.quality.fingerprint == scoring.quality.fingerprint
    assert ignoring.quality.slug != scoring.quality.slug
    assert ignoring.encoder.slug == scoring.encoder.slug


def test_texts_with_their_reasoning_are_encoded_only_when_they_are_scored(ignoring, scoring):
    whole = text_id(THOUGHT["reasoning_content"] + "\n\n" + ANSWER["content"])
    assert ignoring.store.missing(encoder_table(ignoring.encoder), pl.Series([whole])).to_list() == [whole]
    assert scoring.store.missing(encoder_table(scoring.encoder), pl.Series([whole])).is_empty()


def test_an_answer_that_is_not_trained_has_no_score_but_a_vector(ignoring):
    assert len(ignoring.scores("untrained")) == 1 and len(ignoring.scores("two")) == 2
    assert ignoring.scores("untrained") == ignoring.scores("plain")
    assert ignoring.store.missing(encoder_table(ignoring.encoder), pl.Series([text_id("cat")])).is_empty()


def test_a_call_is_scored_as_its_json(ignoring):
    assert len(ignoring.scores("called")) == 1
    assert ignoring.scores("called") != ignoring.scores("plain")


def test_reasoning_counts_for_where_training_cuts(models, tmp_path, ignoring):
    samples = ignoring.store.read(SAMPLES, ["id", "message_index"])
    tokens = message_tokens(ignoring.store, ignoring.encoder, samples)
    thought = text_id(THOUGHT["reasoning_content"] + "\n\n" + ANSWER["content"])
    assert tokens[thought] > tokens[text_id(ANSWER["content"])] + 5
    limit = sum(tokens[text_id(text)] for text in (ASKED["content"], ANSWER["content"])) * 2
    pool = Pool(tmp_path, models, "ignore", turns="fit", training_tokens=limit)
    n_scored = dict(rank_pool(pool.store, pool.job).candidates.select("id", "n_scored").iter_rows())
    # The second turn lies beyond the cut only because of the reasoning in the first.
    assert n_scored[pool.ids["two"]] == 1 and n_scored[pool.ids["untrained"]] == 1


def test_the_files_say_which_rows_hold_more_than_text(ignoring):
    select(ignoring.store, ignoring.job)
    decisions = all_decisions(ignoring.store, ignoring.job)
    marked = decisions.filter(pl.col("multimodal"))["id"].to_list()
    assert marked == [ignoring.ids["image"]]
    rows = selected_rows(ignoring.store, decisions)
    assert rows.filter(pl.col("multimodal")).height == 1 and rows["messages"].null_count() == 0
