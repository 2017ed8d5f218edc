"""Normalized vectors, their exact cosines, and the error of float32 products."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deita_core.errors import InputError

# Numbers in one pass over gathered rows, so that they stay in the cache for the next operation.
PASS = 2**16
NOBODY = -1


def margin(dim: int) -> float:
    """Twice the largest error of a float32 product of two normalized vectors, for any order of summation."""
    return 2 * (dim + 4) * 2.0**-24


@dataclass(frozen=True)
class Vectors:
    """Vectors: raw (n, d) float32, lengths (n,) float64, normalized (n, d) float32, reduced (n, k) float32.

    Reduced vectors belong to a projection; without one k is 0.
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
    """Normalize vectors (n, d); the length of a zero vector is 0, of a non-finite vector non-finite."""
    raw = np.ascontiguousarray(raw, dtype=np.float32)
    lengths, unit = np.empty(len(raw)), np.empty_like(raw)
    for part in passes(*raw.shape):
        wide = raw[part].astype(np.float64)
        lengths[part] = np.sqrt((wide * wide).sum(axis=1))
        with np.errstate(divide="ignore", invalid="ignore"):
            np.divide(wide, lengths[part, None], out=unit[part], casting="same_kind")
    return Vectors(raw, lengths, unit, np.empty((len(raw), 0), np.float32))


def valid(vectors: Vectors) -> np.ndarray:
    """A mask (n,) of the vectors that are finite and nonzero."""
    return np.isfinite(vectors.lengths) & (vectors.lengths > 0)


def reject(ids: Sequence[str], lengths: np.ndarray) -> list[tuple[str, str]]:
    """Id and reason of each candidate with an invalid vector."""
    reasons = ("zero_vector" if length == 0 else "vector_not_finite" for length in lengths)
    return list(zip(ids, reasons, strict=True))


def check_shape(vectors: np.ndarray, count: int, dim: int) -> None:
    """Raise InputError for vectors that are not (count, dim)."""
    if vectors.shape != (count, dim):
        raise InputError(f"Vectors of shape {vectors.shape} came for {count} ids of {dim} dimensions.")


def cosines(a: Vectors, rows: np.ndarray, b: Vectors, others: np.ndarray) -> np.ndarray:
    """Cosine similarity (p,) of pairs, rows of `a` and others of `b`, in float64.

    Each pair is summed separately, because the order of summation in a matrix product depends on its number of rows.
    """
    found = np.empty(len(rows))
    for part in passes(len(rows), a.raw.shape[1]):
        wide = a.raw[rows[part]].astype(np.float64)
        wide *= b.raw[others[part]]
        found[part] = wide.sum(axis=1)
    found /= a.lengths[rows] * b.lengths[others]
    # Rounding can give a copy a cosine slightly above 1, above every threshold.
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

    Among equally similar vectors, the first. Without a pair the position is NOBODY and the cosine -inf.
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
    """Slices of rows small enough for the cache."""
    step = max(1, PASS // max(dim, 1))
    return [slice(start, start + step) for start in range(0, rows, step)]


class GrowingArray:
    """An array to append rows to; its memory doubles when full."""

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
        """Keep only the rows at some positions."""
        kept = self.rows[rows]
        self._all[: len(kept)], self._count = kept, len(kept)
