"""Computes vectors of conversations and turns from the vectors of their messages."""

from collections.abc import Sequence

import numpy as np
import polars as pl


def weighted_means(groups: Sequence[Sequence[tuple[int, float]]], vectors: np.ndarray) -> np.ndarray:
    """Return one unit vector per group, the weighted mean of its members: (m, d) float32.

    Each group lists (row of `vectors`, weight). Summed in float64 in the given order, so that the result does not
    depend on other groups. A group without members, or whose members cancel out, gets the zero vector.
    """
    means = np.zeros((len(groups), vectors.shape[1]), dtype=np.float64)
    for mean, group in zip(means, groups, strict=True):
        for row, weight in group:
            mean += weight * vectors[row].astype(np.float64)
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    return np.divide(means, norms, out=means, where=norms > 0).astype(np.float32)


def conversation_vectors(indices: pl.Series, text_ids: Sequence[str], vectors: np.ndarray) -> np.ndarray:
    """Return one unit vector per conversation: the mean of its messages' vectors weighted by their characters.

    `indices` as in the samples table; `text_ids` names the rows of `vectors`. Blank messages are ignored.
    """
    row_of = {text: row for row, text in enumerate(text_ids)}
    groups = [
        [(row_of[m["text_id"]], float(m["n_chars"])) for m in message_index if not m["blank"]]
        for message_index in indices.to_list()
    ]
    return weighted_means(groups, vectors)
