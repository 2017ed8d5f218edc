"""Figures of a chosen set of rows: how different they are from each other, and how much of the pool they cover."""

import numpy as np

from deita_core.errors import InputError
from deita_core.selection.vectors import normalize, valid

# Rows whose products with all others are computed at a time.
BLOCK = 512
# The power of the density in NovelSum, and the neighbours it is computed from, as in the paper (2502.17184).
DENSITY_POWER = 0.5
NEIGHBOURS = 10
# The smallest mean distance that a density is computed from: below it are copies, and rounding errors.
SMALLEST = 1e-6


def novel_sum(vectors: np.ndarray, density: np.ndarray) -> float:
    """NovelSum: how novel a row is beside the others of its set, averaged over the rows; more is more diverse.

    vectors (m, d) of the set, not necessarily normalized; density (m,): what `density` gives for them in their pool.
    The novelty of a row is the mean of its cosine distances to the others, each times the square root of the other's
    density, weighted by 1 / rank of the distance, nearest first. Weights add up to 1, so that sets of several sizes can
    be compared. 0 for fewer than two rows. Raises InputError for a vector that is zero or not finite.
    """
    unit = _unit(vectors)
    if len(density) != len(unit):
        raise InputError(f"There are {len(unit)} vectors and {len(density)} densities; give one of each.")
    if len(unit) < 2:
        return 0.0
    weights = 1 / np.arange(1, len(unit), dtype=np.float64)
    weights /= weights.sum()
    factors = np.asarray(density, dtype=np.float64) ** DENSITY_POWER
    total = 0.0
    for start in range(0, len(unit), BLOCK):
        distances = 1 - (unit[start : start + BLOCK] @ unit.T).clip(-1, 1).astype(np.float64)
        own = np.arange(len(distances))
        # The row itself comes first and is left out.
        distances[own, start + own] = -1
        order = distances.argsort(axis=1, kind="stable")[:, 1:]
        total += float((np.take_along_axis(distances, order, axis=1) * factors[order] * weights).sum())
    return total / len(unit)


def density(pool_vectors: np.ndarray, rows: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """The density (m,) of the pool at some of its rows: 1 / the mean cosine distance to the k nearest other rows.

    pool_vectors (n, d), not necessarily normalized; rows (m,): positions in the pool. If the pool has fewer than k
    other rows, they are all taken. Distances below 1e-6 on average count as 1e-6. Raises InputError for a vector that
    is zero or not finite, and for a pool of one row.
    """
    unit = _unit(pool_vectors)
    k = min(k, len(unit) - 1)
    if k < 1:
        raise InputError("A density needs a pool of at least two rows; give more vectors.")
    found = np.empty(len(rows))
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        cosines = unit[block] @ unit.T
        cosines[np.arange(len(block)), block] = -np.inf
        nearest = np.partition(cosines, -k, axis=1)[:, -k:].clip(-1, 1).astype(np.float64)
        found[start : start + BLOCK] = 1 / np.maximum((1 - nearest).mean(axis=1), SMALLEST)
    return found


def nearest_similarity(vectors: np.ndarray) -> float:
    """The cosine of a row to its most similar other row of the set, averaged over the rows; NaN for fewer than two.

    vectors (m, d), not necessarily normalized. Raises InputError for a vector that is zero or not finite.
    """
    unit = _unit(vectors)
    if len(unit) < 2:
        return float("nan")
    total = 0.0
    for start in range(0, len(unit), BLOCK):
        cosines = unit[start : start + BLOCK] @ unit.T
        own = np.arange(len(cosines))
        cosines[own, start + own] = -np.inf
        total += float(cosines.max(axis=1).clip(-1, 1).sum(dtype=np.float64))
    return total / len(unit)


def coverage(labels_of_pool: np.ndarray, labels_of_chosen: np.ndarray) -> float:
    """The share of the pool's clusters of which at least one row is chosen; NaN for a pool without rows.

    Labels (n,) and (m,): the cluster of each row, as numbers or names.
    """
    clusters = np.unique(labels_of_pool)
    return float(np.isin(clusters, labels_of_chosen).mean()) if len(clusters) else float("nan")


def _unit(vectors: np.ndarray) -> np.ndarray:
    rows = normalize(np.asarray(vectors))
    if not valid(rows).all():
        raise InputError(f"{int((~valid(rows)).sum())} vectors are zero or not finite; leave them out.")
    return rows.unit
