"""A map of rows in two dimensions by PCA and t-SNE, and clusters of them; computed once for a set of rows."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

# Rows placed by t-SNE. It takes a second for these, and minutes for all; the others are placed between them.
ANCHORS = 1_000
# Principal components that t-SNE and the clusters are computed from.
DIMENSIONS = 30
CLUSTERS = 24
ROWS_PER_CLUSTER = 40
# Rows between which another one is placed.
NEIGHBOURS = 3
# Differences below it are rounding errors.
ALIKE = 1e-4
BLOCK = 2_048
SIDE = 4_095
WORD = re.compile(r"[^\W\d_]{3,}")
WORDS = 3
# How many times as frequent as everywhere.
TELLING = 1.5
# Rows of a cluster that its name is made from.
NAMING = 300
SCHEMA = {"id": pl.String, "x": pl.Int16, "y": pl.Int16, "cluster": pl.Int16}


class RowMap:
    """Positions and clusters, fitted on the vectors of some rows and then found for any.

    anchors (n, d) float32. Few rows, or rows that do not differ, are placed by PCA or at one point.
    """

    def __init__(self, anchors: np.ndarray) -> None:
        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA
        from threadpoolctl import threadpool_limits

        size = min(DIMENSIONS, *anchors.shape)
        # Threads of these small steps wait for each other, on a busy machine longer than the steps take.
        # Rows that do not differ have no variance to divide by.
        with threadpool_limits(1), np.errstate(divide="ignore", invalid="ignore"):
            self._pca = PCA(size, svd_solver="randomized" if min(anchors.shape) > 500 else "full", random_state=0)
            self._anchors = self._pca.fit_transform(anchors)
            self._positions = _unfolded(self._anchors)
            count = min(
                CLUSTERS, max(1, len(anchors) // ROWS_PER_CLUSTER), len(np.unique(self._anchors.round(5), axis=0))
            )
            self._clusters = KMeans(count, n_init=1, random_state=0).fit(self._anchors)

    def place(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (n, 2) and clusters (n,) of rows: between the anchors that they are most similar to."""
        reduced = self._pca.transform(vectors)
        found = np.empty((len(reduced), 2))
        for start in range(0, len(reduced), BLOCK):
            part = reduced[start : start + BLOCK]
            distance = (part**2).sum(1)[:, None] - 2 * part @ self._anchors.T + (self._anchors**2).sum(1)
            near = np.argpartition(distance, min(NEIGHBOURS, distance.shape[1] - 1), axis=1)[:, :NEIGHBOURS]
            weight = 1 / (np.maximum(np.take_along_axis(distance, near, 1), 0) + 1e-9)
            weight /= weight.sum(1, keepdims=True)
            found[start : start + BLOCK] = (self._positions[near] * weight[:, :, None]).sum(1)
        return found, self._clusters.predict(reduced)


def _unfolded(reduced: np.ndarray) -> np.ndarray:
    """Positions (n, 2) by t-SNE, or the first principal components of fewer than ten rows."""
    if len(reduced) < 10 or reduced.shape[1] < 2 or reduced.std() < ALIKE:
        return np.pad(reduced[:, :2], ((0, 0), (0, max(0, 2 - reduced.shape[1]))))
    from sklearn.manifold import TSNE

    # An angle of 0.5 and a perplexity of 30 take half as long again, and keep no more of the neighbours.
    near = min(15.0, (len(reduced) - 1) / 3)
    return TSNE(2, perplexity=near, angle=0.8, init="pca", max_iter=400, random_state=0).fit_transform(reduced)


def make_map(ids: Sequence[str], anchors: np.ndarray, blocks: Iterable[tuple[list[str], np.ndarray]]) -> pl.DataFrame:
    """A map of rows: id, x and y (0 to SIDE), cluster. `blocks`: ids and vectors (n, d) of all of them."""
    if not len(anchors):
        return pl.DataFrame(schema=SCHEMA)
    fitted = RowMap(anchors)
    names, parts = [], []
    for some, vectors in blocks:
        names += some
        parts.append(fitted.place(vectors))
    places = np.concatenate([place for place, _ in parts])
    low, span = places.min(0), np.maximum(np.ptp(places, axis=0), ALIKE)
    scaled = np.round((places - low) / span * SIDE).astype(np.int16)
    clusters = np.concatenate([cluster for _, cluster in parts]).astype(np.int16)
    frame = pl.DataFrame({"id": names, "x": scaled[:, 0], "y": scaled[:, 1], "cluster": clusters}, schema=SCHEMA)
    return pl.DataFrame({"id": ids}, schema={"id": pl.String}).join(frame, on="id", how="left", maintain_order="left")


def cluster_names(rows: pl.DataFrame) -> dict[int, str]:
    """A name for each cluster, made of its telling words. `rows`: id, cluster, begins.

    A word tells of a cluster if more of its rows have it than of all rows; rows count once for a word.
    """
    counts: dict[int, Counter[str]] = {}
    sizes: Counter[int] = Counter()
    # In the order of ids, which are hashes: a random part of a large cluster.
    some = rows.filter(pl.col("cluster").is_not_null()).sort("id").group_by("cluster", maintain_order=True).head(NAMING)
    for cluster, begins in some.select("cluster", "begins").iter_rows():
        sizes[cluster] += 1
        counts.setdefault(cluster, Counter()).update(set(WORD.findall(begins.lower())))
    every: Counter[str] = Counter()
    for found in counts.values():
        every.update(found)
    total = sum(sizes.values())
    names = {}
    for cluster, found in sorted(counts.items()):
        # Rare words are damped, since any of them is frequent somewhere by chance.
        ratio = {w: n / sizes[cluster] * total / (every[w] + 5) for w, n in found.items() if n > 1}
        telling = {w: found[w] * np.log(r) for w, r in ratio.items() if r >= TELLING}
        best = sorted(telling, key=lambda w: (-telling[w], w))[:WORDS]
        names[cluster] = ", ".join(best) or f"cluster {cluster + 1}"
    return names
