"""A cheap upper bound of cosine similarity, from the leading principal directions of a sample.

Split each normalized vector into its part along r orthonormal directions and the remainder. The product of two vectors
is the product of the parts plus the product of the remainders. The latter is at most the product of the remainders'
lengths (Cauchy-Schwarz). So r + 1 numbers per vector bound the product from above, for any directions. The principal
directions of similar data make the bound tight.
"""

from dataclasses import dataclass

import numpy as np

RANKS = (16, 24, 32, 48, 64, 96, 128, 192)
SAMPLE = 1_024
PROBES = 256
# Costs in multiply-adds of a matrix product, measured with OpenBLAS and AVX-512 on 384 and 4,096 dimensions: comparing
# one product with the threshold, and one multiply-add of a pair of gathered rows. They affect only speed.
COMPARE = 20
GATHERED = 60


@dataclass(frozen=True)
class Projection:
    """Directions (d, r) float32, and the error of coordinates along them.

    `error`: the largest distance of the float32 coordinates of a normalized vector from its coordinates along exactly
    orthonormal directions.
    """

    directions: np.ndarray
    error: float

    @property
    def rank(self) -> int:
        """The number of directions."""
        return self.directions.shape[1]

    @property
    def slack(self) -> float:
        """How far the float32 product of two reduced vectors can be below the product of the full vectors.

        2.1 errors from the coordinates of both, and less than one from the rounding of the r + 1 products.
        """
        return 4 * self.error

    def reduce(self, unit: np.ndarray) -> np.ndarray:
        """Coordinates and remainder length, (n, r + 1) float32, of normalized vectors (n, d) float32."""
        reduced = np.empty((len(unit), self.rank + 1), np.float32)
        np.matmul(unit, self.directions, out=reduced[:, :-1])
        reduced[:, -1] = self._remainder(np.einsum("ij,ij->i", reduced[:, :-1], reduced[:, :-1], dtype=np.float64))
        return reduced

    def _remainder(self, squared: np.ndarray) -> np.ndarray:
        """An upper bound of the remainder's length, from the squared length of the coordinates.

        The error of the coordinates adds 2 errors to the square; the third covers all other rounding.
        """
        return np.sqrt(np.maximum(1 - squared, 0) + 3 * self.error)

    def reduced_to(self, rank: int) -> "Projection":
        """The same projection with fewer directions."""
        return projection(self.directions[:, :rank])


def projection(directions: np.ndarray) -> Projection:
    """A projection on nearly orthonormal directions (d, r), r <= d."""
    directions = np.ascontiguousarray(directions, dtype=np.float32)
    dim, rank = directions.shape
    wide = directions.astype(np.float64)
    # The nearest orthonormal directions are no further away than this.
    skew = float(np.linalg.norm(wide.T @ wide - np.eye(rank)))
    return Projection(directions, (np.sqrt(rank) + 1) * (dim + 4) * 2.0**-24 + skew)


def leading_directions(sample: np.ndarray, rank: int) -> np.ndarray:
    """Approximate leading principal directions (d, rank) of vectors (n, d), by subspace iteration, in descending order.

    The mean is not subtracted: it is part of a cosine.
    """
    start = np.random.default_rng(0).standard_normal((sample.shape[1], rank), dtype=np.float32)
    span = np.linalg.qr(sample.T @ (sample @ start))[0]
    span = np.linalg.qr(sample.T @ (sample @ span))[0]
    coordinates = (sample @ span).astype(np.float64)
    order = np.linalg.eigh(coordinates.T @ coordinates)[1][:, ::-1]
    return span.astype(np.float64) @ order


def fit(
    candidates: np.ndarray, others: np.ndarray, floor: float | np.ndarray, margin: float
) -> tuple[Projection | None, float]:
    """The projection that finds the products above `floor` at the lowest cost, and that cost.

    Estimated on a sample of candidates (n, d) and others (m, d), normalized; `floor` is one number or (m,). The cost is
    in multiply-adds per pair. None if the full product costs less.
    """
    dim = others.shape[1]
    pick = np.linspace(0, len(others) - 1, min(SAMPLE, len(others))).astype(int)
    others, probes = others[pick], candidates[:: -(-len(candidates) // PROBES)]
    floor = floor[pick] if isinstance(floor, np.ndarray) else floor
    ranks = [rank for rank in RANKS if rank <= dim // 2]
    best: tuple[Projection | None, float] = (None, float(dim + COMPARE))
    if not ranks:
        return best
    widest = projection(leading_directions(np.concatenate([others, probes]), ranks[-1]))
    for rank in ranks:
        candidate = widest.reduced_to(rank)
        bound = candidate.reduce(probes) @ candidate.reduce(others).T
        near = np.count_nonzero(bound > floor - candidate.slack - margin) / bound.size
        cost = pair_cost(dim, rank, near)
        if cost < best[1]:
            best = candidate, cost
    return best


def pair_cost(dim: int, rank: int, near: float) -> float:
    """Multiply-adds per pair, if the share `near` of pairs needs the full product of gathered rows."""
    return rank + 1 + COMPARE + GATHERED * dim * near
