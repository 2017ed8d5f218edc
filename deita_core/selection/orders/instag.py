"""The order by number of tags, most first (InsTag, 2308.07074)."""

import polars as pl


def instag_order(tags: pl.DataFrame) -> pl.DataFrame:
    """The number of distinct tags of each row: id, score.

    tags: id and tags (list of text); null where they are unknown, and then the score is null.
    """
    return tags.select("id", score=pl.col("tags").list.n_unique().cast(pl.Float64))
