"""Reads the scores of a pool's turns from the store, all on the scale from 1 to 6."""

from collections.abc import Sequence

import polars as pl

from deita_core.scorers import ScorerFiles
from deita_core.selection.quantiles import quantile_scores
from deita_core.store import Store
from deita_core.tables import scores_table


def turn_scores(store: Store, scorers: Sequence[ScorerFiles], ids: Sequence[str] | pl.Series) -> pl.DataFrame:
    """The scores of one axis of all turns of a pool's samples: id, turn, AXIS, AXIS_status, and `value_columns`.

    A scorer with a scale of its own gives `quantile_scores` of its values among the turns of these samples, each
    conversation counted once. Several scorers give the mean of such scores of each, so that all weigh the same whatever
    their scales. A score is null if one of them is unreadable.
    """
    axis, values = scorers[0].axis, value_columns(scorers)
    if len(scorers) == 1:
        found = own_values(store, scorers[0], ids, axis)
        return found.with_columns(quantile_scores(axis).alias(axis), pl.col(axis).alias(values[0])) if values else found
    first, *others = (own_values(store, scorer, ids, name) for scorer, name in zip(scorers, values, strict=True))
    for other in others:
        first = first.join(other, on=["id", "turn"], how="full", coalesce=True)
    scores = pl.sum_horizontal([quantile_scores(name) for name in values], ignore_nulls=False) / len(values)
    shortened = pl.any_horizontal(pl.col(f"{name}_status") == "truncated" for name in values)
    status = pl.when(pl.col(axis).is_null()).then(pl.lit("unreadable")).when(shortened).then(pl.lit("truncated"))
    found = first.with_columns(scores.alias(axis)).with_columns(status.otherwise(pl.lit("ok")).alias(f"{axis}_status"))
    return found.select("id", "turn", axis, f"{axis}_status", *values)


def value_columns(scorers: Sequence[ScorerFiles]) -> list[str]:
    """The columns of what the scorers of one axis gave, if that is not the score itself.

    AXIS_raw for one with a scale of its own; for several AXIS_raw_1, AXIS_raw_2 and so on, on whatever scale.
    """
    name = f"{scorers[0].axis}_raw"
    if len(scorers) > 1:
        return [f"{name}_{i}" for i in range(1, len(scorers) + 1)]
    return [name] if scorers[0].raw else []


def own_values(store: Store, scorer: ScorerFiles, ids: Sequence[str] | pl.Series, name: str) -> pl.DataFrame:
    """What a scorer gave to turns of samples, on its own scale: id, turn, NAME and NAME_status."""
    found = store.fetch(scores_table(scorer.slug), "id", ids)
    value = pl.col("raw" if scorer.raw else "score").alias(name)
    return found.select("id", "turn", value, pl.col("status").alias(f"{name}_status"))
