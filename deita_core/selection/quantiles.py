"""Puts values of any scale on the scale of scores, by their places in the pool."""

import polars as pl


def quantile_scores(column: str) -> pl.Expr:
    """Scores from 1 to 6 of a column's finite values: 1 + 5 q, q their quantile among all of them; null stays null.

    q is (r - 1) / (n - 1), with r the rank among the n values from 1, the lowest; equal values share the mean of their
    ranks. So the order of the values is kept, equal ones stay equal, and a single one gets 3.5.
    """
    value = pl.col(column)
    count = value.count()
    quantile = pl.when(count > 1).then((value.rank("average") - 1) / (count - 1)).otherwise(0.5)
    return pl.when(value.is_not_null()).then(1 + 5 * quantile)
