"""The exact streaming greedy scan (paper, section 2.4: score-first, diversity-aware selection).

A cheap upper bound rules out most pairs, float32 products most others, and float64 decides the rest. So every decision
equals that of a one-by-one float64 scan, for any block size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl

from deita_core.errors import InputError
from deita_core.selection.limits import Limits
from deita_core.selection.selected import Pairs, SelectedSet, no_pairs
from deita_core.selection.vectors import (
    NOBODY,
    Vectors,
    check_shape,
    cosines,
    margin,
    most_similar,
    normalize,
    reject,
    valid,
)

BLOCK = 1_024

DECISION_SCHEMA = {
    "id": pl.String,
    "rank": pl.Int64,
    "selected": pl.Boolean,
    "duplicate_of": pl.String,
    "similarity": pl.Float64,
}
REJECT_SCHEMA = {"id": pl.String, "reason": pl.String}


def check_settings(budget: int | None, threshold: float) -> None:
    """Raise InputError for a budget below 1 or a threshold outside -1 to 1."""
    if budget is not None and budget < 1:
        raise InputError(f"The budget is {budget}; give the number of samples to select, at least 1.")
    if not -1 <= threshold <= 1:
        raise InputError(f"The threshold is {threshold}; it is a cosine similarity, from -1 to 1.")


@dataclass(frozen=True)
class Asked:
    """Limits to ask for each candidate that is no near-duplicate; `rows` (n,): their positions for the limits.

    `forced`: every candidate is taken, whatever it is similar to and whatever the limits are.
    """

    limits: Limits
    rows: np.ndarray
    forced: bool = False

    @property
    def full(self) -> bool:
        """True once no further candidate is needed."""
        return not self.forced and self.limits.full

    def take(self, position: int) -> bool:
        """True if a candidate is taken."""
        row = int(self.rows[position])
        if self.forced:
            self.limits.force(row)
            return True
        return self.limits.admit(row)


class _Block(NamedTuple):
    """Decisions for candidates (n,); `place`: position among all selected of the one the candidate duplicates."""

    ids: list[str]
    selected: np.ndarray
    place: np.ndarray
    similarity: np.ndarray


class DiversitySelector:
    """Scans candidates in rank order and selects each whose cosine similarity to every selected one is <= threshold.

    Pass blocks in order to `add_block`; the scan ends once the budget is full. Memory is the selected set plus one
    block. With `budget` None only the threshold limits the selection. `rejected` lists invalid vectors.
    """

    def __init__(self, budget: int | None, threshold: float, dim: int) -> None:
        check_settings(budget, threshold)
        self.budget = budget
        self.threshold = threshold
        self.scanned = 0
        self._dim = dim
        self._set = SelectedSet(dim)
        self._selected_ids: list[str] = []
        self._rejected: list[tuple[str, str]] = []

    @property
    def full(self) -> bool:
        """True once the budget is full: no further vectors are needed."""
        return self.budget is not None and len(self._set) >= self.budget

    @property
    def selected_ids(self) -> list[str]:
        """Ids selected so far, in rank order."""
        return list(self._selected_ids)

    @property
    def selected(self) -> Vectors:
        """The vectors selected so far, in rank order, as input for `nearest_selected`."""
        return self._set.vectors

    @property
    def rejected(self) -> pl.DataFrame:
        """Candidates whose vector is zero or not finite: id, reason."""
        return pl.DataFrame(self._rejected, schema=REJECT_SCHEMA, orient="row")

    def add_block(self, ids: Sequence[str], vectors: np.ndarray, asked: Asked | None = None) -> pl.DataFrame:
        """Decide the next candidates in order: ids (n,), vectors (n, dim) float32 or float16.

        Returns one row per candidate scanned: id, rank (from 1), selected, duplicate_of (for a near-duplicate the most
        similar one selected above it, among equals the best ranked) and similarity (their cosine; null if it is no
        near-duplicate). Candidates after the one that fills the budget have no row. `asked` limits the candidates
        further.
        """
        check_shape(vectors, len(ids), self._dim)
        before, blocks = self.scanned, []
        for start in range(0, len(ids), BLOCK):
            if self.full or (asked and asked.full):
                break
            block = slice(start, start + BLOCK)
            part = replace(asked, rows=asked.rows[block]) if asked else None
            blocks.append(self._add(list(ids[block]), np.asarray(vectors[block], dtype=np.float32), part))
        return self._frame(blocks, before + 1) if blocks else pl.DataFrame(schema=DECISION_SCHEMA)

    def _add(self, ids: list[str], raw: np.ndarray, asked: Asked | None) -> _Block:
        vectors = normalize(raw)
        good = np.flatnonzero(valid(vectors))
        scanned = vectors if len(good) == len(ids) else vectors.take(good)
        place, similarity, selected = self._decide(scanned, replace(asked, rows=asked.rows[good]) if asked else None)
        # Candidates after the one that filled the budget are not scanned, so they are not rejected either.
        ended = len(place) < len(good) or self.full or (asked is not None and asked.full)
        end = int(good[len(place) - 1]) if ended and len(place) else len(ids)
        bad = np.setdiff1d(np.arange(end), good)
        self._rejected += reject([ids[i] for i in bad], vectors.lengths[bad])
        self._selected_ids += [ids[i] for i in good[selected]]
        self.scanned += len(place)
        chosen = np.zeros(len(place), dtype=bool)
        chosen[selected] = True
        return _Block([ids[i] for i in good[: len(place)]], chosen, place, similarity)

    def _decide(self, rows: Vectors, asked: Asked | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Place and similarity of the vector each scanned row duplicates, and the positions of the selected rows."""
        before, end = len(self._set), len(rows)
        if self.threshold >= 1 or (asked and asked.forced):
            rows = rows if self.threshold >= 1 else self._set.prepare(rows, self.threshold)
            place, similarity, chosen = np.full(end, NOBODY), np.full(end, -np.inf), np.ones(end, dtype=bool)
            if asked:
                end = admitted(rows, chosen, no_pairs(), self.threshold, asked)
        else:
            rows = self._set.prepare(rows, self.threshold)
            place, similarity = most_similar(rows, self._set.vectors, *self._set.close_pairs(rows, self.threshold))
            free = np.flatnonzero(similarity <= self.threshold)
            pairs = self._set.close_pairs_among(rows, free, self.threshold)
            chosen = similarity <= self.threshold
            if asked:
                end = admitted(rows, chosen, pairs, self.threshold, asked)
            else:
                chosen = greedy(rows, chosen, pairs, self.threshold)
            _raise_to_block(place, similarity, rows, pairs.where(chosen[pairs.other]), before, chosen)
        selected = np.flatnonzero(chosen)
        if self.budget is not None and len(selected) >= self.budget - before:
            selected = selected[: self.budget - before]
            end = int(selected[-1]) + 1
        self._set.extend(rows.take(selected))
        # Also those that the limits refused.
        place[similarity <= self.threshold] = NOBODY
        place[selected] = NOBODY
        return place[:end], similarity[:end], selected

    def _frame(self, blocks: list[_Block], first: int) -> pl.DataFrame:
        """The decisions of all blocks in one frame, because each frame has a fixed cost."""
        ids = [id_ for block in blocks for id_ in block.ids]
        selected, place, similarity = (np.concatenate(parts) for parts in list(zip(*blocks, strict=True))[1:])
        duplicate_of = [None if i == NOBODY else self._selected_ids[i] for i in place.tolist()]
        return pl.DataFrame(
            {
                "id": ids,
                "rank": np.arange(first, first + len(ids)),
                "selected": selected,
                "duplicate_of": duplicate_of,
                "similarity": pl.Series(np.where(place == NOBODY, np.nan, similarity)).fill_nan(None),
            },
            schema=DECISION_SCHEMA,
        )


def greedy(rows: Vectors, free: np.ndarray, pairs: Pairs, threshold: float) -> np.ndarray:
    """A mask (n,) of the selected rows: the `free` ones (n,) that are not near-duplicates of a row selected above them.

    `pairs`: pairs of a row and a free row above it, including all that are more than `threshold` similar.
    """
    chosen = free.copy()
    near = _Near(rows, pairs.where(free[pairs.row]), threshold)
    for row in near.rows:
        chosen[row] = not near.duplicates(row, chosen)
    return chosen


def admitted(rows: Vectors, free: np.ndarray, pairs: Pairs, threshold: float, asked: Asked) -> int:
    """As `greedy`, with limits to ask for each row; `free` becomes the mask. Returns the number of rows scanned."""
    near = _Near(rows, pairs.where(free[pairs.row]), threshold)
    for row in np.flatnonzero(free).tolist():
        free[row] = not (row in near.rows and near.duplicates(row, free)) and asked.take(row)
        if asked.full:
            free[row + 1 :] = False
            return row + 1
    return len(rows)


class _Near:
    """The close pairs of the rows of a block with rows above them: `rows` has the range of each row's pairs."""

    def __init__(self, block: Vectors, pairs: Pairs, threshold: float) -> None:
        self._block, self._threshold = block, threshold
        self._pairs = pairs = pairs.where(np.argsort(pairs.row, kind="stable"))
        self._sure = pairs.product > threshold + margin(block.raw.shape[1])
        starts = np.flatnonzero(np.diff(pairs.row, prepend=NOBODY, append=NOBODY)).tolist()
        self.rows = {int(pairs.row[start]): slice(start, end) for start, end in pairwise(starts)}

    def duplicates(self, row: int, chosen: np.ndarray) -> bool:
        """True if a row is a near-duplicate of a chosen one above it."""
        part = self.rows[row]
        standing = chosen[self._pairs.other[part]]
        if (standing & self._sure[part]).any():
            return True
        others = self._pairs.other[part][standing]
        if not len(others):
            return False
        similar = cosines(self._block, np.full(len(others), row), self._block, others)
        return bool(similar.max() > self._threshold)


def _raise_to_block(
    place: np.ndarray, similarity: np.ndarray, rows: Vectors, pairs: Pairs, before: int, chosen: np.ndarray
) -> None:
    """Update place and similarity of near-duplicates whose most similar selected row is in the same block.

    `pairs`: pairs of a row and a row selected in the block; `before`: the number selected before the block.
    """
    pairs = pairs.where(~chosen[pairs.row] & (pairs.product > similarity[pairs.row] - margin(rows.raw.shape[1])))
    inside, similar = most_similar(rows, rows, *pairs)
    nearer = similar > similarity
    place[nearer] = before + (np.cumsum(chosen) - 1)[inside[nearer]]
    similarity[nearer] = similar[nearer]
