"""The values that a selection's candidates are ranked by."""

import polars as pl

from deita_core.selection.orders.ifd import ifd_order
from deita_core.selection.orders.instag import tag_counts
from deita_core.selection.orders.perplexity import perplexity_order
from deita_core.selection.orders.random import random_scores
from deita_core.selection.orders.wici import influence_order
from deita_core.stages.groups import field_values, split_tags
from deita_core.stages.influence import find_probes, shown_losses
from deita_core.stages.job import Job
from deita_core.stages.losses import mean_losses
from deita_core.stages.targets import target_values
from deita_core.stages.token_counts import token_counts
from deita_core.store import Store

NO_PROBE = "no hard row that is like it can be read after it"


def order_values(store: Store, job: Job, scored: pl.DataFrame) -> pl.DataFrame:
    """The samples with the `score` that they are ranked by, the highest first; null where there is none.

    `scored`: id, score (complexity x quality), complexity, quality of the samples that are not left out. A value of the
    order's own is added as a column, and `reason` and `fate` of samples without a score, if they are not unreadable
    ones.
    """
    ids = scored["id"]
    match job.settings.rank:
        case "evol":
            return scored
        case "complexity" | "quality":
            return scored.with_columns(score=pl.col(job.settings.rank))
        case "random":
            return scored.with_columns(score=pl.Series(random_scores(ids.to_list(), job.settings.seed)))
        case "longest":
            assert job.tokenizer is not None
            counts = token_counts(store, job.tokenizer, ids)
            return scored.with_columns(score=counts["answer_tokens"].cast(pl.Float64))
        case "perplexity":
            return _ordered(scored, _perplexity(store, job, ids))
        case "ifd":
            return _ordered(scored, _ifd(store, job, ids))
        case "wici":
            return _ordered(scored, _influence(store, job, ids))
        case "target":
            assert job.examples is not None
            evol = scored["score"].fill_null(float("nan")).to_numpy()
            weight = job.settings.like_weight
            return _ordered(scored, target_values(store, job.encoder, job.examples, ids, evol, weight))
        case "instag":
            assert job.settings.tags_field is not None
            tags = split_tags(field_values(store, job, ids, job.settings.tags_field))
            return scored.with_columns(score=pl.Series(tag_counts(tags)))


def _ordered(scored: pl.DataFrame, values: pl.DataFrame) -> pl.DataFrame:
    """Samples with the values of an order (id, score and others) in place of their score."""
    return scored.drop("score").join(values, on="id", how="left", maintain_order="left")


def _perplexity(store: Store, job: Job, ids: pl.Series) -> pl.DataFrame:
    losses = _losses(store, job, ids)
    return perplexity_order(losses).join(losses.select("id", "reason"), on="id")


def _ifd(store: Store, job: Job, ids: pl.Series) -> pl.DataFrame:
    losses = _losses(store, job, ids)
    found = ifd_order(losses).join(losses.select("id", unread="reason"), on="id")
    fate = pl.when(pl.col("unread").is_not_null()).then(pl.lit("rejected")).otherwise(pl.lit("filtered"))
    return found.with_columns(fate=fate, reason=pl.coalesce("unread", "reason")).drop("unread")


def _influence(store: Store, job: Job, ids: pl.Series) -> pl.DataFrame:
    assert job.rank_model is not None
    losses = _losses(store, job, ids)
    shown = shown_losses(store, job.rank_model, find_probes(store, job.encoder, losses))
    found = losses.join(influence_order(shown, losses), on="id", how="left", maintain_order="left")
    return found.select("id", "score", "influence", reason=pl.coalesce("reason", pl.lit(NO_PROBE)))


def _losses(store: Store, job: Job, ids: pl.Series) -> pl.DataFrame:
    """The mean losses of samples' answers, alone as well if the rank asks for it."""
    assert job.rank_model is not None
    return mean_losses(store, job.rank_model, ids, alone=job.settings.rank != "perplexity")
