"""Selects from clusters in proportion to their sizes, and finds clusters by spherical k-means (kMQ, 2409.11378)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deita_core.errors import InputError
from deita_core.selection.limits import Limits, Rule
from deita_core.selection.results import Selection, selection_of
from deita_core.selection.vectors import normalize, valid

# Rows whose products with the centroids are computed at a time: 64 MB with 1,000 centroids.
BLOCK = 16_384
CLUSTER_FULL = "was not selected: others fill its cluster's share of the budget"


@dataclass(frozen=True)
class Clusters:
    """Clusters of vectors: the label of each (n,) int64, normalized centroids (k, d) float32, and the sum of cosines of
    the vectors to their centroids.
    """

    labels: np.ndarray
    centroids: np.ndarray
    cohesion: float


def spherical_kmeans(
    vectors: np.ndarray, k: int, *, seed: int = 0, restarts: int = 10, steps: int = 100
) -> Clusters:  # fmt: skip
    """The best of `restarts` runs of Lloyd's algorithm under cosine similarity: the one of the largest cohesion.

    vectors (n, d) float32 or float16, of any length. A run starts from k distinct rows, drawn at random, and ends when
    no label changes, or after `steps`. A cluster that loses its last row gets the row that is furthest from its own
    centroid. The same seed gives the same clusters on one machine. Raises InputError for k outside 1 to n, and for a
    vector that is zero or not finite.
    """
    rows = normalize(vectors)
    if not 1 <= k <= len(rows):
        raise InputError(f"{k} clusters cannot be made of {len(rows)} vectors; give a number from 1 to that.")
    if not valid(rows).all():
        raise InputError(f"{int((~valid(rows)).sum())} vectors are zero or not finite; leave them out.")
    generator = np.random.default_rng(seed)
    found = [_lloyd(rows.unit, generator.choice(len(rows), k, replace=False), steps) for _ in range(restarts)]
    return max(found, key=lambda one: one.cohesion)


def _lloyd(unit: np.ndarray, first: np.ndarray, steps: int) -> Clusters:
    centroids = unit[np.sort(first)]
    labels, cosines = _assign(unit, centroids)
    for _ in range(steps):
        centroids = _centroids(unit, labels, cosines, len(centroids))
        before, (labels, cosines) = labels, _assign(unit, centroids)
        if (labels == before).all():
            break
    return Clusters(labels, centroids, float(cosines.sum(dtype=np.float64)))


def _assign(unit: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centroid of each row and the cosine to it; of equally near ones the first."""
    labels, cosines = np.empty(len(unit), np.int64), np.empty(len(unit), np.float32)
    for start in range(0, len(unit), BLOCK):
        products = unit[start : start + BLOCK] @ centroids.T
        labels[start : start + BLOCK] = nearest = products.argmax(axis=1)
        cosines[start : start + BLOCK] = np.take_along_axis(products, nearest[:, None], axis=1)[:, 0]
    return labels, cosines


def _centroids(unit: np.ndarray, labels: np.ndarray, cosines: np.ndarray, k: int) -> np.ndarray:
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=k)
    filled = np.flatnonzero(counts)
    starts = np.concatenate([[0], np.cumsum(counts[filled])[:-1]])
    centroids = np.empty((k, unit.shape[1]), np.float32)
    centroids[filled] = np.add.reduceat(unit[order], starts, axis=0)
    empty = np.flatnonzero(counts == 0)
    centroids[empty] = unit[np.argsort(cosines, kind="stable")[: len(empty)]]
    lengths = np.linalg.norm(centroids, axis=1, keepdims=True)
    # Rows of a cluster may cancel each other; then any direction is as good.
    centroids[lengths[:, 0] == 0] = unit[0]
    return centroids / np.where(lengths == 0, 1, lengths).astype(np.float32)


def cluster_quotas(sizes: np.ndarray, budget: int) -> np.ndarray:
    """How many rows of each cluster are selected: (k,) int64, in proportion to `sizes` (k,), by largest remainder.

    They add up to the budget, or to all rows if those are fewer; ties go to the lower cluster.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    total = int(sizes.sum())
    budget = min(budget, total)
    # Whole numbers, since a remainder of floats could break a tie the wrong way.
    quotas, remainders = np.divmod(sizes * budget, max(total, 1))
    left = budget - int(quotas.sum())
    quotas[np.argsort(-remainders, kind="stable")[:left]] += 1
    return quotas


def select_clusters(
    clusters: np.ndarray,
    scores: np.ndarray,
    *,
    budget: int,
    seed: int | None = None,
    ids: Sequence[str] | None = None,
) -> Selection:
    """Select from each cluster in proportion to its size.

    clusters (n,) int: the cluster of each row, at least 0; scores (n,); ids as in `select_diverse`. Without a seed the
    best of each cluster are selected. With one, rows are drawn from each cluster without replacement, with a
    probability in proportion to their score (kMQ): those with the largest ln(1 - u) / score, where u are numbers of
    numpy's default generator, one for each row in the order of ids. Raises InputError for inconsistent arguments, and
    for a negative score if rows are drawn.
    """
    clusters = np.asarray(clusters)
    if clusters.ndim != 1 or not np.issubdtype(clusters.dtype, np.integer) or (len(clusters) and clusters.min() < 0):
        raise InputError("The clusters are not one number of at least 0 for each row; give those.")
    if len(clusters) != len(scores):
        raise InputError(f"There are {len(clusters)} clusters and {len(scores)} scores; give one of each.")

    def rule(order: np.ndarray, by_id: np.ndarray, limits: Limits) -> Rule:
        priority = None if seed is None else draws(np.asarray(scores, dtype=np.float64)[order], by_id, seed)
        return cluster_rule(clusters[order], priority, limits)

    return selection_of(scores, ids, budget, rule, CLUSTER_FULL)


def cluster_rule(clusters: np.ndarray, priority: np.ndarray | None, limits: Limits) -> Rule:
    """A rule that takes candidates from all clusters in turn, so that each has its share at any time.

    clusters (n,) int and priority (n,), the highest first: of the candidates in rank order; None: by rank. With a
    budget in rows no cluster gets more than its quota, unless the limits refuse too many rows of the others.
    """
    n = len(clusters)
    sizes = np.bincount(clusters) if n else np.zeros(0, np.int64)
    quotas = sizes if limits.budget is None else cluster_quotas(sizes, limits.budget)
    # By cluster, then priority, then rank, which breaks ties of scores of 0.
    by_cluster = np.lexsort((np.arange(n) if priority is None else -priority, clusters))
    share = np.empty(n)
    share[by_cluster] = (np.arange(n) - (np.cumsum(sizes) - sizes)[clusters[by_cluster]] + 0.5) / sizes[
        clusters[by_cluster]
    ]
    taken, cluster_of = [0] * len(sizes), clusters.tolist()

    def take(rows: np.ndarray, forced: bool) -> None:
        for most in ([len(rows)] * len(sizes),) if forced else (quotas.tolist(), sizes.tolist()):
            for row in rows[np.lexsort((clusters[rows], share[rows]))].tolist():
                if limits.full and not forced:
                    return
                if limits.is_selected(row) or taken[cluster_of[row]] >= most[cluster_of[row]]:
                    continue
                if forced:
                    limits.force(row)
                elif not limits.admit(row):
                    continue
                taken[cluster_of[row]] += 1

    return take


def draws(scores: np.ndarray, by_id: np.ndarray, seed: int) -> np.ndarray:
    """Priorities (n,) of a draw with probabilities in proportion to scores (n,), at least 0.

    ln(1 - u) / score, with numbers u of numpy's default generator in the order of ids; `by_id` (n,) is the place of
    each row in it. Raises InputError for a negative score.
    """
    if len(scores) and scores.min() < 0:
        raise InputError("A score is negative, and no probability; shift the scores, or give no seed.")
    u = np.random.default_rng(seed).random(len(scores))[by_id]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(scores > 0, np.log1p(-u) / scores, -np.inf)
