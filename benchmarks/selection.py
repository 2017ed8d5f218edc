"""The walk of a selection beside one-by-one, and beside nothing but the matrix products that it takes.

    python -m benchmarks.selection [--only 0] [--rounds 3] [--stream] [--rows 1000000]

Each pool is of so many kinds of vectors that most of it is walked. One by one: a product of each vector with a
preallocated matrix of the kept. Bare products: of each block with the kept so far, and with itself. With --stream, a
LanceDB store of random vectors, written into a temporary folder, is walked in the order of scores, not of storage.
"""

import resource
import tempfile
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl

from deita_core.selection import DiversitySelector
from deita_core.selection.selector import BLOCK
from deita_core.store import Store
from deita_core.tables import vectors_table

READ = 2_048
BAR = 1.3


@dataclass(frozen=True)
class Case:
    """Select `budget` of `rows` vectors of `dim` dimensions that lie around `kinds` centres."""

    budget: int
    rows: int
    dim: int
    kinds: int


CASES = (Case(6_000, 30_000, 384, 6_060), Case(10_000, 300_000, 384, 9_990), Case(6_000, 50_000, 4_096, 6_000))


def main() -> None:
    """Print the table, or the line of --stream."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=int, default=None, help="the number of one case, from 0")
    parser.add_argument("--rounds", type=int, default=3, help="of the walk and of the products, in turns")
    parser.add_argument("--seconds", type=float, default=60, help="after which one-by-one stops")
    parser.add_argument("--stream", action="store_true", help="walk a store of vectors instead")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the store")
    options = parser.parse_args()
    if options.stream:
        stream(options.rows)
        return
    print(
        f"{'budget':>8}{'of':>9}{'dim':>7}{'walked':>9}{'kept':>8}{'walk':>10}{'one by one':>12}{'products':>10}  ratio"
    )
    for case in CASES if options.only is None else CASES[options.only : options.only + 1]:
        compare(case, options.seconds, options.rounds)


def compare(case: Case, seconds: float, rounds: int) -> None:
    """Print one line: medians of some rounds in turns; one-by-one is run once and stopped after some seconds."""
    vectors = around_centres(case)
    ids = [f"{i:07d}" for i in range(case.rows)]
    decisions = walk(ids, vectors, case.budget)
    kept = decisions["selected"].to_numpy()
    ids, vectors = ids[: len(kept)], vectors[: len(kept)]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    one, ones = timed(partial(one_by_one, unit, case.budget, seconds))
    pairs = [
        (timed(partial(walk, ids, vectors, case.budget))[0], timed(partial(products, unit, kept))[0])
        for _ in range(rounds)
    ]
    ours, bare = (float(np.median(column)) for column in zip(*pairs, strict=True))
    verdict = "" if ours <= BAR * bare else f"  above {BAR}"
    print(
        f"{case.budget:>8,}{case.rows:>9,}{case.dim:>7,}{len(kept):>9,}{kept.sum():>8,}{ours:>9.2f}s{one:>11.2f}s"
        f"{bare:>9.2f}s{ours / bare:>7.2f}{verdict}  "
        f"(one by one: {len(ones):,} rows, {int((ones != kept[: len(ones)]).sum())} decided otherwise)",
        flush=True,
    )


def around_centres(case: Case) -> np.ndarray:
    """Vectors (n, d) float32, not of length 1."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((case.kinds, case.dim), dtype=np.float32)
    vectors = centres[rng.integers(0, case.kinds, case.rows)]
    for start in range(0, case.rows, READ):
        part = vectors[start : start + READ]
        part += 0.2 * rng.standard_normal(part.shape, dtype=np.float32)
    return vectors


def walk(ids: list[str], vectors: np.ndarray, budget: int) -> pl.DataFrame:
    """Decisions of ours, vectors offered as a stage reads them."""
    selector = DiversitySelector(budget, 0.9, vectors.shape[1])
    frames = [selector.offer(ids[s : s + READ], vectors[s : s + READ]) for s in range(0, len(vectors), READ)]
    return pl.concat(frames)


def one_by_one(unit: np.ndarray, budget: int, seconds: float) -> np.ndarray:
    """Which a plain filter keeps, in float32, as far as it gets: one matrix-vector product for each row."""
    end = perf_counter() + seconds
    kept = np.empty((budget, unit.shape[1]), dtype=np.float32)
    chosen = np.zeros(len(unit), dtype=bool)
    count = 0
    for row, vector in enumerate(unit):
        if perf_counter() > end:
            return chosen[:row]
        if count < budget and not (count and (kept[:count] @ vector).max() > 0.9):
            kept[count], chosen[row], count = vector, True, count + 1
    return chosen


def products(unit: np.ndarray, chosen: np.ndarray) -> None:
    """Nothing but the matrix products of a walk that keeps these."""
    kept, count = np.empty((int(chosen.sum()), unit.shape[1]), dtype=np.float32), 0
    for start in range(0, len(unit), BLOCK):
        block = unit[start : start + BLOCK]
        block @ kept[:count].T
        block @ block.T
        new = block[chosen[start : start + BLOCK]]
        kept[count : count + len(new)] = new
        count += len(new)


def stream(rows: int, dim: int = 384) -> None:
    """Write a store of random vectors, walk it, and print seconds and memory."""
    table = vectors_table("benchmark", dim)
    order = np.random.default_rng(1).permutation(rows)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        seconds, _ = timed(partial(write, store, table, rows, dim))
        print(f"written: {rows:,} x {dim} in {seconds:.1f} s, {peak():.2f} GiB at the most", flush=True)
        seconds, decisions = timed(partial(walk_store, store, table, order, dim))
        print(
            f"walked: {len(decisions):,}, kept {decisions['kept'].sum():,} in {seconds:.1f} s, "
            f"{peak():.2f} GiB at the most"
        )


def name_of(row: int) -> str:
    """A text id."""
    return f"{row:032x}"


def write(store: Store, table: Any, rows: int, dim: int, kinds: int = 10_000, part: int = 20_000) -> None:
    """Vectors around centres, a part at a time."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((kinds, dim), dtype=np.float32)
    for start in range(0, rows, part):
        count = min(part, rows - start)
        vectors = centres[rng.integers(0, kinds, count)]
        vectors += 0.2 * rng.standard_normal(vectors.shape, dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        ids = [name_of(row) for row in range(start, start + count)]
        frame = pl.DataFrame({"text_id": ids, "n_tokens": 1, "vector": vectors})
        store.write(table, frame.cast({"n_tokens": pl.Int32, "vector": pl.Array(pl.Float32, dim)}))


def walk_store(store: Store, table: Any, order: np.ndarray, dim: int) -> pl.DataFrame:
    """Decisions of a walk through the store, with no budget that would end it."""
    selector = DiversitySelector(None, 0.9, dim)
    return pl.concat(selector.offer(ids, store.vectors(table, ids)) for ids in blocks(order))


def blocks(order: np.ndarray) -> Iterator[list[str]]:
    """Ids in the order of scores, as many as a stage reads at once."""
    for start in range(0, len(order), READ):
        yield [name_of(row) for row in order[start : start + READ].tolist()]


def peak() -> float:
    """The most memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result."""
    start = perf_counter()
    result = work()
    return perf_counter() - start, result


if __name__ == "__main__":
    main()
