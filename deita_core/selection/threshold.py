"""Finds the smallest threshold, and so the most diversity, that still fills a budget.

One scan decides for up to 32 thresholds at once. Their selections overlap, so the vectors selected at any threshold are
not many more than at one. Each candidate is compared with them once. A coarse and a fine scan find the threshold.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from deita_core.selection.selected import Pairs, SelectedSet
from deita_core.selection.vectors import (
    NOBODY,
    GrowingArray,
    Vectors,
    check_shape,
    cosines,
    margin,
    normalize,
    valid,
)

STEPS = 1_000
COARSE = 32
BLOCK = 1_024

# Reads a pool in rank order, from the start at each call: ids (n,) and vectors (n, d) of each block.
Blocks = Callable[[], Iterator[tuple[Sequence[str], np.ndarray]]]


@dataclass(frozen=True)
class Filling:
    """A threshold, and the cost of finding it: scans of the pool and blocks read in total."""

    threshold: float
    scans: int
    blocks: int


def smallest_filling(blocks: Blocks, budget: int, dim: int, count: int | None = None) -> Filling:
    """The smallest threshold, in steps of 0.001 from 0 to 1, that fills the budget while the next lower one does not.

    1.0 if no lower threshold fills the budget. `count`: the number of candidates, if known; a threshold is then dropped
    once the remaining candidates cannot fill the budget. A higher threshold usually selects more. But a greedy scan is
    not strictly monotone, so a much lower threshold may fill the budget by chance.
    """
    coarse, read = _lowest_filling(blocks, range(0, STEPS, COARSE), budget, dim, count)
    if coarse == 0:
        return Filling(0.0, 1, read)
    above = STEPS if coarse is None else coarse
    below = (STEPS - 1) // COARSE * COARSE if coarse is None else coarse - COARSE
    fine, read_again = _lowest_filling(blocks, range(below + 1, above), budget, dim, count)
    return Filling((above if fine is None else fine) / STEPS, 2, read + read_again)


def count_selected(blocks: Iterable[np.ndarray], thresholds: Sequence[float], dim: int) -> list[int]:
    """The number of vectors that a scan without a budget selects at each threshold: at most 32, ascending, -1 to 1."""
    scan = _Scan(np.asarray(thresholds, np.float64), dim)
    for vectors in blocks:
        scan.add(vectors)
    return scan.counts.tolist()


def _lowest_filling(blocks: Blocks, steps: range, budget: int, dim: int, count: int | None) -> tuple[int | None, int]:
    """The lowest step whose threshold fills the budget, None if none does, and the number of blocks read."""
    scan, read, lowest, remaining = _Scan(np.array(steps) / STEPS, dim), 0, None, count
    for ids, vectors in blocks():
        check_shape(vectors, len(ids), dim)
        scan.add(vectors)
        read += 1
        full = np.flatnonzero(scan.counts >= budget)
        if len(full):
            lowest = steps[int(full[0])]
            scan.close(np.arange(full[0], len(steps)))
        if remaining is not None:
            remaining -= len(ids)
            scan.close(np.flatnonzero(scan.counts + remaining < budget))
        if not scan.open:
            break
    return lowest, read


class _Scan:
    """One scan for several thresholds (t,), ascending; bit i of a number represents threshold i."""

    def __init__(self, thresholds: np.ndarray, dim: int) -> None:
        self.thresholds = thresholds
        self.counts = np.zeros(len(thresholds), np.int64)
        self.open = (1 << len(thresholds)) - 1
        self._dim = dim
        self._set = SelectedSet(dim)
        self._at = GrowingArray(dtype=np.uint64)

    def close(self, positions: np.ndarray) -> None:
        """Stop scanning for some thresholds, and drop vectors selected only at those."""
        before = self.open
        for position in positions.tolist():
            self.open &= ~(1 << position)
        if self.open != before:
            self._at.rows[:] &= np.uint64(self.open)
            rows = np.flatnonzero(self._at.rows)
            self._at.keep(rows)
            self._set.keep(rows)

    def add(self, vectors: np.ndarray) -> None:
        """Decide the next candidates in order, vectors (n, d); invalid vectors are ignored."""
        for start in range(0, len(vectors), BLOCK):
            rows = normalize(vectors[start : start + BLOCK])
            self._add(rows.take(np.flatnonzero(valid(rows))))

    def _add(self, rows: Vectors) -> None:
        floor = self.thresholds[_lowest_bit(self._at.rows)]
        rows = self._set.prepare(rows, floor)
        pairs = self._set.close_pairs(rows, floor)
        at = np.uint64(self.open) & ~self._hits(rows, pairs)
        free = np.flatnonzero(at)
        if len(free):
            lowest = float(self.thresholds[_lowest_bit(np.array([self.open], np.uint64))[0]])
            self._among(rows, at, self._set.close_pairs_among(rows, free, lowest))
        chosen = np.flatnonzero(at)
        self._set.extend(rows.take(chosen))
        self._at.extend(at[chosen])
        self.counts += [np.count_nonzero(at >> np.uint64(i) & np.uint64(1)) for i in range(len(self.counts))]

    def _hits(self, rows: Vectors, pairs: Pairs) -> np.ndarray:
        """The thresholds at which each row (n,) is a near-duplicate of a selected vector."""
        sure, unsure = self._exceeded(pairs.product)
        at = self._at.rows[pairs.other]
        hits = np.zeros(len(rows), np.uint64)
        np.bitwise_or.at(hits, pairs.row, sure & at)
        open_ = np.flatnonzero(unsure & at & ~hits[pairs.row])
        exact = cosines(rows, pairs.row[open_], self._set.vectors, pairs.other[open_])
        np.bitwise_or.at(hits, pairs.row[open_], self._below(exact) & at[open_])
        return hits

    def _among(self, rows: Vectors, at: np.ndarray, pairs: Pairs) -> None:
        """Clear in `at` (n,) the thresholds at which a row is a near-duplicate of one selected above it."""
        pairs = pairs.where(at[pairs.row] != 0)
        pairs = pairs.where(np.argsort(pairs.row, kind="stable"))
        sure, unsure = self._exceeded(pairs.product)
        for start, end in pairwise(np.flatnonzero(np.diff(pairs.row, prepend=NOBODY, append=NOBODY)).tolist()):
            row, part = pairs.row[start], slice(start, end)
            above = at[pairs.other[part]]
            at[row] &= ~np.bitwise_or.reduce(sure[part] & above)
            open_ = np.flatnonzero(unsure[part] & above & at[row])
            if len(open_):
                exact = cosines(rows, np.full(len(open_), row), rows, pairs.other[part][open_])
                at[row] &= ~np.bitwise_or.reduce(self._below(exact) & above[open_])

    def _exceeded(self, product: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Thresholds that pairs exceed for any rounding error of their products, and those they may exceed."""
        wide, slack = product.astype(np.float64), margin(self._dim)
        sure = self._below(wide - slack)
        return sure, self._below(wide + slack) & ~sure

    def _below(self, similarity: np.ndarray) -> np.ndarray:
        """The thresholds below each similarity (n,)."""
        below = np.searchsorted(self.thresholds, similarity, side="left").astype(np.uint64)
        return (np.uint64(1) << below) - np.uint64(1)


def _lowest_bit(bits: np.ndarray) -> np.ndarray:
    """Position (n,) of the lowest set bit of nonzero numbers (n,) uint64."""
    return np.bitwise_count((bits & (~bits + np.uint64(1))) - np.uint64(1))
