"""Computes vectors of conversations and turns from the vectors of their messages."""

import numpy as np
import polars as pl

# Numbers of one pass, so that its copies in float64 take some tens of megabytes.
PASS = 2**22


def weighted_means(members: pl.DataFrame, count: int, vectors: np.ndarray) -> np.ndarray:
    """Return the unit vectors (count, d) float32 of groups: weighted means of their members' vectors.

    `members`: group (position, in ascending order), row (of `vectors`) and weight. Each group is summed in float64 in
    the given order, so that its vector does not depend on other groups. A group without members, or whose members
    cancel out, has the zero vector.
    """
    means = np.empty((count, vectors.shape[1]), np.float32)
    group = members["group"].to_numpy()
    step = max(1, PASS // max(vectors.shape[1], 1))
    for start in range(0, count, step):
        end = min(start + step, count)
        first, last = np.searchsorted(group, [start, end])
        means[start:end] = _means(members[int(first) : int(last)], start, end - start, vectors)
    return means


def _means(members: pl.DataFrame, start: int, count: int, vectors: np.ndarray) -> np.ndarray:
    group = members["group"].to_numpy().astype(np.int64) - start
    row, weight = members["row"].to_numpy(), members["weight"].to_numpy().astype(np.float64)
    sums = np.zeros((count, vectors.shape[1]), dtype=np.float64)
    # The first members of all groups, then the second ones, and so on.
    nth = np.arange(len(group)) - np.searchsorted(group, group)
    order = np.argsort(nth, kind="stable")
    for part in np.split(order, np.cumsum(np.bincount(nth))[:-1]):
        sums[group[part]] += weight[part, None] * vectors[row[part]]
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.divide(sums, norms, out=sums, where=norms > 0).astype(np.float32)
