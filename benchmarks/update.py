"""What an update of a pool costs beside selecting again from scratch: seconds, their ratio, and the work done.

    python -m benchmarks.update [--rows 50000] [--added 0.01] [--dim 384] [--budget 6000]

Vectors are given, in memory. From scratch: ranking, and a walk past all vectors. Update: ranking, and a
replay of the old decisions. Both are run in turns, the median of their seconds is printed, and the decisions are equal.
"""

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl

from deita_core.selection import DiversitySelector, rank_candidates
from deita_core.selection.replay import Replayed, replay

THRESHOLD = 0.9
ROUNDS = 3
READ = 2_048
BAR = 0.03


@dataclass(frozen=True)
class Pool:
    """Vectors (n, d), the row of each id, and the candidates: id, score, row."""

    vectors: np.ndarray
    scored: pl.DataFrame
    row_of: dict[str, int]


def main() -> None:
    """Print the table."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--added", type=float, default=0.01, help="share of the rows that change")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--budget", type=int, default=6_000)
    options = parser.parse_args()
    rows, dim, budget = options.rows, options.dim, options.budget
    print(f"{'pool':<34}{'change':<12}{'walked':>8}{'kept':>8}{'scratch':>10}{'update':>10}{'ratio':>8}", end="")
    print(f"{'examined':>10}{'pairs':>14}{'of':>16}")
    for name, pool, limit in (
        ("passes over most, all walked", spread(rows, dim, kinds=budget), rows),
        ("keeps nearly all, budget early", spread(rows, dim, kinds=10 * rows), budget),
        ("passes over most, budget early", spread(rows, dim, kinds=budget), budget // 2),
        ("few clusters, all walked", spread(rows, dim, kinds=budget // 20, noise=0.32), rows),
    ):
        for change in ("added", "removed", "re-scored"):
            compare(name, change, changed(pool, change, options.added), limit, dim)


def spread(rows: int, dim: int, kinds: int, noise: float = 0.2) -> Pool:
    """Vectors around `kinds` random centres, 5% more than `rows`, with random scores."""
    rng = np.random.default_rng(0)
    count = rows + rows // 20
    centres = rng.standard_normal((min(kinds, count), dim), dtype=np.float32)
    of = rng.permutation(count) if kinds > count else rng.integers(0, kinds, count)
    vectors = centres[of]
    vectors += noise * rng.standard_normal(vectors.shape, dtype=np.float32)
    ids = [rng.bytes(16).hex() for _ in range(count)]
    scores = rng.uniform(1, 36, count)
    row_of = {id_: row for row, id_ in enumerate(ids)}
    return Pool(vectors, pl.DataFrame({"id": ids, "score": scores, "row": np.arange(count)}), row_of)


def changed(pool: Pool, change: str, share: float) -> tuple[Pool, pl.DataFrame, pl.DataFrame]:
    """The pool, and its candidates before and after a change of a share of them, chosen at random."""
    whole = pool.scored.head(len(pool.scored) * 20 // 21)
    count = max(1, int(len(whole) * share))
    if change == "added":
        return pool, whole, pl.concat([whole, pool.scored.tail(-len(whole)).head(count)])
    touched = pl.Series(np.random.default_rng(1).permutation(len(whole)) < count)
    if change == "removed":
        return pool, whole, whole.filter(~touched)
    scores = pl.Series(np.random.default_rng(2).uniform(1, 36, len(whole)))
    return pool, whole, whole.with_columns(score=pl.when(touched).then(scores).otherwise("score"))


def compare(name: str, change: str, pools: tuple[Pool, pl.DataFrame, pl.DataFrame], budget: int, dim: int) -> None:
    """Print one line: from scratch and update in turns, the same decisions asserted."""
    pool, before, after = pools
    old, _ = from_scratch(pool, before, budget, dim)
    old = old.select("id", "selected", "nearest", "similarity")
    pairs = [
        (timed(partial(from_scratch, pool, after, budget, dim)), timed(partial(update, pool, old, after, budget, dim)))
        for _ in range(ROUNDS)
    ]
    (_, (expected, compared)), (_, found) = pairs[0]
    assert found.decisions.equals(expected), f"{name}, {change}: the decisions differ"
    plain, ours = (float(np.median([pair[side][0] for pair in pairs])) for side in (0, 1))
    verdict = "" if ours <= BAR * plain else f"  above {BAR:.0%}"
    print(
        f"{name:<34}{change:<12}{found.work.walked:>8,}{expected['kept'].sum():>8,}{plain:>9.3f}s{ours:>9.3f}s"
        f"{ours / plain:>8.1%}{found.work.examined:>10,}{found.work.compared:>14,}{compared:>16,}{verdict}",
        flush=True,
    )


def from_scratch(pool: Pool, scored: pl.DataFrame, budget: int, dim: int) -> tuple[pl.DataFrame, int]:
    """Decisions of a walk past all, and how many pairs it compares: each walked one with all kept above it."""
    candidates = rank_candidates(scored).candidates
    ids, rows = candidates["id"], candidates["row"].to_numpy()
    selector = DiversitySelector(budget, THRESHOLD, dim)
    frames = []
    for start in range(0, len(ids), READ):
        part = slice(start, start + READ)
        frames.append(selector.offer(ids[part].to_list(), pool.vectors[rows[part]]))
        if selector.full:
            break
    decisions = pl.concat(frames)
    return decisions, int((decisions["selected"].cum_sum() - decisions["selected"].cast(pl.Int64)).sum())


def update(pool: Pool, old: pl.DataFrame, scored: pl.DataFrame, budget: int, dim: int) -> Replayed:
    """What an update does from the old decisions on."""
    candidates = rank_candidates(scored).candidates

    def vectors_of(ids: Sequence[str]) -> np.ndarray:
        return pool.vectors[[pool.row_of[id_] for id_ in ids]]

    return replay(candidates["id"], old, vectors_of, budget=budget, threshold=THRESHOLD, dim=dim)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result."""
    start = perf_counter()
    result = work()
    return perf_counter() - start, result


if __name__ == "__main__":
    main()
