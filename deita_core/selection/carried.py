"""What an earlier walk still says after its pool has changed: which candidates have moved, and what the others had."""

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from deita_core.selection.selector import NOBODY

# The place of a nearest that is gone or has moved.
LOST = -2


def moved_ids(before_ids: Sequence[str] | pl.Series, now_ids: Sequence[str] | pl.Series) -> list[str]:
    """The fewest ids without which those in both lists stand in the same order in both."""
    before = pl.DataFrame({"id": pl.Series(before_ids, dtype=pl.String)}).with_row_index("before")
    now = pl.DataFrame({"id": pl.Series(now_ids, dtype=pl.String)})
    common = now.join(before, on="id", how="inner", maintain_order="left")
    order = common["before"].to_numpy()
    rank = np.empty(len(order), dtype=np.int64)
    rank[np.argsort(order)] = np.arange(len(order))
    # What follows one another in both lists moves as one, or not at all.
    starts = np.flatnonzero(np.diff(rank, prepend=-2) != 1)
    lengths = np.diff(starts, append=len(rank))
    stays = np.zeros(len(starts), dtype=bool)
    stays[_heaviest_increasing(rank[starts].tolist(), lengths.tolist())] = True
    return common["id"].filter(pl.Series(~np.repeat(stays, lengths))).to_list()


def _heaviest_increasing(values: list[int], weights: list[int]) -> list[int]:
    """Positions of the increasing subsequence of greatest total weight."""
    # Of all subsequences found, those that no other beats by a smaller last value and no smaller total.
    ends: list[int] = []
    totals: list[int] = []
    last: list[int] = []
    previous = []
    for position, (value, weight) in enumerate(zip(values, weights, strict=True)):
        at = bisect_left(ends, value)
        previous.append(last[at - 1] if at else NOBODY)
        total = weight + (totals[at - 1] if at else 0)
        beaten = at
        while beaten < len(ends) and totals[beaten] <= total:
            beaten += 1
        ends[at:beaten], totals[at:beaten], last[at:beaten] = [value], [total], [position]
    chain = []
    position = last[-1] if last else NOBODY
    while position != NOBODY:
        chain.append(position)
        position = previous[position]
    return chain


@dataclass(frozen=True)
class Carried:
    """What is known of each candidate from the walk before, arrays (n,).

    `known`: walked before and not moved. `kept`: and kept. `near`: position of its nearest, LOST where that one is gone
    or moved. Where nothing was kept above it `near` is NOBODY and `similarity` -inf.
    """

    known: np.ndarray
    kept: np.ndarray
    near: np.ndarray
    similarity: np.ndarray


def carry(ids: pl.Series, before: pl.DataFrame, moved: Collection[str]) -> Carried:
    """Match an earlier walk (id, kept, nearest, similarity) with the candidates now, but for the moved."""
    now = pl.DataFrame({"id": ids}).with_row_index("position")
    if moved:
        now = now.join(pl.DataFrame({"id": pl.Series(list(moved), dtype=pl.String)}), on="id", how="anti")
    before = before.select(pl.col("id", "nearest").cast(pl.String), pl.col("kept").cast(pl.Boolean), "similarity")
    old = before.join(now, on="id", how="inner")
    keepers = old.filter("kept").select(nearest="id", near=pl.col("position").cast(pl.Int64))
    old = old.join(keepers, on="nearest", how="left").with_columns(
        pl.when(pl.col("nearest").is_null()).then(NOBODY).otherwise(pl.col("near").fill_null(LOST)).alias("near")
    )
    at, count = old["position"].to_numpy(), len(ids)
    carried = Carried(
        np.zeros(count, bool), np.zeros(count, bool), np.full(count, LOST), np.full(count, -np.inf, np.float64)
    )
    carried.known[at] = True
    carried.kept[at] = old["kept"].to_numpy()
    carried.near[at] = old["near"].to_numpy()
    carried.similarity[at] = old["similarity"].cast(pl.Float64).fill_null(-np.inf).to_numpy()
    return carried
