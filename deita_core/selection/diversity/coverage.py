"""Selects the rows that together carry the most information about labels (MIG, 2504.13835)."""

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np

from deita_core.errors import InputError
from deita_core.selection.limits import Limits, Rule
from deita_core.selection.results import Selection, selection_of

# Labels whose cosine is at least this share what a row says about one of them.
ALIKE = 0.9
# The information of a label is x ** POWER, so that more of the same label adds less and less.
POWER = 0.8
SMALLEST = 1e-6
ADDS_LESS = "was not selected: others add more information about the labels"


def select_coverage(
    labels: Sequence[Sequence[int]],
    scores: np.ndarray,
    *,
    budget: int,
    similarity: np.ndarray | None = None,
    ids: Sequence[str] | None = None,
) -> Selection:
    """Select, one after the other, the row that adds the most information about the labels.

    labels: the label numbers of each row, from 0, which may be none; scores (n,), at least 0; similarity (L, L):
    cosines between labels, None if none are alike; ids as in `select_diverse`, whose order breaks ties. A row spreads
    its score evenly over its labels, and a label shares it with those of a cosine of at least 0.9. The gain of a row is
    its share in each label times the derivative of x ** 0.8 at what is selected already. Gains only fall, so a heap of
    old gains finds the same rows as computing all of them for every pick. Raises InputError for inconsistent arguments.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if len(labels) != len(scores):
        raise InputError(f"There are {len(labels)} lists of labels and {len(scores)} scores; give one of each.")
    if (scores[np.isfinite(scores)] < 0).any():
        raise InputError("A score is negative, so that a row would take information away; shift the scores.")
    shares = label_shares(labels, scores, similarity)

    def rule(order: np.ndarray, by_id: np.ndarray, limits: Limits) -> Rule:
        return coverage_rule(shares[order], by_id, limits)

    return selection_of(scores, ids, budget, rule, ADDS_LESS, in_rank_order=False)


def label_shares(
    labels: Sequence[Sequence[int]], scores: np.ndarray, similarity: np.ndarray | None = None
) -> Any:  # fmt: skip
    """What each row says about each label, nothing without a finite score: an (n, L) scipy matrix in CSR form."""
    from scipy.sparse import csr_matrix

    lengths = np.array([len(of_row) for of_row in labels], dtype=np.int64)
    flat = np.fromiter((label for of_row in labels for label in of_row), np.int64, int(lengths.sum()))
    count = len(similarity) if similarity is not None else int(flat.max(initial=-1)) + 1
    if len(flat) and not 0 <= flat.min() <= flat.max() < count:
        raise InputError(f"A label is not a number from 0 to {count - 1}; give one row of similarity for each label.")
    finite = np.where(np.isfinite(scores), scores, 0.0)
    values = np.repeat(finite / np.maximum(lengths, 1), lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    own = csr_matrix((values, flat, starts), shape=(len(labels), count))
    if similarity is None:
        return own
    alike = np.where(np.asarray(similarity, dtype=np.float64) >= ALIKE, similarity, 0.0)
    np.fill_diagonal(alike, 1.0)
    return own @ csr_matrix(alike / alike.sum(axis=0))


def coverage_rule(shares: Any, ties: np.ndarray, limits: Limits) -> Rule:
    """A rule that takes, one after the other, the candidate that adds the most information.

    `shares`: as `label_shares` returns, of the candidates in rank order; of equal gains the least of `ties` (n,) wins.
    """
    held = np.zeros(shares.shape[1])
    slope = POWER * (held + SMALLEST) ** (POWER - 1)
    starts, columns, values = shares.indptr, shares.indices, shares.data

    def gain(row: int) -> float:
        part = slice(starts[row], starts[row + 1])
        return float(values[part] @ slope[columns[part]])

    def add(row: int) -> None:
        part = slice(starts[row], starts[row + 1])
        held[columns[part]] += values[part]
        slope[columns[part]] = POWER * (held[columns[part]] + SMALLEST) ** (POWER - 1)

    def take(rows: np.ndarray, forced: bool) -> None:
        if forced:
            for row in rows.tolist():
                limits.force(row)
                add(row)
            return
        heap = [(-gain(row), int(ties[row]), row) for row in rows.tolist()]
        heapq.heapify(heap)
        while heap and not limits.full:
            _, tie, row = heap[0]
            now = (-gain(row), tie, row)
            # Still the best although it has been computed anew: no other can have risen.
            if len(heap) == 1 or now <= min(heap[1:3]):
                heapq.heappop(heap)
                if limits.admit(row):
                    add(row)
            else:
                heapq.heapreplace(heap, now)

    return take
