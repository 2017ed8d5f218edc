"""The streaming exact greedy filter (paper, section 2.4: score-first, diversity-aware selection).

Float32 matrix products find the kept vectors that could be nearest; float64 decides among those few. So every decision
is that of a one-by-one filter in float64, whatever the block size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl

from deita_core.errors import InputError

BLOCK = 1_024
# Kept vectors in one product, and numbers in one float64 pass: so that the next step finds them in the cache.
TILE = 2_048
PASS = 2**16
NOBODY = -1

DECISION_SCHEMA = {
    "id": pl.String,
    "rank": pl.Int64,
    "selected": pl.Boolean,
    "duplicate_of": pl.String,
    "nearest": pl.String,
    "similarity": pl.Float64,
}
REJECT_SCHEMA = {"id": pl.String, "reason": pl.String}


def margin(dim: int) -> float:
    """Twice what a float32 product of unit vectors can be off by, in whatever order it is summed.

    No vector whose product is further than this below the largest can be nearest.
    """
    return 2 * (dim + 4) * 2.0**-24


@dataclass(frozen=True)
class Vectors:
    """Vectors as given, raw (n, d) float32, their lengths (n,) float64, and scaled to length 1 for the products."""

    raw: np.ndarray
    lengths: np.ndarray
    unit: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: np.ndarray | slice) -> "Vectors":
        """Some of the vectors, by position."""
        return Vectors(self.raw[rows], self.lengths[rows], self.unit[rows])


def measured(raw: np.ndarray) -> Vectors:
    """Vectors (n, d) with their lengths; those without a direction have length 0 or one that is not finite."""
    raw = np.ascontiguousarray(raw, dtype=np.float32)
    lengths, unit = np.empty(len(raw)), np.empty_like(raw)
    for part in _passes(*raw.shape):
        wide = raw[part].astype(np.float64)
        lengths[part] = np.sqrt((wide * wide).sum(axis=1))
        with np.errstate(divide="ignore", invalid="ignore"):
            unit[part] = wide / lengths[part, None]
    return Vectors(raw, lengths, unit)


def directed(vectors: Vectors) -> np.ndarray:
    """Which (n,) have a direction."""
    return np.isfinite(vectors.lengths) & (vectors.lengths > 0)


def reject(ids: Sequence[str], lengths: np.ndarray) -> list[tuple[str, str]]:
    """Id and reason of candidates without a direction."""
    reasons = ("zero_vector" if length == 0 else "vector_not_finite" for length in lengths)
    return list(zip(ids, reasons, strict=True))


def cosines(a: Vectors, rows: np.ndarray, b: Vectors, others: np.ndarray) -> np.ndarray:
    """Cosine similarity (n,) of pairs, rows of `a` and others of `b`, each pair in float64 by itself.

    Sums over each row and no matrix product: its order of summation would depend on how many rows there are.
    """
    found = np.empty(len(rows))
    for part in _passes(len(rows), a.raw.shape[1]):
        wide = a.raw[rows[part]].astype(np.float64)
        wide *= b.raw[others[part]]
        found[part] = wide.sum(axis=1)
    found /= a.lengths[rows] * b.lengths[others]
    # Rounding can put a copy at a hair above 1, which no threshold would admit.
    return np.clip(found, -1.0, 1.0)


def _passes(rows: int, dim: int) -> list[slice]:
    step = max(1, PASS // max(dim, 1))
    return [slice(start, start + step) for start in range(0, rows, step)]


def nearest(
    rows: Vectors, others: Vectors, above: np.ndarray | None = None, floor: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest of the others to each row, of equally near ones the first: position (n,), cosine (n,) float64.

    `above` (n,): how many of the others, from the first, each row looks at; all where None. Where none of them reaches
    `floor` (n,) the position is NOBODY and the cosine -inf.
    """
    best = np.full(len(rows), -np.inf) if floor is None else floor.copy()
    row, other, product = _contenders(rows, others, above, best)
    near = product >= best[row] - margin(rows.raw.shape[1])
    row, other = row[near], other[near]
    exact = cosines(rows, row, others, other)
    place, similarity = np.full(len(rows), NOBODY), np.full(len(rows), -np.inf)
    np.maximum.at(similarity, row, exact)
    # Written from the last to the first, so that the first of equals stays.
    first = np.flatnonzero(exact == similarity[row])[::-1]
    place[row[first]] = other[first]
    return place, similarity


def _contenders(
    rows: Vectors, others: Vectors, above: np.ndarray | None, best: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (row, other, product), by other, that may be a row's nearest; `best` is raised to the largest product."""
    found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
    slack = margin(rows.raw.shape[1])
    room = np.empty(len(rows) * min(TILE, len(others)), dtype=np.float32)
    for start in range(0, len(others), TILE):
        tile = others.unit[start : start + TILE]
        products = room[: len(rows) * len(tile)].reshape(len(rows), len(tile))
        np.matmul(rows.unit, tile.T, out=products)
        if above is not None:
            products[np.arange(start, start + len(tile)) >= above[:, None]] = -np.inf
        np.maximum(best, products.max(axis=1), out=best)
        floor = np.nextafter((best - slack).astype(np.float32), np.float32(-np.inf))
        flat = np.flatnonzero(products >= np.maximum(floor, np.float32(-3))[:, None])
        found.append((flat // len(tile), start + flat % len(tile), products.ravel()[flat]))
    row, other, product = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return row, other, product


def greedy(rows: Vectors, threshold: float, fresh: np.ndarray) -> np.ndarray:
    """Which rows (n,) a walk keeps that passes over those more than `threshold` similar to a kept one above.

    `fresh` (n,): of two rows that are not fresh it is known that neither is too like the other.
    """
    kept = np.ones(len(rows), dtype=bool)
    later, earlier, product = _close_pairs(rows, threshold, np.flatnonzero(fresh))
    sure = product > threshold + margin(rows.raw.shape[1])
    groups = np.flatnonzero(np.diff(later, prepend=NOBODY, append=NOBODY)).tolist()
    for start, end in pairwise(groups):
        standing = kept[earlier[start:end]]
        if (standing & sure[start:end]).any():
            kept[later[start]] = False
        elif standing.any():
            others = earlier[start:end][standing]
            similar = cosines(rows, np.full(len(others), later[start]), rows, others)
            kept[later[start]] = similar.max() <= threshold
    return kept


def _close_pairs(rows: Vectors, threshold: float, fresh: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (later, earlier, product), ordered by the later, that may be more than `threshold` similar."""
    if threshold >= 1:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    products = rows.unit[fresh] @ rows.unit.T
    flat = np.flatnonzero(products > threshold - margin(rows.raw.shape[1]))
    one, other, product = fresh[flat // len(rows)], flat % len(rows), products.ravel()[flat]
    is_fresh = np.zeros(len(rows), dtype=bool)
    is_fresh[fresh] = True
    # Two fresh ones stand in the products twice.
    once = (other < one) | ((other > one) & ~is_fresh[other])
    later, earlier, product = np.maximum(one, other)[once], np.minimum(one, other)[once], product[once]
    order = np.argsort(later, kind="stable")
    return later[order], earlier[order], product[order]


class Growing:
    """Vectors that become more, in arrays that double when full."""

    def __init__(self, dim: int, room: int = 0) -> None:
        self._vectors = Vectors(np.empty((room, dim), np.float32), np.empty(room), np.empty((room, dim), np.float32))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def vectors(self) -> Vectors:
        """All of them, not copied."""
        return self._vectors.take(slice(self._count))

    def extend(self, new: Vectors) -> None:
        """Put some behind the others."""
        end, all_ = self._count + len(new), self._vectors
        if end > len(all_):
            room = max(end, 2 * len(all_), BLOCK)
            all_ = Vectors(*(_grown(array, room) for array in (all_.raw, all_.lengths, all_.unit)))
        for array, rows in ((all_.raw, new.raw), (all_.lengths, new.lengths), (all_.unit, new.unit)):
            array[self._count : end] = rows
        self._vectors, self._count = all_, end


def _grown(array: np.ndarray, rows: int) -> np.ndarray:
    grown = np.empty((rows, *array.shape[1:]), dtype=array.dtype)
    grown[: len(array)] = array
    return grown


def check_settings(budget: int | None, threshold: float) -> None:
    """Raise InputError for a budget below 1 or a threshold that is no cosine."""
    if budget is not None and budget < 1:
        raise InputError(f"The budget is {budget}; give the number of samples to select, at least 1.")
    if not -1 <= threshold <= 1:
        raise InputError(f"The threshold is {threshold}; it is a cosine similarity, from -1 to 1.")


def check_shape(vectors: np.ndarray, count: int, dim: int) -> None:
    """Raise InputError for vectors that are not (count, dim)."""
    if vectors.shape != (count, dim):
        raise InputError(f"Vectors of shape {vectors.shape} came for {count} ids of {dim} dimensions.")


class _Walked(NamedTuple):
    """Candidates walked (n,): whether kept, and the place among all kept of the nearest, with its cosine."""

    ids: list[str]
    kept: np.ndarray
    place: np.ndarray
    similarity: np.ndarray


class DiversitySelector:
    """Walk candidates in rank order, keeping each whose cosine similarity to every kept one is <= threshold.

    Feed it blocks in order with `offer`; it stops looking once the budget is full. Memory is the kept set plus one
    block. `budget` None keeps as many as the threshold admits. `rejected` lists vectors that are zero or not finite.
    """

    def __init__(self, budget: int | None, threshold: float, dim: int) -> None:
        check_settings(budget, threshold)
        self.budget = budget
        self.threshold = threshold
        self.walked = 0
        self._dim = dim
        self._kept = Growing(dim)
        self._kept_ids: list[str] = []
        self._rejected: list[tuple[str, str]] = []

    @property
    def full(self) -> bool:
        """True once the budget is filled: vectors beyond this point need not be read."""
        return self.budget is not None and len(self._kept) >= self.budget

    @property
    def kept_ids(self) -> list[str]:
        """Ids kept so far, in rank order."""
        return list(self._kept_ids)

    @property
    def rejected(self) -> pl.DataFrame:
        """Candidates whose vector has no direction: id, reason."""
        return pl.DataFrame(self._rejected, schema=REJECT_SCHEMA, orient="row")

    def offer(self, ids: Sequence[str], vectors: np.ndarray) -> pl.DataFrame:
        """Decide the next candidates in order: ids (n,), vectors (n, dim) float32 or float16.

        Returns one row per candidate walked: id, rank (from 1), kept, duplicate_of, nearest (the nearest kept, which is
        the blocker where there is one) and similarity (its cosine, null while nothing is kept). Candidates after the
        one that fills the budget get no row.
        """
        check_shape(vectors, len(ids), self._dim)
        before, walked = self.walked, []
        for start in range(0, len(ids), BLOCK):
            if self.full:
                break
            block = slice(start, start + BLOCK)
            walked.append(self._block(list(ids[block]), np.asarray(vectors[block], dtype=np.float32)))
        return self._frame(walked, before + 1) if walked else pl.DataFrame(schema=DECISION_SCHEMA)

    def _block(self, ids: list[str], raw: np.ndarray) -> "_Walked":
        vectors = measured(raw)
        sound = np.flatnonzero(directed(vectors))
        walked = vectors if len(sound) == len(ids) else vectors.take(sound)
        place, similarity, kept = self._decide(walked)
        # Beyond the one that filled the budget nothing was looked at, so nothing is rejected either.
        end = int(sound[len(place) - 1]) if self.full else len(ids)
        bad = np.setdiff1d(np.arange(end), sound)
        self._rejected += reject([ids[i] for i in bad], vectors.lengths[bad])
        self._kept_ids += [ids[i] for i in sound[kept]]
        self.walked += len(place)
        chosen = np.zeros(len(place), dtype=bool)
        chosen[kept] = True
        return _Walked([ids[i] for i in sound[: len(place)]], chosen, place, similarity)

    def _decide(self, rows: Vectors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Place among the kept of the nearest and its cosine, of each row walked, and which rows are kept."""
        before = len(self._kept)
        place, similarity = nearest(rows, self._kept.vectors)
        free = np.flatnonzero(similarity <= self.threshold)
        kept = free[greedy(rows.take(free), self.threshold, np.ones(len(free), dtype=bool))]
        end = len(rows)
        if self.budget is not None and len(kept) >= self.budget - before:
            kept = kept[: self.budget - before]
            end = int(kept[-1]) + 1
        self._kept.extend(rows.take(kept))
        place, similarity = place[:end], similarity[:end]
        above = np.searchsorted(kept, np.arange(end))
        inside, similar = nearest(rows.take(slice(end)), rows.take(kept), above, similarity)
        nearer = similar > similarity
        place[nearer], similarity[nearer] = before + inside[nearer], similar[nearer]
        return place, similarity, kept

    def _frame(self, blocks: "list[_Walked]", first: int) -> pl.DataFrame:
        """The decisions of all blocks at once: a frame costs as much for few rows as for many."""
        ids = [id_ for block in blocks for id_ in block.ids]
        kept, place, similarity = (np.concatenate(parts) for parts in list(zip(*blocks, strict=True))[1:])
        near = [None if i == NOBODY else self._kept_ids[i] for i in place.tolist()]
        frame = pl.DataFrame(
            {"id": ids, "selected": kept, "nearest": near, "similarity": similarity},
            schema_overrides={"id": pl.String, "nearest": pl.String},
        )
        return decided(frame, first)


def decided(walked: pl.DataFrame, first: int = 1) -> pl.DataFrame:
    """Decisions of the rows walked: id, kept, nearest, similarity (-inf where nothing was kept); ranks from `first`."""
    alone = pl.col("nearest").is_null()
    return walked.with_columns(
        rank=pl.int_range(first, first + pl.len(), dtype=pl.Int64),
        duplicate_of=pl.when(~pl.col("selected")).then("nearest"),
        similarity=pl.when(~alone).then("similarity"),
    ).select(*DECISION_SCHEMA)
