"""The streaming exact greedy filter (paper, section 2.4: score-first, diversity-aware selection).

Float32 matrix products find the kept vectors that could be nearest; float64 decides among those few. So every decision
is that of a one-by-one filter in float64, whatever the block size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from deita_core.errors import InputError

# Twice what a float32 product can be off by: no kept vector outside this margin of the largest can be nearest.
MARGIN = 2e-5
BLOCK = 1_024

DECISION_SCHEMA = {
    "id": pl.String,
    "rank": pl.Int64,
    "kept": pl.Boolean,
    "blocked_by": pl.String,
    "nearest": pl.String,
    "similarity": pl.Float64,
}
REJECT_SCHEMA = {"id": pl.String, "reason": pl.String}


def _grown(array: np.ndarray, rows: int) -> np.ndarray:
    grown = np.empty((rows, array.shape[1]), dtype=array.dtype)
    grown[: len(array)] = array
    return grown


@dataclass
class _Kept:
    """The kept vectors, in arrays that double when full: as given, and scaled to length 1 for the products."""

    dim: int
    ids: list[str] = field(default_factory=list)
    raw: np.ndarray = field(init=False)
    unit: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.raw = np.empty((0, self.dim), dtype=np.float32)
        self.unit = np.empty((0, self.dim), dtype=np.float32)

    def __len__(self) -> int:
        return len(self.ids)

    def extend(self, ids: list[str], raw: np.ndarray, unit: np.ndarray) -> None:
        start, end = len(self.ids), len(self.ids) + len(ids)
        if end > len(self.unit):
            room = max(end, 2 * len(self.unit), BLOCK)
            self.raw, self.unit = _grown(self.raw, room), _grown(self.unit, room)
        self.raw[start:end], self.unit[start:end] = raw, unit
        self.ids.extend(ids)


class DiversitySelector:
    """Walk candidates in rank order, keeping each whose cosine similarity to every kept one is <= threshold.

    Feed it blocks in order with `offer`; it stops looking once the budget is full. Memory is the kept set plus one
    block. `budget` None keeps as many as the threshold admits. `rejected` lists vectors that are zero or not finite.
    """

    def __init__(self, budget: int | None, threshold: float, dim: int) -> None:
        if budget is not None and budget < 1:
            raise InputError(f"The budget is {budget}; give the number of samples to select, at least 1.")
        if not -1 <= threshold <= 1:
            raise InputError(f"The threshold is {threshold}; it is a cosine similarity, from -1 to 1.")
        self.budget = budget
        self.threshold = threshold
        self.walked = 0
        self._kept = _Kept(dim)
        self._rejected: list[tuple[str, str]] = []

    @property
    def full(self) -> bool:
        """True once the budget is filled: vectors beyond this point need not be read."""
        return self.budget is not None and len(self._kept) >= self.budget

    @property
    def kept_ids(self) -> list[str]:
        """Ids kept so far, in rank order."""
        return list(self._kept.ids)

    @property
    def rejected(self) -> pl.DataFrame:
        """Candidates whose vector has no direction: id, reason."""
        return pl.DataFrame(self._rejected, schema=REJECT_SCHEMA, orient="row")

    def offer(self, ids: Sequence[str], vectors: np.ndarray) -> pl.DataFrame:
        """Decide the next candidates in order: ids (n,), vectors (n, dim) float32 or float16.

        Returns one row per candidate walked: id, rank (from 1), kept, blocked_by, nearest (the nearest kept, which is
        the blocker where there is one) and similarity (its cosine, null while nothing is kept). Candidates after the
        one that fills the budget get no row.
        """
        if vectors.ndim != 2 or vectors.shape != (len(ids), self._kept.dim):
            raise InputError(
                f"Vectors of shape {vectors.shape} came for {len(ids)} ids of {self._kept.dim} dimensions."
            )
        frames = [
            self._block(list(ids[start : start + BLOCK]), np.asarray(vectors[start : start + BLOCK], dtype=np.float32))
            for start in range(0, len(ids), BLOCK)
        ]
        return pl.concat(frames) if frames else pl.DataFrame(schema=DECISION_SCHEMA)

    def _block(self, ids: list[str], raw: np.ndarray) -> pl.DataFrame:
        if self.full:
            return pl.DataFrame(schema=DECISION_SCHEMA)
        norms = np.linalg.norm(raw.astype(np.float64), axis=1)
        good = np.flatnonzero(np.isfinite(norms) & (norms > 0))
        all_ids, ids, raw = ids, [ids[i] for i in good], raw[good]
        unit = (raw / norms[good, None]).astype(np.float32)
        walk = _BlockWalk(self._kept, ids, raw, unit, self.threshold)
        rows = walk.run(None if self.budget is None else self.budget - len(self._kept))
        kept = walk.kept
        frame = pl.DataFrame(
            [(ids[i], self.walked + i + 1, *row) for i, row in enumerate(rows)], schema=DECISION_SCHEMA, orient="row"
        )
        self.walked += len(rows)
        self._kept.extend([ids[i] for i in kept], raw[kept], unit[kept])
        # Beyond the one that filled the budget nothing was looked at, so nothing is rejected either.
        end = int(good[len(rows) - 1]) if self.full else len(all_ids)
        bad = set(range(end)) - set(good.tolist())
        self._rejected += [(all_ids[i], "zero_vector" if norms[i] == 0 else "vector_not_finite") for i in sorted(bad)]
        return frame


class _BlockWalk:
    """One block against the set kept before it and, in order, against what the block itself keeps."""

    def __init__(self, before: _Kept, ids: list[str], raw: np.ndarray, unit: np.ndarray, threshold: float) -> None:
        self._before, self._ids, self._raw, self._threshold = before, ids, raw, threshold
        self._old = unit @ before.unit[: len(before)].T
        self._new = unit @ unit.T
        self._best = self._old.max(axis=1, initial=-np.inf)
        self.kept: list[int] = []

    def run(self, room: int | None) -> list[tuple[bool, str | None, str | None, float | None]]:
        """Decide rows until `room` are kept: (kept, blocked_by, nearest, similarity) each."""
        rows: list[tuple[bool, str | None, str | None, float | None]] = []
        for i in range(len(self._ids)):
            if room is not None and len(self.kept) >= room:
                break
            nearest, similarity = self._nearest(i)
            keep = similarity is None or similarity <= self._threshold
            if keep:
                self.kept.append(i)
            rows.append((keep, None if keep else nearest, nearest, similarity))
        return rows

    def _nearest(self, i: int) -> tuple[str | None, float | None]:
        """The nearest kept vector, its cosine in float64; of equally near ones the first kept."""
        inside = self._new[i, self.kept]
        floor = max(self._best[i], inside.max(initial=-np.inf)) - MARGIN
        contenders: list[tuple[str, np.ndarray]] = []
        if self._best[i] >= floor:
            old = np.flatnonzero(self._old[i] >= floor)
            contenders += [(self._before.ids[j], self._before.raw[j]) for j in old]
        contenders += [(self._ids[self.kept[j]], self._raw[self.kept[j]]) for j in np.flatnonzero(inside >= floor)]
        if not contenders:
            return None, None
        cosines = cosine(self._raw[i], np.stack([vector for _, vector in contenders]))
        best = int(cosines.argmax())
        return contenders[best][0], float(cosines[best])


def cosine(vector: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Cosine similarity of one vector (d,) to others (n, d), each pair in float64 by itself.

    Sums over each row and no matrix product: its order of summation would depend on how many rows there are.
    """
    a, b = vector.astype(np.float64), others.astype(np.float64)
    cosines = (b * a).sum(axis=1) / (np.sqrt((a * a).sum()) * np.sqrt((b * b).sum(axis=1)))
    # Rounding can put a copy at a hair above 1, which no threshold would admit.
    return np.clip(cosines, -1.0, 1.0)
