"""Vectors scaled to length 1, their exact cosines, and how far a float32 product can be from them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deita_core.errors import InputError

# Numbers in one pass over gathered rows: the next operation finds them in the cache.
PASS = 2**16
NOBODY = -1


def margin(dim: int) -> float:
    """Twice the largest error of a float32 product of two normalized vectors, in whatever order it is summed."""
    return 2 * (dim + 4) * 2.0**-24


@dataclass(frozen=True)
class Vectors:
    """Vectors as given, raw (n, d) float32, their lengths (n,) float64, normalized (n, d) float32, and reduced (n, k).

    The reduced ones are float32 and belong to a projection; without one k is 0.
    """

    raw: np.ndarray
    lengths: np.ndarray
    unit: np.ndarray
    reduced: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: np.ndarray | slice) -> "Vectors":
        """Some of the vectors, by position."""
        return Vectors(self.raw[rows], self.lengths[rows], self.unit[rows], self.reduced[rows])


def normalize(raw: np.ndarray) -> Vectors:
    """Normalize vectors (n, d); a zero vector gets length 0, one that is not finite a length that is not finite."""
    raw = np.ascontiguousarray(raw, dtype=np.float32)
    lengths, unit = np.empty(len(raw)), np.empty_like(raw)
    for part in passes(*raw.shape):
        wide = raw[part].astype(np.float64)
        lengths[part] = np.sqrt((wide * wide).sum(axis=1))
        with np.errstate(divide="ignore", invalid="ignore"):
            np.divide(wide, lengths[part, None], out=unit[part], casting="same_kind")
    return Vectors(raw, lengths, unit, np.empty((len(raw), 0), np.float32))


def valid(vectors: Vectors) -> np.ndarray:
    """Which vectors (n,) are finite and nonzero."""
    return np.isfinite(vectors.lengths) & (vectors.lengths > 0)


def reject(ids: Sequence[str], lengths: np.ndarray) -> list[tuple[str, str]]:
    """Id and reason of each candidate whose vector is not valid."""
    reasons = ("zero_vector" if length == 0 else "vector_not_finite" for length in lengths)
    return list(zip(ids, reasons, strict=True))


def check_shape(vectors: np.ndarray, count: int, dim: int) -> None:
    """Raise InputError for vectors that are not (count, dim)."""
    if vectors.shape != (count, dim):
        raise InputError(f"Vectors of shape {vectors.shape} came for {count} ids of {dim} dimensions.")


def cosines(a: Vectors, rows: np.ndarray, b: Vectors, others: np.ndarray) -> np.ndarray:
    """Cosine similarity (p,) of pairs, rows of `a` and others of `b`, in float64.

    Each pair is summed by itself. The order of summation in a matrix product would depend on how many rows it has.
    """
    found = np.empty(len(rows))
    for part in passes(len(rows), a.raw.shape[1]):
        wide = a.raw[rows[part]].astype(np.float64)
        wide *= b.raw[others[part]]
        found[part] = wide.sum(axis=1)
    found /= a.lengths[rows] * b.lengths[others]
    # Rounding can put a copy slightly above 1, which no threshold would admit.
    return np.clip(found, -1.0, 1.0)


def products(a: Vectors, rows: np.ndarray, b: Vectors, others: np.ndarray) -> np.ndarray:
    """Product (p,) of the normalized vectors of pairs, in float32."""
    found = np.empty(len(rows), np.float32)
    for part in passes(len(rows), a.unit.shape[1]):
        np.vecdot(a.unit.take(rows[part], axis=0), b.unit.take(others[part], axis=0), out=found[part])
    return found


def most_similar(
    a: Vectors, b: Vectors, row: np.ndarray, other: np.ndarray, product: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The most similar vector of `b` among the pairs of each vector of `a`: position (n,) and cosine (n,) float64.

    Of equally similar ones the first. Without any pair the position is NOBODY and the cosine -inf.
    """
    place, similarity = np.full(len(a), NOBODY), np.full(len(a), -np.inf)
    best = np.full(len(a), -np.inf, np.float32)
    np.maximum.at(best, row, product)
    near = product >= best[row] - np.float32(margin(a.raw.shape[1]))
    row, other = row[near], other[near]
    exact = cosines(a, row, b, other)
    np.maximum.at(similarity, row, exact)
    first = exact == similarity[row]
    place[row[first]] = len(b)
    np.minimum.at(place, row[first], other[first])
    return place, similarity


def passes(rows: int, dim: int) -> list[slice]:
    """Parts of so many rows that a pass over one stays in the cache."""
    step = max(1, PASS // max(dim, 1))
    return [slice(start, start + step) for start in range(0, rows, step)]


class GrowingArray:
    """An array that rows are added to; its memory doubles when it is full."""

    def __init__(self, *shape: int, dtype: type = np.float32) -> None:
        self._all: np.ndarray = np.empty((0, *shape), dtype)
        self._count = 0

    @property
    def rows(self) -> np.ndarray:
        """All rows, not copied."""
        return self._all[: self._count]

    def extend(self, new: np.ndarray) -> None:
        """Add rows at the end."""
        end = self._count + len(new)
        if end > len(self._all):
            grown = np.empty((max(end, 2 * len(self._all), 1_024), *self._all.shape[1:]), self._all.dtype)
            grown[: self._count] = self.rows
            self._all = grown
        self._all[self._count : end] = new
        self._count = end

    def keep(self, rows: np.ndarray) -> None:
        """Drop all but some rows, by position."""
        kept = self.rows[rows]
        self._all[: len(kept)], self._count = kept, len(kept)
