"""The cost of a selection: rows/s of each stage, the flow's overhead around encoding, memory, and a second run.

    python -m benchmarks.pipeline [--pool FILE] [--rows 20000] [--budget 2000]
    python -m benchmarks.pipeline --encoder STATIC --pool ../shared/data/pool_real.parquet --rows 110000 [--before]

For comparison, in the same run: the texts/s of plain SentenceTransformer.encode with its defaults; with STATIC, an
encoder made of the laptop encoder's word embeddings, the bare work on the same texts (benchmarks/static.py). --before
leaves the bare work out, for a comparison with another version of this program.
"""

import os
import subprocess
import sys
import tempfile
import threading
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, sleep

import psutil

from flows.cli.main import prepare_environment

prepare_environment(verbose=False)

from benchmarks.static import bare_work, make_static_models  # noqa: E402
from deita_core.config.settings import SelectionSettings  # noqa: E402
from deita_core.models.encoder_spec import find_encoder  # noqa: E402
from deita_core.models.sentence_encoder import SentenceEncoder  # noqa: E402
from deita_core.reading.pool import read_pool  # noqa: E402
from flows.selection import select  # noqa: E402

PLAIN_TEXTS = 600
ROUNDS = 3
THRESHOLD = 0.9
BARE = """
from flows.cli.main import prepare_environment
prepare_environment(verbose=False)
from prefect import flow
flow(lambda: None, name="bare")()
"""


def main() -> None:
    """Print the figures."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, default=Path("../shared/data/planted_pool.parquet"))
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--budget", type=int, default=2_000)
    parser.add_argument("--encoder", choices=["laptop", "STATIC"], default="laptop")
    parser.add_argument("--before", action="store_true")
    options = parser.parse_args()
    pool = options.pool if options.pool.exists() else Path("examples/pool")
    if options.encoder == "STATIC":
        run_static(pool, options.rows, options.budget, not options.before)
        return
    compare_encoding(pool, options.rows)
    with tempfile.TemporaryDirectory() as folder:
        settings = SelectionSettings(store=f"{folder}/store", budget=options.budget, limit=options.rows)
        run_pipeline(pool, Path(folder) / "out", settings)
        compare_second_run(pool, folder, settings)


def run_static(pool: Path, rows: int, budget: int, bare: bool) -> None:
    """A run with a static encoder, beside the bare work and a flow without a task."""
    with tempfile.TemporaryDirectory() as folder:
        models = make_static_models(Path(folder))
        settings = SelectionSettings(store=f"{folder}/store", budget=budget, limit=rows, threshold=THRESHOLD, **models)
        if bare:
            steps = list(bare_work(pool, rows, Path(models["encoder"]), budget, THRESHOLD))
            for name, seconds in steps:
                print(f"bare: {name:<30}{seconds:>8.2f} s")
        with PeakMemory() as memory:
            started = perf_counter()
            report = select([str(pool)], str(Path(folder) / "out"), settings)
            wall = perf_counter() - started
        for stage, seconds in report.seconds.items():
            print(f"{stage:<36}{seconds:>8.2f} s")
        size = sum(path.stat().st_size for path in Path(settings.store).rglob("*") if path.is_file())
        counts, stages = report.counts, sum(report.seconds.values())
        print(f"whole run {wall:.1f} s, its stages {stages:.1f} s; {wall / counts.read * 1e3:.3f} ms a row")
        print(f"peak memory {memory.peak / 2**30:.2f} GiB, store {size / 1e6:,.0f} MB; {counts.model_dump()}")
        if bare:
            alone = sum(seconds for _, seconds in steps)
            print(f"bare work {alone:.1f} s; whole run / bare work {wall / alone:.2f}")


def compare_second_run(pool: Path, folder: str, settings: SelectionSettings) -> None:
    """Time alternately `deita select` with nothing new, and an empty flow, as whole commands."""
    flags = ["--store", settings.store, "--budget", str(settings.budget), "--limit", str(settings.limit)]
    again = [sys.executable, "-m", "flows.cli", "select", str(pool), "--out", f"{folder}/again", *flags]
    bare = [sys.executable, "-c", BARE]
    pairs = [(timed(lambda: command(again)), timed(lambda: command(bare))) for _ in range(ROUNDS)]
    seconds, alone = (sorted(column)[ROUNDS // 2] for column in zip(*pairs, strict=True))
    print(f"second run, nothing new: {seconds:.1f} s as a command; a bare flow: {alone:.1f} s")


def command(line: list[str]) -> None:
    """Run a command to its end."""
    subprocess.run(line, check=True, capture_output=True)


def compare_encoding(pool: Path, rows: int) -> None:
    """Texts/s of our encoder and the plain one, alternately, on the same texts; ours reads long texts in full."""
    from sentence_transformers import SentenceTransformer

    samples, _ = read_pool([str(pool)], limit=rows)
    messages = samples.sample(min(PLAIN_TEXTS, len(samples)), seed=0)["messages"].explode().struct.field("content")
    texts = [text for text in messages.unique(maintain_order=True).to_list() if text.strip()][:PLAIN_TEXTS]
    files = find_encoder()
    ours, plain = SentenceEncoder(files), SentenceTransformer(str(files.path))
    for model in (ours, plain):
        model.encode(texts[:32])
    pairs = [(timed(lambda: ours.encode(texts)), timed(lambda: plain.encode(texts))) for _ in range(ROUNDS)]
    best, ratios = min(pairs), sorted(b / a for a, b in pairs)
    print(f"encoding {len(texts)} texts in {files.precision}: {len(texts) / best[0]:.0f} texts/s; "
          f"plain {len(texts) / best[1]:.0f}; ratio, median of {ROUNDS}: {ratios[ROUNDS // 2]:.2f}")  # fmt: skip


def run_pipeline(pool: Path, out: Path, settings: SelectionSettings) -> None:
    """One run on an empty store: seconds of each stage, overhead around encoding, peak memory of all processes."""
    spent = 0.0
    encode = SentenceEncoder._encode

    def timed_encode(self: SentenceEncoder, texts: list[str]) -> object:
        nonlocal spent
        started = perf_counter()
        encoded = encode(self, texts)
        spent += perf_counter() - started
        return encoded

    SentenceEncoder._encode = timed_encode  # type: ignore[assignment,method-assign]
    try:
        with PeakMemory() as memory:
            started = perf_counter()
            report = select([str(pool)], str(out), settings)
            wall = perf_counter() - started
    finally:
        SentenceEncoder._encode = encode  # type: ignore[method-assign]
    counts = report.counts
    work = {"reading": counts.read, "encoding": counts.encoded,
            "scoring complexity and quality": report.chosen.samples, "selecting": report.chosen.samples,
            "writing": counts.selected}  # fmt: skip
    for stage, seconds in report.seconds.items():
        print(f"{stage:<20}{seconds:>8.1f} s {work[stage] / max(seconds, 1e-9):>10,.0f} rows/s")
    scoring = sum(seconds for stage, seconds in report.seconds.items() if stage.startswith("scoring"))
    print(f"whole run {wall:.1f} s; inside the encoder {spent:.1f} s, scoring {scoring:.1f} s")
    print(
        f"overhead around encoding: flow, store, validation, reading, selecting and writing "
        f"{(wall - spent - scoring) / spent:.1%}, with scoring {(wall - spent) / spent:.1%}"
    )
    print(f"peak memory {memory.peak / 2**30:.2f} GiB over all processes; {counts.model_dump()}")
    assert counts.read == counts.selected + counts.skipped + counts.rejected + counts.merged


class PeakMemory:
    """The peak memory of this process and its children together, sampled ten times a second."""

    def __init__(self) -> None:
        self.peak = 0
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()

    def _look(self) -> None:
        me = psutil.Process(os.getpid())
        while not self._over.is_set():
            held = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    held += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak = max(self.peak, held)
            sleep(0.1)


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = perf_counter()
    work()
    return perf_counter() - started


if __name__ == "__main__":
    main()
