"""The greedy scan compared with a one-by-one scan, and with the bare matrix products of a blocked scan.

    python -m benchmarks.selection [--only 0] [--rounds 3] [--seconds 60] [--processor]
    python -m benchmarks.selection --auto | --stream [--rows 1000000]

The vectors are synthetic; see `like_sentences` and `like_language_model`. One by one: a float64 product of each vector
with the matrix of the selected ones, until `--seconds` have passed. Bare: float32 products of each block with the
vectors selected so far, and with itself. Scan and bare products alternate, block by block, and the fastest round of
each block counts, so that other work on the machine affects both equally. All decisions are asserted to equal those of
a blocked float64 scan. `nearest`: the time to find the most similar sample above each selected one.

--auto finds the threshold that fills a budget. --stream scans a LanceDB store of vectors, written to a temporary
folder, in the order of scores, not of storage.
"""

import resource
import tempfile
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import polars as pl

from deita_core.selection import DiversitySelector, nearest_selected
from deita_core.selection.selector import BLOCK
from deita_core.selection.threshold import STEPS, smallest_filling
from deita_core.store import Store
from deita_core.tables import vectors_table

READ = 2_048
THRESHOLD = 0.9
Clock = Callable[[], float]


@dataclass(frozen=True)
class Case:
    """Select `budget` of `rows` vectors, rewordings of `kinds` texts, in at most `bar` of the bare products' time."""

    budget: int | None
    rows: int
    dim: int
    kinds: int
    bar: float


CASES = (
    Case(6_000, 30_000, 384, 6_050, 0.8),
    Case(10_000, 300_000, 384, 9_990, 0.6),
    Case(20_000, 300_000, 384, 10_000, 0.5),
    Case(None, 100_000, 384, 80_000, 0.5),
    Case(6_000, 50_000, 4_096, 6_000, 0.25),
)


def main() -> None:
    """Print the table, or the result of --auto or --stream."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=int, default=None, help="the number of one case, from 0")
    parser.add_argument("--rounds", type=int, default=3, help="of the scan and of the products, in turns")
    parser.add_argument("--seconds", type=float, default=60, help="after which one-by-one stops")
    parser.add_argument("--stream", action="store_true", help="scan a store of vectors instead")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the store")
    parser.add_argument("--processor", action="store_true", help="count processor seconds, on a machine that does more")
    parser.add_argument("--auto", action="store_true", help="find the threshold that fills a budget instead")
    options = parser.parse_args()
    if options.auto:
        find_threshold(process_time if options.processor else perf_counter)
        return
    if options.stream:
        stream(options.rows)
        return
    print(
        f"{'budget':>8}{'of':>9}{'dim':>7}{'scanned':>9}{'selected':>10}{'scan':>10}{'products':>10}{'ratio':>7}"
        f"{'at most':>9}{'nearest':>10}  one by one"
    )
    for case in CASES if options.only is None else CASES[options.only : options.only + 1]:
        compare(case, options.seconds, options.rounds, process_time if options.processor else perf_counter)


def compare(case: Case, seconds: float, rounds: int, clock: Clock) -> None:
    """Print one line. Raises AssertionError if a decision differs from the float64 one."""
    vectors = like_sentences(case.rows, case.dim, case.kinds) if case.dim < 1_000 else like_language_model(case)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    selected = blocked_float64(vectors, case.budget)
    vectors, unit = vectors[: len(selected)], unit[: len(selected)]
    one, ones = timed(partial(one_by_one, vectors, case.budget, seconds))
    assert (ones == selected[: len(ones)]).all(), "one by one decides otherwise"
    ours, bare, selector = in_turns(case, vectors, unit, selected, rounds, clock)
    nearest, _ = timed(partial(nearest_selected, selector.selected), clock)
    ratio = ours / bare
    print(
        f"{case.budget or '-':>8}{case.rows:>9,}{case.dim:>7,}{len(selected):>9,}{selected.sum():>10,}{ours:>9.2f}s"
        f"{bare:>9.2f}s{ratio:>7.2f}{case.bar:>9}{nearest:>9.2f}s  {one:.1f}s for {len(ones):,} rows"
        f"{'' if ratio <= case.bar else '  ABOVE'}",
        flush=True,
    )


def in_turns(
    case: Case, vectors: np.ndarray, unit: np.ndarray, selected: np.ndarray, rounds: int, clock: Clock
) -> tuple[float, float, DiversitySelector]:
    """Seconds of the scan and of the bare products: the sum over blocks of the fastest round."""
    starts = range(0, len(vectors), READ)
    ids = [f"{i:07d}" for i in range(len(vectors))]
    seconds = np.full((2, len(starts)), np.inf)
    for _ in range(rounds):
        selector = DiversitySelector(case.budget, THRESHOLD, case.dim)
        bare = Products(int(selected.sum()), case.dim)
        found = []
        for number, start in enumerate(starts):
            part = slice(start, start + READ)
            spent, frame = timed(partial(selector.add_block, ids[part], vectors[part]), clock)
            found.append(frame["selected"].to_numpy())
            others, _ = timed(partial(bare.add_block, unit[part], selected[part]), clock)
            seconds[:, number] = np.minimum(seconds[:, number], (spent, others))
        assert (np.concatenate(found) == selected).all(), "the scan decides otherwise"
    ours, others = seconds.sum(axis=1).tolist()
    return ours, others, selector


def find_threshold(clock: Clock, rows: int = 100_000, budget: int = 10_000, kinds: int = 15_000) -> None:
    """Find the threshold that fills a budget; compare with one scan at that threshold and bisection in 10 scans."""
    vectors = like_sentences(rows, 384, kinds)
    ids = [f"{i:07d}" for i in range(rows)]

    def read() -> Iterator[tuple[list[str], np.ndarray]]:
        return ((ids[start : start + READ], vectors[start : start + READ]) for start in range(0, rows, READ))

    def fills(threshold: float) -> bool:
        selector = DiversitySelector(budget, threshold, 384)
        for names, part in read():
            selector.add_block(names, part)
        return selector.full

    def bisect() -> float:
        low, high = 0, STEPS
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fills(middle / STEPS) else (middle, high)
        return high / STEPS

    ours, found = timed(partial(smallest_filling, read, budget, 384, rows), clock)
    scan, _ = timed(partial(fills, found.threshold), clock)
    print(
        f"{budget:,} of {rows:,}: threshold {found.threshold} in {ours:.1f} s, "
        f"{found.scans} scans, {found.blocks} blocks"
    )
    print(f"one scan at that threshold: {scan:.1f} s", flush=True)
    bisection, threshold = timed(bisect, clock)
    print(f"bisection: threshold {threshold} in {bisection:.1f} s, 10 scans")


class Products:
    """The bare matrix products of a scan: of each block with the vectors selected so far, and with itself."""

    def __init__(self, room: int, dim: int) -> None:
        self._selected, self._count = np.empty((room, dim), np.float32), 0

    def add_block(self, unit: np.ndarray, selected: np.ndarray) -> None:
        """Multiply, then add the selected vectors."""
        for start in range(0, len(unit), BLOCK):
            block = unit[start : start + BLOCK]
            block @ self._selected[: self._count].T
            block @ block.T
            new = block[selected[start : start + BLOCK]]
            self._selected[self._count : self._count + len(new)] = new
            self._count += len(new)


def one_by_one(vectors: np.ndarray, budget: int | None, seconds: float) -> np.ndarray:
    """A mask of the rows a plain float64 scan selects until the time is over; one matrix-vector product per row."""
    end = perf_counter() + seconds
    kept = np.empty((budget or len(vectors), vectors.shape[1]))
    chosen = np.zeros(len(vectors), dtype=bool)
    size = 0
    for row, vector in enumerate(vectors):
        if perf_counter() > end:
            return chosen[:row]
        wide = vector.astype(np.float64)
        wide /= np.linalg.norm(wide)
        if size < len(kept) and not (size and (kept[:size] @ wide).max() > THRESHOLD):
            kept[size], chosen[row], size = wide, True, size + 1
    return chosen


def blocked_float64(vectors: np.ndarray, budget: int | None, step: int = 256) -> np.ndarray:
    """A mask (n,) of the rows a float64 scan selects, up to the one that fills the budget; full products of blocks."""
    kept, size = np.empty((budget or len(vectors), vectors.shape[1])), 0
    chosen = np.zeros(len(vectors), dtype=bool)
    for start in range(0, len(vectors), step):
        block = vectors[start : start + step].astype(np.float64)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        free = np.ones(len(block), dtype=bool)
        for tile in range(0, size, READ):
            free &= (block @ kept[tile : min(tile + READ, size)].T).max(axis=1) <= THRESHOLD
        close = block @ block.T > THRESHOLD
        for row in np.flatnonzero(free):
            if not (close[row, :row] & chosen[start : start + row]).any():
                kept[size], chosen[start + row], size = block[row], True, size + 1
                if size == budget:
                    return chosen[: start + row + 1]
    return chosen


def like_sentences(rows: int, dim: int, kinds: int, seed: int = 0) -> np.ndarray:
    """Vectors (n, d) float32, not normalized, distributed like a sentence encoder's: rewordings of `kinds` texts.

    Modelled on 5,143 real MiniLM vectors without near-duplicates. Their spectrum: the first principal direction has
    0.11 of the squared length, the next 0.056, the 40th 0.005, the first 96 have 0.72 together (here 0.10, 0.03, 0.005
    and 0.74). Similarity to the nearest at 5%, 50%, 95%: 0.39, 0.62, 0.88 (here 0.40, 0.68, 0.88). Texts of each of
    500 topics share part of their vector. A mean is added, and each rewording adds noise of 0.2.
    """
    rng = np.random.default_rng(seed)
    k = np.arange(dim)
    scale = np.sqrt((k + 2) ** -0.65 * np.exp(-k / 300)).astype(np.float32)
    return _reworded(rng, rows, kinds, scale, topics=500, mean=0.27, noise=0.2)


def like_language_model(case: Case, seed: int = 0) -> np.ndarray:
    """Vectors (n, d) float32, not normalized, distributed like a language model's: a steep spectrum, a large mean.

    The variance of direction k falls as 1 / k, and the mean has a third of the squared length. Last-token vectors of
    1,500 real conversations by SmolLM2-135M (576 dimensions) fall as k ** -1.1 over directions 3 to 200, and their mean
    has half of the squared length; vectors pooled over tokens fall as k ** -1.4. So the real ones are steeper.
    """
    rng = np.random.default_rng(seed)
    scale = np.sqrt(1 / np.arange(1, case.dim + 1)).astype(np.float32)
    return _reworded(rng, case.rows, case.kinds, scale, topics=500, mean=0.7, noise=0.2)


def _reworded(
    rng: np.random.Generator, rows: int, kinds: int, scale: np.ndarray, topics: int, mean: float, noise: float
) -> np.ndarray:
    """Random rewordings of texts on topics of decreasing size; each text shares a random part with its topic."""
    dim, scale = len(scale), scale / np.linalg.norm(scale)
    shared = rng.standard_normal((topics, dim), dtype=np.float32) * scale
    topic = (topics * rng.random(kinds) ** 1.5).astype(int)
    share = rng.beta(2, 2, (kinds, 1)).astype(np.float32)
    texts = rng.standard_normal((kinds, dim), dtype=np.float32) * scale
    texts *= np.sqrt(1 - share)
    texts += np.sqrt(share) * shared[topic]
    texts[:, 0] += mean
    vectors = texts[rng.integers(0, kinds, rows)]
    for start in range(0, rows, READ):
        part = vectors[start : start + READ]
        part += noise * scale * rng.standard_normal(part.shape, dtype=np.float32)
    # A reflection, so that no coordinate is a principal direction.
    mirror = rng.standard_normal(dim, dtype=np.float32)
    mirror /= np.linalg.norm(mirror)
    vectors -= 2 * (vectors @ mirror)[:, None] * mirror
    return vectors


def stream(rows: int, dim: int = 384) -> None:
    """Write a store of random vectors, scan it, and print seconds and memory."""
    table = vectors_table("benchmark", dim)
    order = np.random.default_rng(1).permutation(rows)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        seconds, _ = timed(partial(write, store, table, rows, dim))
        print(f"written: {rows:,} x {dim} in {seconds:.1f} s, {peak():.2f} GiB at the most", flush=True)
        seconds, decisions = timed(partial(scan_store, store, table, order, dim))
        print(
            f"scanned: {len(decisions):,}, selected {decisions['selected'].sum():,} in {seconds:.1f} s, "
            f"{peak():.2f} GiB at the most"
        )


def name_of(row: int) -> str:
    """A text id."""
    return f"{row:032x}"


def write(store: Store, table: Any, rows: int, dim: int, kinds: int = 10_000, part: int = 20_000) -> None:
    """Write vectors of `like_sentences` in parts."""
    for start in range(0, rows, part):
        vectors = like_sentences(min(part, rows - start), dim, kinds, seed=start)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        ids = [name_of(row) for row in range(start, start + len(vectors))]
        frame = pl.DataFrame({"text_id": ids, "n_tokens": 1, "vector": vectors})
        store.write(table, frame.cast({"n_tokens": pl.Int32, "vector": pl.Array(pl.Float32, dim)}))


def scan_store(store: Store, table: Any, order: np.ndarray, dim: int) -> pl.DataFrame:
    """Decisions of a scan of the store without a budget."""
    selector = DiversitySelector(None, 0.9, dim)
    return pl.concat(selector.add_block(ids, store.vectors(table, ids)) for ids in blocks(order))


def blocks(order: np.ndarray) -> Iterator[list[str]]:
    """Ids in the order of scores, in blocks of the size that a stage reads."""
    for start in range(0, len(order), READ):
        yield [name_of(row) for row in order[start : start + READ].tolist()]


def peak() -> float:
    """The peak memory of this process, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def timed(work: Callable[[], Any], clock: Clock = perf_counter) -> tuple[float, Any]:
    """Seconds and result."""
    start = clock()
    result = work()
    return clock() - start, result


if __name__ == "__main__":
    main()
