"""Scorers that score a sample together. No Prefect, tiny models."""

import json

import pytest

from deita_core.models.encoder_spec import find_encoder
from deita_core.scorers import find_scorer, load_found
from deita_core.stages.encoding import encode_shard, load_encoder, plan_encoding
from deita_core.stages.ingest import describe_file, ingest_file
from deita_core.stages.scoring import in_passes, plan_scoring, score_shard
from deita_core.store import Store
from deita_core.tables import scores_table
from tests.support.installation import make_heads
from tests.support.pools import ALPACA, MESSAGES, MORE


class Pool:
    """A store with an encoded file of rows, and a head for each axis."""

    def __init__(self, folder, models):
        self.store = Store(folder / "store")
        self.encoder = find_encoder(str(models / "encoder"), "float32")
        self.heads = [find_scorer(str(models / axis), axis, self.encoder) for axis in ("complexity", "quality")]
        self.folder, self.files = folder, []
        self.add([*ALPACA, *MESSAGES])

    def add(self, rows):
        path = self.folder / f"{len(self.files)}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.files.append(ingest_file(self.store, describe_file(str(path))).file_id)
        for shard in plan_encoding(self.store, self.encoder, self.files):
            encode_shard(self.store, load_encoder(self.encoder), shard)

    def score(self, scorers):
        """Score together what is missing; returns the number of scores."""
        loaded = [(load_found(scorer, self.encoder), scorer) for scorer in scorers]
        shards = plan_scoring(self.store, scorers, self.files)
        return sum(score_shard(self.store, loaded, self.encoder, shard) for shard in shards)

    def scores(self, scorer):
        return self.store.read(scores_table(scorer.slug)).sort("id", "turn")


@pytest.fixture(scope="module")
def models(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    (folder / "encoder").symlink_to(tiny_model)
    make_heads(folder, folder / "encoder")
    return folder


def test_heads_that_score_together_give_what_each_gives_alone(models, tmp_path):
    (tmp_path / "together").mkdir()
    (tmp_path / "alone").mkdir()
    together, alone = Pool(tmp_path / "together", models), Pool(tmp_path / "alone", models)
    count = together.score(together.heads)
    assert count == sum(alone.score([head]) for head in alone.heads) > 0
    for head in together.heads:
        assert together.scores(head).equals(alone.scores(head))
        assert together.scores(head)["status"].to_list().count("ok") > 0
    assert together.score(together.heads) == 0


def test_heads_score_together_only_if_both_have_scored_the_same(models, tmp_path):
    pool = Pool(tmp_path, models)
    complexity, quality = pool.heads
    assert in_passes(pool.store, pool.heads) == [pool.heads]
    pool.score([complexity])
    assert in_passes(pool.store, pool.heads) == [[complexity], [quality]]
    pool.score([quality])
    pool.add(MORE)
    assert in_passes(pool.store, pool.heads) == [pool.heads]


def test_a_scorer_that_is_no_head_scores_alone(models, tmp_path):
    pool = Pool(tmp_path, models)
    complexity, quality = pool.heads
    judge = quality.model_copy(update={"kind": "judge"})
    assert in_passes(pool.store, [complexity, judge]) == [[complexity], [judge]]
    assert in_passes(pool.store, [complexity, judge, quality]) == [[complexity, quality], [judge]]


def test_a_run_killed_between_the_two_writes_of_a_shard_resumes_it_and_changes_no_score(models, tmp_path):
    pool = Pool(tmp_path, models)
    first = plan_scoring(pool.store, pool.heads, pool.files)
    pool.score(pool.heads)
    before = [pool.scores(head) for head in pool.heads]
    pool.store.delete(scores_table(pool.heads[1].slug), "turn >= 0")
    assert plan_scoring(pool.store, pool.heads, pool.files) == first
    pool.score(pool.heads)
    assert all(pool.scores(head).equals(known) for head, known in zip(pool.heads, before, strict=True))
