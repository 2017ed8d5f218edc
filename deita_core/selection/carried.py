"""What an earlier walk still says after its pool has changed: which candidates have moved, and what the others had."""

from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import polars as pl

from deita_core.selection.selector import NOBODY

# The place of a nearest that is gone or has moved.
LOST = -2


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


def carry(ids: pl.Series, before: pl.DataFrame, changed: Collection[str] = ()) -> Carried:
    """Match an earlier walk (id, kept, nearest, similarity) with the candidates now.

    Nothing is known of the `changed`, nor of the fewest others without which all stand in the order they stood in.
    """
    count = len(ids)
    before = before.select(
        pl.col("id", "nearest").cast(pl.String),
        pl.col("selected").cast(pl.Boolean),
        pl.col("similarity").cast(pl.Float64),
    )
    at = _positions(before["id"], ids, np.arange(count))
    if changed:
        at[before["id"].is_in(list(changed)).to_numpy()] = LOST
    present = np.flatnonzero(at >= 0)
    at[present[out_of_order(at[present])]] = LOST
    stays = np.flatnonzero(at >= 0)
    kept = before["selected"].to_numpy()
    keepers = np.flatnonzero(kept & (at >= 0))
    near = _positions(before["nearest"], before["id"].gather(keepers), at[keepers])
    near[before["nearest"].is_null().to_numpy()] = NOBODY
    carried = Carried(
        np.zeros(count, bool), np.zeros(count, bool), np.full(count, LOST), np.full(count, -np.inf, np.float64)
    )
    at = at[stays]
    carried.known[at] = True
    carried.kept[at] = kept[stays]
    carried.near[at] = near[stays]
    carried.similarity[at] = before["similarity"].fill_null(-np.inf).to_numpy()[stays]
    return carried


def _positions(wanted: pl.Series, ids: pl.Series, positions: np.ndarray) -> np.ndarray:
    """The position (n,) of each id wanted, given those of some ids; LOST for others."""
    known = pl.DataFrame({"id": ids, "position": positions})
    found = pl.DataFrame({"id": wanted}).join(known, on="id", how="left", maintain_order="left")
    return found["position"].fill_null(LOST).to_numpy().copy()


def out_of_order(values: np.ndarray) -> np.ndarray:
    """Which (n,) of distinct whole numbers from 0 on to leave out so that the others increase: the fewest."""
    if not len(values):
        return np.zeros(0, bool)
    taken = np.zeros(values.max() + 1, dtype=np.int64)
    taken[values] = 1
    rank = taken.cumsum()[values] - 1
    # What follows one another before and after stays as one, or not at all.
    starts = np.flatnonzero(np.diff(rank, prepend=-2) != 1)
    lengths = np.diff(starts, append=len(rank))
    leaves = np.ones(len(starts), dtype=bool)
    leaves[_heaviest_increasing(rank[starts].tolist(), lengths.tolist())] = False
    return np.repeat(leaves, lengths)


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
