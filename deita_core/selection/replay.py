"""Replaying a walk after its pool has changed: the decisions of a walk from scratch, at the price of the change.

A decision rests on the nearest kept vector above. While that one stands, only what is kept now and was not before, the
news, can be nearer. So a candidate is compared with those alone, and not even with them where the angles rule it out;
where it is new, or its nearest has fallen and no news is surely as near, it is compared with everything kept. Decisions
are those of `DiversitySelector` on the new order (paper, section 2.4), to the last bit of every similarity.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from deita_core.selection.carried import Carried, carry
from deita_core.selection.selector import (
    NOBODY,
    REJECT_SCHEMA,
    Growing,
    Vectors,
    check_settings,
    check_shape,
    decided,
    directed,
    greedy,
    margin,
    measured,
    nearest,
    reject,
)

# A block ends with so many candidates, so many that are compared with all kept, or so many that may be kept.
BLOCK = 16_384
WHOLE = 1_024
KEEPERS = 4_096
SHORTEST = 512
# How often a block is decided again because of what has fallen in it, before all of its beginning is compared with all.
ATTEMPTS = 3

VectorsOf = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Work:
    """What a replay did: candidates walked, those whose decision could not just be carried over, pairs compared."""

    walked: int
    examined: int
    compared: int


@dataclass(frozen=True)
class Replayed:
    """Decisions and rejected candidates as DiversitySelector's, and the work they took."""

    decisions: pl.DataFrame
    rejected: pl.DataFrame
    work: Work


def replay(
    ids: Sequence[str] | pl.Series,
    before: pl.DataFrame,
    vectors_of: VectorsOf,
    *,
    budget: int | None,
    threshold: float,
    dim: int,
    changed: Collection[str] = (),
) -> Replayed:
    """Walk candidates in rank order, re-using the decisions of an earlier walk with any budget and threshold.

    `ids`: the candidates now, in rank order. `before`: id, kept, nearest, similarity of the earlier walk, in its order.
    `changed`: ids whose vector is no longer what it was.
    `vectors_of` gives vectors (n, dim) of ids; it is asked only for those that are needed. Raises InputError for a
    budget below 1, a threshold that is no cosine, and vectors of another shape.
    """
    check_settings(budget, threshold)
    names = pl.Series("id", ids, dtype=pl.String)
    walk = _Walk(names, carry(names, before, changed), vectors_of, budget, threshold, dim)
    start = 0
    while start < len(names) and walk.room != 0:
        start = walk.settle(start)
    return walk.result(start)


class _Walk:
    """The walk so far: what is kept, what of that is news to those below, and every candidate's nearest."""

    def __init__(
        self, ids: pl.Series, old: Carried, vectors_of: VectorsOf, budget: int | None, threshold: float, dim: int
    ) -> None:
        self.old, self.threshold, self.dim = old, threshold, dim
        self._ids, self._vectors_of, self._budget = ids, vectors_of, budget
        self._last_known = int(np.flatnonzero(old.known).max(initial=NOBODY))
        # Kept now as before, and not moved: whom such a one is nearest to is compared with the news alone.
        self.stands = np.zeros(len(ids), dtype=bool)
        # Of each candidate: its place among the kept, its nearest's, and the cosine of the two.
        self.place = np.full(len(ids), NOBODY)
        self.near = np.full(len(ids), NOBODY)
        self.similarity = np.full(len(ids), -np.inf)
        self.kept_at = np.empty(0, np.int64)
        # With room for a few more than there were.
        self._kept = Growing(dim, room=int(1.1 * old.kept.sum()) + SHORTEST)
        # Places of the kept that do not stand; how like the nearest of those each kept one is, and how like the nearest
        # that stands each of those.
        self.news = np.empty(0, np.int64)
        self.news_vectors = Growing(dim)
        self.nearest_news = np.empty(0, np.float32)
        self.nearest_standing = np.empty(0, np.float32)
        self._rejected: list[tuple[str, str]] = []
        self._rejected_at: list[int] = []
        self._examined = self.compared = 0

    @property
    def room(self) -> int | None:
        """How many more may be kept; None without a budget."""
        return None if self._budget is None else self._budget - len(self.kept_at)

    def read(self, positions: np.ndarray) -> Vectors:
        """Vectors of candidates."""
        found = np.asarray(self._vectors_of(self._ids.gather(positions).to_list()))
        check_shape(found, len(positions), self.dim)
        return measured(found)

    def kept_vectors(self) -> Vectors:
        """Vectors of all that is kept above the block, each read once."""
        if len(self._kept) < len(self.kept_at):
            self._kept.extend(self.read(self.kept_at[len(self._kept) :]))
        return self._kept.vectors

    def compare(
        self, rows: Vectors, others: Vectors, above: np.ndarray | None = None, floor: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `nearest`, and counted."""
        self.compared += len(rows) * len(others)
        return nearest(rows, others, above, floor)

    def settle(self, start: int) -> int:
        """Decide the next candidates; returns where those after them begin."""
        stop = self._stop(start)
        block = _Block(self, start, stop)
        if not block.choose():
            block = _Block(self, start, min(stop, start + WHOLE), whole=True)
            block.choose()
        block.end_at(self.room)
        self._keep(block)
        block.find_nearest()
        self._write(block)
        return start + block.end

    def rests(self, rows: slice) -> np.ndarray:
        """Which candidates (n,) have the nearest that they had, or had none: as far as is known above the block."""
        near = self.old.near[rows]
        held = np.where(near >= 0, self.stands[near.clip(0)] | (near >= rows.start), near == NOBODY)
        return self.old.known[rows] & held

    def _stop(self, start: int) -> int:
        """Where a block ends: not far beyond the first candidate that could fill the budget."""
        rows = slice(start, min(start + BLOCK, len(self._ids)))
        whole, keeps = ~self.rests(rows), self.old.similarity[rows] <= self.threshold
        possible = (whole | keeps).cumsum()
        count = min(_reaches(whole.cumsum(), WHOLE), _reaches(possible, KEEPERS))
        if self.room is not None:
            likely = (keeps & ~whole).cumsum()
            count = min(count, _reaches(likely, self.room), max(_reaches(possible, self.room), SHORTEST))
        return min(start + count, rows.stop)

    def _keep(self, block: "_Block") -> None:
        base, at = len(self.kept_at), block.start + block.kept
        if block.has(block.kept) and len(self._kept) == base:
            self._kept.extend(block.vectors(block.kept))
        self.kept_at = np.concatenate([self.kept_at, at])
        self.place[at] = base + np.arange(len(at))
        self.stands[block.start : block.start + block.end] = False
        self.stands[at] = self.old.known[at] & self.old.kept[at]
        news = np.flatnonzero(~self.stands[at])
        self.news = np.concatenate([self.news, base + news])
        self.news_vectors.extend(block.vectors(block.kept[news]))
        if block.start <= self._last_known:
            self._measure_news(base, len(news))

    def _measure_news(self, base: int, count: int) -> None:
        """Compare news and kept of a block that kept all after `base`, the last `count` news among them."""
        self.nearest_news = _longer(self.nearest_news, len(self.kept_at))
        self.nearest_standing = _longer(self.nearest_standing, len(self.news))
        if len(self.news):
            old = len(self.news) - count
            self._measure(slice(base), slice(old, None))
            self._measure(slice(base, None), slice(None))

    def _measure(self, places: slice, which: slice) -> None:
        """Compare some of the kept with some of the news."""
        kept, news = self.kept_vectors().unit[places], self.news_vectors.vectors.unit[which]
        products = kept @ news.T
        self.compared += products.size
        news_of, standing_of = self.nearest_news[places], self.nearest_standing[which]
        np.maximum(news_of, products.max(axis=1, initial=-np.inf), out=news_of)
        standing = self.stands[self.kept_at[places]][:, None]
        np.maximum(standing_of, products.max(axis=0, initial=-np.inf, where=standing), out=standing_of)

    def _write(self, block: "_Block") -> None:
        rows = slice(block.start, block.start + block.end)
        self.near[rows], self.similarity[rows] = block.place[: block.end], block.similarity[: block.end]
        self._examined += int(block.examined[: block.end].sum())
        bad = np.flatnonzero(~block.sound[: block.end])
        if len(bad):
            self._rejected_at += (block.start + bad).tolist()
            self._rejected += reject(self._ids.gather(block.start + bad).to_list(), block.vectors(bad).lengths)

    def result(self, end: int) -> Replayed:
        """Decisions of the candidates up to `end`, where the walk stopped."""
        near = pl.Series(self.near[:end])
        walked = pl.DataFrame(
            {
                "id": self._ids[:end],
                "selected": self.place[:end] != NOBODY,
                "nearest": self._ids.gather(self.kept_at).gather(near.set(near == NOBODY, None)),
                "similarity": self.similarity[:end],
            }
        )
        sound = np.ones(end, dtype=bool)
        sound[self._rejected_at] = False
        decisions = decided(walked.filter(pl.Series(sound)))
        rejected = pl.DataFrame(self._rejected, schema=REJECT_SCHEMA, orient="row")
        return Replayed(decisions, rejected, Work(len(decisions), self._examined, self.compared))


def _longer(array: np.ndarray, count: int) -> np.ndarray:
    """An array made `count` long, with -inf."""
    return np.concatenate([array, np.full(count - len(array), -np.inf, array.dtype)])


def _reaches(counts: np.ndarray, count: int) -> int:
    """How many of the increasing counts it takes to reach a count."""
    return int(np.searchsorted(counts, count)) + 1


class _Block:
    """Some candidates in order, arrays (n,) by position in the block.

    `whole`: compared with all kept, the others with the news. `near`, `old`: position in the pool, and cosine, of the
    nearest before, while it stands; `place`, `similarity`: of the nearest found here, by its place among the kept.
    """

    def __init__(self, walk: _Walk, start: int, stop: int, whole: bool = False) -> None:
        self._walk, self.start, self.end = walk, start, stop - start
        rows, old = slice(start, stop), walk.old
        self._known, self._was_kept = old.known[rows], old.kept[rows]
        self._near, self._old = old.near[rows].copy(), old.similarity[rows].copy()
        self._keeps = self._known & (self._old <= walk.threshold)
        self._whole = ~walk.rests(rows) | whole
        # Those that were kept stand until one of them falls.
        self._whole |= self._orphans(self._keeps & self._was_kept)
        self._asked = np.zeros(self.end, dtype=bool)
        self.sound = np.ones(self.end, dtype=bool)
        self.place = np.full(self.end, NOBODY)
        self.similarity = np.full(self.end, -np.inf)
        self.examined = self._known & (self._keeps != self._was_kept)
        self.kept = np.empty(0, np.int64)
        self._slot = np.full(self.end, NOBODY)
        self._read = Growing(walk.dim, room=min(self.end, KEEPERS + WHOLE))

    def has(self, rows: np.ndarray) -> bool:
        """Whether the vectors of all these have been read."""
        return bool((self._slot[rows] != NOBODY).all())

    def vectors(self, rows: np.ndarray) -> Vectors:
        """Vectors of rows, each read once."""
        new = rows[self._slot[rows] == NOBODY]
        if len(new):
            self._slot[new] = len(self._read) + np.arange(len(new))
            self._read.extend(self._walk.read(self.start + new))
        slots = self._slot[rows]
        together = len(slots) > 0 and bool((np.diff(slots) == 1).all())
        return self._read.vectors.take(slice(slots[0], slots[-1] + 1) if together else slots)

    # -- who is kept

    def choose(self) -> bool:
        """Find who is kept; False where too much falls one after the other."""
        self._compare_keepers()
        for _ in range(ATTEMPTS):
            self._compare_whole()
            self.kept = self._chosen()
            orphans = self._orphans(np.isin(np.arange(self.end), self.kept))
            if not orphans.any():
                return True
            self._whole |= orphans
        return False

    def _compare_keepers(self) -> None:
        """Compare those that stay if nothing has changed with the news above the block."""
        rows = np.flatnonzero(self._keeps & ~self._whole)
        if len(self._walk.news) and len(rows):
            news = self._walk.news_vectors.vectors
            place, similarity = self._walk.compare(self.vectors(rows), news, floor=self._old[rows])
            hit = np.flatnonzero(place != NOBODY)
            self.place[rows[hit]], self.similarity[rows[hit]] = self._walk.news[place[hit]], similarity[hit]
            self.examined[rows[hit]] = True

    def _compare_whole(self) -> None:
        """Find the nearest above the block of whoever cannot rest on what was before."""
        rows = np.flatnonzero(self._whole & ~self._asked)
        if not len(rows):
            return
        self._asked[rows] = self.examined[rows] = True
        self._near[rows], self._old[rows] = NOBODY, -np.inf
        sound = directed(self.vectors(rows))
        self.sound[rows] = sound
        rows = rows[sound]
        if len(self._walk.news):
            rows = np.setdiff1d(rows, self._settled_by_news(rows[self._known[rows]]))
        self.place[rows], self.similarity[rows] = self._walk.compare(self.vectors(rows), self._walk.kept_vectors())

    def _settled_by_news(self, rows: np.ndarray) -> np.ndarray:
        """Compare rows whose nearest has fallen with the news above the block alone; those of them that this settles.

        What is further from the nearest of the news than twice a row's own angle to it is further from the row.
        """
        walk = self._walk
        place, similarity = walk.compare(self.vectors(rows), walk.news_vectors.vectors)
        others = walk.nearest_standing[place]
        settled = (similarity > 0) & (others < 2 * similarity * similarity - 1 - margin(walk.dim))
        self.place[rows[settled]], self.similarity[rows[settled]] = walk.news[place[settled]], similarity[settled]
        return rows[settled]

    def _chosen(self) -> np.ndarray:
        free = np.flatnonzero(self.sound & (np.maximum(self._old, self.similarity) <= self._walk.threshold))
        fresh = self._whole[free] | ~self._was_kept[free]
        if not fresh.any():
            return free
        self._walk.compared += int(fresh.sum()) * len(free)
        return free[greedy(self.vectors(free), self._walk.threshold, fresh)]

    def _orphans(self, stands: np.ndarray) -> np.ndarray:
        """Who rests on one of the block that does not stand."""
        orphans = ~self._whole & (self._near >= self.start)
        orphans[orphans] = ~stands[self._near[orphans] - self.start]
        return orphans

    def end_at(self, room: int | None) -> None:
        """End with the one that fills the budget."""
        if room is not None and len(self.kept) >= room:
            self.kept = self.kept[:room]
            self.end = int(self.kept[-1]) + 1

    # -- who is nearest

    def find_nearest(self) -> None:
        """Compare all with what the block has kept above them, and the blocked with all news."""
        rows = np.arange(self.end)
        near = np.where(self._near[rows] >= 0, self._walk.place[self._near[rows]], NOBODY)
        self._take(rows, near, self._old[rows])
        if len(self.kept):
            whole = rows[self._whole[rows] & self.sound[rows]]
            self._compare_inside(whole, self.kept, self._walk.place[self.start + self.kept])
        if len(self._walk.news):
            light, keeps = ~self._whole[rows], self._keeps[rows]
            news = self.kept[~self._walk.stands[self.start + self.kept]]
            self._compare_inside(rows[light & keeps], news, self._walk.place[self.start + news])
            self._compare_blocked(rows[light & ~keeps])

    def _compare_inside(self, rows: np.ndarray, others: np.ndarray, places: np.ndarray) -> None:
        """Compare rows with others of the block above them."""
        if len(rows) and len(others):
            above = np.searchsorted(others, rows)
            found, similarity = self._walk.compare(
                self.vectors(rows), self.vectors(others), above, self.similarity[rows]
            )
            self._take_found(rows, found, similarity, places)

    def _compare_blocked(self, rows: np.ndarray) -> None:
        """Compare blocked rows with the news above them, unless the angles rule it out.

        What is further from a row's blocker than twice the row's own angle to it is further from the row.
        """
        walk = self._walk
        above = np.searchsorted(walk.kept_at[walk.news], self.start + rows)
        old = self._old[rows]
        out = (old > 0) & (walk.nearest_news[walk.place[self._near[rows]]] < 2 * old * old - 1 - margin(walk.dim))
        open_ = ~out & (above > 0)
        rows, above = rows[open_], above[open_]
        if len(rows):
            news = walk.news_vectors.vectors
            found, similarity = walk.compare(self.vectors(rows), news, above, self.similarity[rows])
            self._take_found(rows, found, similarity, walk.news)

    def _take_found(self, rows: np.ndarray, found: np.ndarray, similarity: np.ndarray, places: np.ndarray) -> None:
        hit = np.flatnonzero(found != NOBODY)
        self.examined[rows[hit]] = True
        self._take(rows[hit], places[found[hit]], similarity[hit])

    def _take(self, rows: np.ndarray, place: np.ndarray, similarity: np.ndarray) -> None:
        """Note who is nearer than what rows have, or as near and kept earlier."""
        now = self.similarity[rows]
        nearer = (similarity > now) | ((similarity == now) & (place < self.place[rows]))
        self.place[rows[nearer]], self.similarity[rows[nearer]] = place[nearer], similarity[nearer]
