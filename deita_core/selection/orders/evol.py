"""The evol score of a sample: complexity times quality, aggregated over turns (paper, sections 2.2 and 2.3)."""

import polars as pl

from deita_core.literals import Turns

KEYS = ("id", "turn", "end")


def evol_scores(turns: pl.DataFrame, how: Turns, training_tokens: int) -> pl.DataFrame:
    """Sample scores from turn scores.

    `turns`: id, turn (from 0), complexity and quality (null if unreadable), end (tokens of the conversation up to the
    end of the turn's answer), and optionally further numbers. `sum`, `mean` and `max`
    count every turn. `fit` sums the turns that end within `training_tokens`, and always counts the first turn, because
    training sees at least its beginning.

    Returns, ordered by id: id, score (null if a counted turn is unreadable), complexity, quality and the
    further numbers (means over counted turns), n_scored (number of counted turns).
    """
    counted = (pl.col("end") <= training_tokens) | (pl.col("turn") == 0) if how == "fit" else pl.lit(True)
    product = pl.col("complexity") * pl.col("quality")
    total = {"fit": product.sum(), "sum": product.sum(), "mean": product.mean(), "max": product.max()}[how]
    read = product.is_not_null().all()
    return (
        turns.filter(counted)
        # The order of its terms changes the last bit of a sum.
        .sort("id", "turn")
        .group_by("id", maintain_order=True)
        .agg(
            pl.when(read).then(total).alias("score"),
            *(pl.when(read).then(pl.col(name).mean()).alias(name) for name in turns.columns if name not in KEYS),
            n_scored=pl.len().cast(pl.Int32),
        )
    )
