"""The selected vectors of a scan, and the close pairs of candidates and selected vectors."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from deita_core.selection.projection import COMPARE, GATHERED, Projection, fit, pair_cost
from deita_core.selection.vectors import GrowingArray, Vectors, margin, products

# Selected vectors per product: the product with a block of candidates stays in the cache until it is compared.
TILE = 512
# Share of all work reserved for fitting the projection again, in case the data has changed without visible cost.
REFIT = 0.03
# Approximate multiply-adds per dimension of a fit, and of reducing one selected vector again.
FIT = 1.2e6
REDUCE = 200


class Pairs(NamedTuple):
    """Pairs (p,): positions of the candidate and the selected vector, and their float32 product."""

    row: np.ndarray
    other: np.ndarray
    product: np.ndarray

    def where(self, mask: np.ndarray) -> "Pairs":
        """The pairs where the mask is true."""
        return Pairs(*(part[mask] for part in self))


class SelectedSet:
    """A growing set of selected vectors, with a projection that rules out most pairs at low cost.

    The projection is fitted to the vectors seen. It affects only speed, never which pairs are found.
    """

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._raw, self._lengths, self._unit = GrowingArray(dim), GrowingArray(dtype=np.float64), GrowingArray(dim)
        self._reduced = GrowingArray(0)
        self._projection: Projection | None = None
        self._expected = 0.0
        self._wasted = 0.0

    def __len__(self) -> int:
        return len(self._lengths.rows)

    @property
    def vectors(self) -> Vectors:
        """All selected vectors, not copied."""
        return Vectors(self._raw.rows, self._lengths.rows, self._unit.rows, self._reduced.rows)

    @property
    def rank(self) -> int | None:
        """Number of directions of the projection in use; None if full products are computed."""
        return self._projection.rank if self._projection else None

    def prepare(self, rows: Vectors, floor: float | np.ndarray) -> Vectors:
        """The next block of candidates, reduced as all other methods need it; refits the projection when worthwhile.

        `floor`: as in `close_pairs`.
        """
        if len(self) and len(rows) and self._wasted >= self._dim * (FIT + REDUCE * len(self)):
            self._projection, self._expected = fit(rows.unit, self._unit.rows, floor, margin(self._dim))
            self._wasted = 0.0
            self._reduced = GrowingArray(self._projection.rank + 1 if self._projection else 0)
            for start in range(0, len(self), TILE):
                self._reduced.extend(self._reduce(self._unit.rows[start : start + TILE]))
        return replace(rows, reduced=self._reduce(rows.unit))

    def _reduce(self, unit: np.ndarray) -> np.ndarray:
        return self._projection.reduce(unit) if self._projection else np.empty((len(unit), 0), np.float32)

    def extend(self, new: Vectors) -> None:
        """Add vectors of the last prepared block."""
        for array, rows in zip(self._arrays, (new.raw, new.lengths, new.unit, new.reduced), strict=True):
            array.extend(rows)

    def keep(self, rows: np.ndarray) -> None:
        """Keep only the vectors at some positions."""
        for array in self._arrays:
            array.keep(rows)

    @property
    def _arrays(self) -> tuple[GrowingArray, ...]:
        return self._raw, self._lengths, self._unit, self._reduced

    def close_pairs(self, rows: Vectors, floor: float | np.ndarray) -> Pairs:
        """All pairs with a cosine similarity above `floor`, one number or one per selected vector (m,).

        Pairs below it by rounding error may be included. `rows`: the last prepared block.
        """
        found, near = [no_pairs()], 0
        for start in range(0, len(self), TILE):
            tile = slice(start, start + TILE)
            pairs, computed = self._tile(rows, self.vectors.take(tile), _part(floor, tile))
            found.append(Pairs(pairs.row, start + pairs.other, pairs.product))
            near += computed
        self._account(len(rows) * len(self), near)
        return concatenated(found)

    def close_pairs_among(self, rows: Vectors, others: np.ndarray, floor: float) -> Pairs:
        """The same within a block: pairs of a row and an earlier row of `others` (m,), positions in ascending order."""
        found = [no_pairs()]
        for start in range(0, len(others), TILE):
            tile = others[start : start + TILE]
            first = int(tile[0]) + 1
            pairs, _ = self._tile(rows.take(slice(first, None)), rows.take(tile), floor)
            pairs = Pairs(first + pairs.row, tile[pairs.other], pairs.product)
            found.append(pairs.where(pairs.row > pairs.other))
        return concatenated(found)

    def _tile(self, rows: Vectors, others: Vectors, floor: float | np.ndarray) -> tuple[Pairs, int]:
        """Close pairs, and the full products computed, counted in products of gathered rows."""
        floor, size = floor - margin(self._dim), len(rows) * len(others)
        if self._projection:
            near = _above(rows.reduced @ others.reduced.T, floor - self._projection.slack)
            if GATHERED * len(near) <= size:
                row, other = near // len(others), near % len(others)
                pairs = Pairs(row, other, products(rows, row, others, other))
                return pairs.where(pairs.product > _part(floor, other)), len(near)
        product = rows.unit @ others.unit.T
        flat = _above(product, floor)
        pairs = Pairs(flat // len(others), flat % len(others), product.ravel()[flat])
        return pairs, size // GATHERED if self._projection else 0

    def _account(self, pairs: int, near: int) -> None:
        """Add the work beyond the estimate of the last fit, and the share reserved for a new fit."""
        if not pairs:
            return
        rank = self.rank
        cost = self._dim + COMPARE if rank is None else pair_cost(self._dim, rank, near / pairs)
        self._wasted += pairs * (max(cost - self._expected, 0) + REFIT * cost)


def _part(floor: float | np.ndarray, of: slice | np.ndarray) -> float | np.ndarray:
    return floor[of] if isinstance(floor, np.ndarray) else floor


def _above(product: np.ndarray, floor: float | np.ndarray) -> np.ndarray:
    """Flat positions of the products above the floor."""
    rounded_down = np.nextafter(np.asarray(floor, np.float32), np.float32(-4))
    return np.flatnonzero(product > rounded_down)


def no_pairs() -> Pairs:
    """An empty set of pairs."""
    return Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))


def concatenated(parts: list[Pairs]) -> Pairs:
    """The pairs of several parts, joined."""
    return Pairs(*(np.concatenate(part) for part in zip(*parts, strict=True)))
