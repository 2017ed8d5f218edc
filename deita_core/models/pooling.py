"""Computes vectors of conversations and turns from the vectors of their messages."""

import numpy as np
import polars as pl

# Numbers of one pass: its arrays in float64 stay in a processor's cache.
PASS = 2**17


def weighted_means(members: pl.DataFrame, count: int, vectors: np.ndarray) -> np.ndarray:
    """Return the unit vectors (count, d) float32 of groups: weighted means of their members' vectors.

    `members`: group (position, in ascending order), row (of `vectors`) and weight. Each group is summed in float64 in
    the given order, so that its vector does not depend on other groups. A group without members, or whose members
    cancel out, has the zero vector.
    """
    means = np.zeros((count, vectors.shape[1]), np.float32)
    group = members["group"].to_numpy().astype(np.int64)
    row, weight = members["row"].to_numpy(), members["weight"].to_numpy().astype(np.float64)
    step = max(1, PASS // max(vectors.shape[1], 1))
    begins = np.flatnonzero(np.diff(group, prepend=-1))
    sizes = np.diff(begins, append=len(group))
    for start in range(0, len(begins), step):
        some = slice(start, start + step)
        means[group[begins[some]]] = _means(begins[some], sizes[some], row, weight, vectors)
    return means


def _means(
    begins: np.ndarray, sizes: np.ndarray, row: np.ndarray, weight: np.ndarray, vectors: np.ndarray
) -> np.ndarray:
    """Unit vectors of groups (n,) whose members begin at these positions and follow each other."""
    # The first members of all groups, then the second ones, and so on. Zero is added to the first ones, since a
    # negative zero would stay one.
    sums = weight[begins, None] * vectors[row[begins]] + 0.0
    for nth in range(1, sizes.max()):
        longer = np.flatnonzero(sizes > nth)
        members = begins[longer] + nth
        sums[longer] += weight[members, None] * vectors[row[members]]
    norms = np.sqrt((sums * sums).sum(axis=1, keepdims=True))
    return np.divide(sums, norms, out=sums, where=norms > 0)
