"""Other rules of diversity on made-up vectors: lazy against plain coverage, and clusters of many rows.

    python -m benchmarks.strategies [--rows 20000] [--budget 2000] [--cluster-rows 100000] [--dim 384] [--restarts 10]

Coverage (MIG): the labels of a row are its three nearest of 200 clusters, alike where their centroids are. The plain
greedy computes every gain for every pick; both must pick the same rows. Clusters (kMQ): spherical k-means with a tenth
of the budget as their number, then the draw by score. Vectors lie around 300 random directions; scores are random.
"""

from argparse import ArgumentParser
from time import perf_counter

import numpy as np
import psutil

from deita_core.alignment.records import peak_memory
from deita_core.selection import select_clusters, select_coverage
from deita_core.selection.diversity.clusters import spherical_kmeans
from deita_core.selection.diversity.coverage import POWER, SMALLEST, label_shares

LABELS, CLUSTERS = 3, 200


def main() -> None:
    parser = ArgumentParser(prog="python -m benchmarks.strategies")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--budget", type=int, default=2_000)
    parser.add_argument("--cluster-rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--restarts", type=int, default=10)
    given = parser.parse_args()
    coverage(*made_up(given.rows, given.dim), given.budget)
    clusters(*made_up(given.cluster_rows, given.dim), given.budget, given.restarts)


def made_up(rows: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (rows, dim) float32 around random directions, and scores (rows,) of 1 to 36."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(300, dim)).astype(np.float32)
    vectors = directions[rng.integers(0, 300, rows)] + rng.normal(size=(rows, dim)).astype(np.float32)
    return vectors, rng.uniform(1, 36, rows)


def coverage(vectors: np.ndarray, scores: np.ndarray, budget: int) -> None:
    found = spherical_kmeans(vectors, CLUSTERS, restarts=1)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = np.argsort(-(unit @ found.centroids.T), axis=1)[:, :LABELS].tolist()
    similarity = found.centroids @ found.centroids.T
    started = perf_counter()
    lazy = select_coverage(labels, scores, budget=budget, similarity=similarity).indices.tolist()
    lazy_seconds = perf_counter() - started
    started = perf_counter()
    plain = plain_coverage(labels, scores, budget, similarity)
    plain_seconds = perf_counter() - started
    if lazy != plain:
        raise SystemExit("The lazy greedy and the plain one pick different rows.")
    print(
        f"coverage, {len(scores):,} rows, {CLUSTERS} labels, budget {budget:,}: lazy {lazy_seconds:.2f} s, "
        f"plain {plain_seconds:.2f} s (lazy / plain {lazy_seconds / plain_seconds:.1f}), the same rows"
    )


def plain_coverage(labels: list[list[int]], scores: np.ndarray, budget: int, similarity: np.ndarray) -> list[int]:
    """Every gain for every pick."""
    shares = label_shares(labels, scores, similarity)
    held, free, picked = np.zeros(shares.shape[1]), np.ones(len(scores), bool), list[int]()
    for _ in range(budget):
        gains = np.where(free, shares @ (POWER * (held + SMALLEST) ** (POWER - 1)), -1)
        picked.append(int(gains.argmax()))
        free[picked[-1]] = False
        held += shares[[picked[-1]]].toarray()[0]
    return picked


def clusters(vectors: np.ndarray, scores: np.ndarray, budget: int, restarts: int) -> None:
    before = psutil.Process().memory_info().rss / 2**30
    started = perf_counter()
    found = spherical_kmeans(vectors, budget // 10, restarts=restarts)
    seconds = perf_counter() - started
    started = perf_counter()
    selection = select_clusters(found.labels, scores, budget=budget, seed=0)
    print(
        f"clusters, {vectors.shape[0]:,} x {vectors.shape[1]}, {budget // 10} clusters, {restarts} restarts: "
        f"{seconds:.1f} s, draw {perf_counter() - started:.2f} s, {len(selection.indices):,} selected; memory "
        f"{before:.2f} GiB before, peak {peak_memory():.2f} GiB"
    )


if __name__ == "__main__":
    main()
