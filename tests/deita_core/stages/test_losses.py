"""Losses of a pool's answers, computed shard by shard into a store, and the influence of rows on hard neighbours."""

import math
import random

import numpy as np
import polars as pl
import pytest

from deita_core.alignment.rank_model import RankModel, find_rank_model
from deita_core.errors import StoreError
from deita_core.models.encoder_spec import find_encoder
from deita_core.stages.influence import compute_shown, find_probes, plan_shown, shown_losses
from deita_core.stages.losses import compute_losses, mean_losses, plan_losses
from deita_core.stages.removal import remove
from deita_core.stages.repair import examine
from deita_core.tables import losses_table
from tests.support.stored_pool import StoredPool
from tests.support.tiny_llama import TOPICS


class Pool(StoredPool):
    """A pool whose losses are computed."""

    def compute(self, model, *given):
        """Compute what has no loss, the shards in reverse; returns how many rows."""
        shards = [(each, shard) for each in given for shard in plan_losses(self.store, model.files, each, self.ids)]
        return sum(compute_losses(self.store, model, each, shard) for each, shard in reversed(shards))


def rows_of(n, seed=0):
    draw = random.Random(seed)
    return [
        [
            ("user", f"What of {draw.choice(TOPICS)} {i}?"),
            ("assistant", f"{draw.choice(TOPICS)} " * draw.randint(1, 30)),
        ]
        for i in range(n)
    ]


def unanswered():
    # A template of Vicuna has no place for it.
    return [("user", "What time is it?"), ("tool", "12:00"), ("assistant", "Noon.")]


@pytest.fixture(scope="module")
def model(tiny_llama):
    return RankModel(find_rank_model(str(tiny_llama), 128, "float32"), device="cpu")


@pytest.fixture
def pool(tmp_path):
    return Pool(tmp_path / "pool", [*rows_of(24), unanswered()])


def test_every_row_has_a_loss_or_a_reason_and_means_are_over_tokens(pool, model):
    assert pool.compute(model, "asked", "alone") == 2 * 25
    found = mean_losses(pool.store, model.files, pool.ids)
    assert found["id"].to_list() == pool.ids.to_list()
    for row in found.iter_rows(named=True):
        given, alone = (run([(row["id"], pool.rows[row["id"]])]) for run in (model.asked, model.alone))
        if row["reason"]:
            assert "this template has no tool messages here" in row["reason"]
            assert row["answer_nll"] is row["alone_nll"] is None
        else:
            assert row["answer_nll"] == pytest.approx(given["loss"].item() / given["tokens"].item(), abs=1e-4)
            assert row["alone_nll"] == pytest.approx(alone["loss"].item() / given["tokens"].item(), abs=1e-4)
    assert found["reason"].count() == 1


def test_nothing_is_computed_twice_and_a_grown_pool_costs_what_is_new(pool, model, tiny_llama):
    pool.compute(model, "asked")
    assert mean_losses(pool.store, model.files, pool.ids, alone=False)["alone_nll"].null_count() == 25
    with pytest.raises(StoreError, match="lacks 25 losses of answers"):
        mean_losses(pool.store, model.files, pool.ids)
    assert pool.compute(model, "asked") == 0
    pool.add(rows_of(3, seed=5))
    assert pool.compute(model, "asked") == 3
    assert pool.compute(model, "alone") == 28
    other = RankModel(find_rank_model(str(tiny_llama), 64, "float32"), device="cpu")
    assert pool.compute(other, "asked") == 28


def test_the_influence_of_a_row_is_that_of_the_formula_on_losses_of_pairs(pool, model, tiny_model):
    encoder = find_encoder(str(tiny_model), "float32")
    pool.encode(encoder)
    pool.compute(model, "asked", "alone")
    probes = find_probes(pool.store, encoder, mean_losses(pool.store, model.files, pool.ids))
    shards = plan_shown(pool.store, model.files, probes)
    assert sum(compute_shown(pool.store, model, shard) for shard in shards) == len(probes)
    found = shown_losses(pool.store, model.files, probes)
    for row in found.sample(12, seed=0).iter_rows(named=True):
        [pair] = model.shown([("p", pool.rows[row["id"]], pool.rows[row["probe"]])]).rows(named=True)
        expected = None if pair["loss"] is None else pytest.approx(pair["loss"] / pair["tokens"], abs=1e-4)
        assert row["shown_nll"] == expected
    assert plan_shown(pool.store, model.files, probes) == []


def test_removed_rows_take_their_losses_with_them_also_as_probes(pool, model, tiny_model):
    encoder = find_encoder(str(tiny_model), "float32")
    pool.encode(encoder)
    pool.compute(model, "asked", "alone")
    probes = find_probes(pool.store, encoder, mean_losses(pool.store, model.files, pool.ids))
    shards = plan_shown(pool.store, model.files, probes)
    gone = probes["probe"][0]
    half = len(shards) // 2
    for shard in shards[:half]:
        compute_shown(pool.store, model, shard)
    remove(pool.store, [gone], "")
    # Shards that were planned before are computed without the pairs of the removed row.
    pairs = plan_shown(pool.store, model.files, probes.filter((pl.col("id") != gone) & (pl.col("probe") != gone)))
    for shard in pairs:
        compute_shown(pool.store, model, shard)
    for given, columns in {"asked": ["id"], "alone": ["id"], "shown": ["shown", "probe"]}.items():
        rows = pool.store.read(losses_table(f"{given}-{model.files.slug}"))
        assert len(rows) and gone not in {value for name in columns for value in rows[name]}
    assert [health.trouble for health in examine(pool.store)] == [None] * len(pool.store.tables())


def test_the_table_refuses_a_loss_without_tokens_and_a_null_without_a_reason(model):
    table = losses_table(f"asked-{model.files.slug}")
    good = {"id": "a" * 32, "loss": 1.0, "tokens": 2, "reason": None}
    schema = table.empty().schema
    table.validate(pl.DataFrame([good], schema=schema))
    for bad in ({"tokens": 0}, {"loss": None}, {"loss": math.nan}, {"reason": "why"}, {"loss": np.inf}):
        with pytest.raises(ValueError, match="refused"):
            table.validate(pl.DataFrame([good | bad], schema=schema))
