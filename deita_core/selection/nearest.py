"""The most similar sample selected above each selected one, for exporting and explaining a selection."""

import numpy as np
import polars as pl

from deita_core.selection.vectors import NOBODY, Vectors, margin, most_similar, normalize, valid

BLOCK = 1_024
TILE = 512


def nearest_selected(vectors: np.ndarray | Vectors) -> tuple[np.ndarray, np.ndarray]:
    """For each selected vector, the most similar one above it: position (m,) int64 and cosine (m,) float64.

    vectors (m, d) float32 or float16, in rank order, none zero. Among equally similar vectors, the best ranked. The
    first has position -1 and cosine -inf. Computes about m * m / 2 products.
    """
    selected = vectors if isinstance(vectors, Vectors) else normalize(vectors)
    place, similarity = np.full(len(selected), NOBODY), np.full(len(selected), -np.inf)
    for start in range(0, len(selected), BLOCK):
        block = slice(start, start + BLOCK)
        place[block], similarity[block] = _nearest(selected.take(block), selected.take(slice(start + BLOCK)), start)
    return place, similarity


def nearest_of(vectors: Vectors, others: Vectors) -> tuple[np.ndarray, np.ndarray]:
    """For each vector, the most similar of others: position (n,) int64 and cosine (n,) float64, the first of equals.

    The position of an invalid vector, and of every one if there are no others, is -1. The others have to be valid.
    """
    place, similarity = np.full(len(vectors), NOBODY), np.full(len(vectors), -np.inf)
    known = np.flatnonzero(valid(vectors))
    for start in range(0, len(known), BLOCK):
        rows = known[start : start + BLOCK]
        place[rows], similarity[rows] = _nearest(vectors.take(rows), others)
    return place, similarity


def _nearest(rows: Vectors, selected: Vectors, start: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest_of` for valid rows; `start`: they are the selected ones from there on, and only look above."""
    slack = np.float32(margin(rows.raw.shape[1]))
    best = np.full(len(rows), -np.inf, np.float32)
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
    for first in range(0, len(selected), TILE):
        others = selected.unit[first : first + TILE]
        product = rows.unit @ others.T
        if start is not None and first + len(others) > start:
            product[np.arange(first, first + len(others)) >= np.arange(start, start + len(rows))[:, None]] = -np.inf
        np.maximum(best, product.max(axis=1), out=best)
        near = np.flatnonzero(product >= np.maximum(best - slack, np.float32(-3))[:, None])
        found.append((near // len(others), first + near % len(others), product.ravel()[near]))
    row, other, product = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return most_similar(rows, selected, row, other, product)


def with_nearest(decisions: pl.DataFrame, vectors: np.ndarray | Vectors) -> pl.DataFrame:
    """Decisions of a scan with `nearest`, and `similarity` to it; both are null for the first one selected.

    `nearest`: `duplicate_of` of a near-duplicate; for a selected candidate, the most similar one selected above it.
    vectors (m, d): the selected vectors, in rank order.
    """
    place, similarity = nearest_selected(vectors)
    ids = decisions.filter("selected")["id"]
    names = ids.to_list()
    above = pl.DataFrame(
        {"id": ids, "nearest": [None if i == NOBODY else names[i] for i in place.tolist()], "cosine": similarity},
        schema={"id": pl.String, "nearest": pl.String, "cosine": pl.Float64},
    )
    joined = decisions.join(above, on="id", how="left", maintain_order="left")
    return joined.with_columns(
        nearest=pl.coalesce("duplicate_of", "nearest"),
        similarity=pl.when("selected")
        .then(pl.when(pl.col("nearest").is_not_null()).then("cosine"))
        .otherwise("similarity"),
    ).drop("cosine")
