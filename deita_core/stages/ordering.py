"""The values that a selection's candidates are ranked by."""

import polars as pl

from deita_core.selection.orders.random import random_scores
from deita_core.stages.job import Job
from deita_core.stages.token_counts import token_counts
from deita_core.store import Store


def order_values(store: Store, job: Job, scored: pl.DataFrame) -> pl.DataFrame:
    """The samples with the `score` that they are ranked by, the highest first; null where there is none.

    `scored`: id, score (complexity x quality), complexity, quality of the samples that are not left out. A value of the
    order's own is added as a column.
    """
    match job.settings.rank:
        case "evol":
            return scored
        case "complexity" | "quality":
            return scored.with_columns(score=pl.col(job.settings.rank))
        case "random":
            return scored.with_columns(score=pl.Series(random_scores(scored["id"].to_list(), job.settings.seed)))
        case "longest":
            assert job.tokenizer is not None
            counts = token_counts(store, job.tokenizer, scored["id"])
            return scored.with_columns(score=counts["answer_tokens"].cast(pl.Float64))
        case other:
            raise NotImplementedError(other)
