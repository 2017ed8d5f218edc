"""A million rows with a static encoder: seconds of each stage, peak memory, store size; nothing new; one percent more.

    python -m benchmarks.million [--pool ../shared/data/pool_real.parquet] [--rows 1000000] [--budget 10000]

The rows are those of the pool, over and over. In each round but the first, every eighth word of a message is replaced
by the first word of another message, drawn with the round's number as the seed, so that few rows are equal.
Each run is a command of its own, as a user starts it.
"""

import json
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
import polars as pl

from benchmarks.pipeline import PeakMemory
from benchmarks.static import make_static_models

ROWS_PER_FILE = 100_000
EVERY = 8
# A seed that no round of a pool of this size has.
NEW_ROUND = 10_000


def main() -> None:
    """Print the figures."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, default=Path("../shared/data/pool_real.parquet"))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--budget", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, default=None, help="where the files go; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        models = make_static_models(folder)
        (folder / "pool").mkdir()
        for number, batch in enumerate(tiled(options.pool, options.rows)):
            batch.write_parquet(folder / "pool" / f"{number:04}.parquet")
        flags = [f"--{setting.replace('_', '-')}={value}" for setting, value in models.items()]
        flags += ["--store", f"{folder}/store", "--budget", str(options.budget), "--out", f"{folder}/out"]
        seconds = [run("select", ["select", str(folder / "pool"), *flags], folder)]
        seconds.append(run("nothing new", ["update", str(folder / "pool"), *flags], folder))
        # Another round than those that were written.
        more = perturbed(pl.read_parquet(options.pool).select("messages").head(options.rows // 100), NEW_ROUND)
        more.write_parquet(folder / "pool" / "new.parquet")
        seconds.append(run("1% more", ["update", str(folder / "pool"), *flags], folder))
        print(f"of the first run: nothing new {seconds[1] / seconds[0]:.1%}, 1% more {seconds[2] / seconds[0]:.1%}")


def tiled(pool: Path, rows: int) -> Iterator[pl.DataFrame]:
    """Batches of the pool's rows over and over, perturbed in each round but the first; `rows` in all."""
    source = pl.read_parquet(pool).select("messages")
    left, number = rows, 0
    while left:
        for part in source.iter_slices(ROWS_PER_FILE):
            batch = part.head(left)
            left -= len(batch)
            if len(batch):
                yield perturbed(batch, number) if number else batch
        number += 1


def perturbed(batch: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The rows with every EVERY-th word of each message replaced by a word of another place in the batch."""
    draw = np.random.default_rng(seed)
    contents = batch["messages"].explode().struct.field("content")
    words = np.array(contents.str.split(" ").list.first().to_list(), dtype=object)
    rows = []
    for messages in batch["messages"].to_list():
        changed = []
        for message in messages:
            parts = message["content"].split(" ")
            parts[::EVERY] = words[draw.integers(len(words), size=len(parts[::EVERY]))].tolist()
            changed.append({"role": message["role"], "content": " ".join(parts)})
        rows.append(changed)
    return pl.DataFrame({"messages": rows}, schema=batch.schema)


def run(name: str, arguments: list[str], folder: Path) -> float:
    """Run a command; prints its stages, memory and the size of the store; returns its seconds."""
    with PeakMemory() as memory:
        started = perf_counter()
        subprocess.run([sys.executable, "-m", "flows.cli", *arguments], check=True, capture_output=True)
        seconds = perf_counter() - started
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    stages = ", ".join(f"{stage} {value:.1f}" for stage, value in manifest["seconds"].items())
    size = sum(path.stat().st_size for path in (folder / "store").rglob("*") if path.is_file())
    print(f"{name}: {seconds:.0f} s ({stages}); peak {memory.peak / 2**30:.2f} GiB; store {size / 1e9:.2f} GB")
    print(f"  {manifest['counts']}", flush=True)
    return seconds


if __name__ == "__main__":
    main()
