"""The preset fast beside the preset laptop, on a pool with planted duplicates, defects and answers of known quality.

    python -m benchmarks.fast [--rows 20000] [--budget 2000] [--data ../shared/data] [--folder DIR]

First use: seconds to make the encoder and both heads, in an empty cache. Encoding, scoring and selecting: seconds after
that, one shard after the other in one process.

Near-duplicates: the similarity of two conversations is the cosine of their vectors, which are the means of their
messages' weighted by characters. Rows of other prompts are unrelated. The threshold that blocks 2% of unrelated rows is
the 98% quantile of the largest similarity of a row to such a row of another prompt, over the rows that hold no other
row's answer by construction (planted duplicates and answers to another question do). Recall is the share of planted
near-duplicates whose similarity to the row they were made from is above the threshold.

Overlap is that of two selections with the same budget, each at its preset's threshold. Nothing is fitted on this data.
With --folder, stores and cache are kept there, and a second run only computes what is new. `python -m benchmarks.truth
--quality-scorer laptop --quality-scorer fast` compares the scores of both.
"""

import os
import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import polars as pl

from deita_core.config.settings import SelectionSettings
from deita_core.conversation import text_id
from deita_core.literals import AXES, PresetName
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.models.static_encoder import TextEncoder, load_text_encoder
from deita_core.scorers import ScorerFiles, find_scorer, load_found
from deita_core.stages.encoding import encode_shard, encoder_table, find_pool_encoder, plan_encoding
from deita_core.stages.ingest import describe_file, ingest_file
from deita_core.stages.job import Job
from deita_core.stages.scoring import plan_scoring, score_shard
from deita_core.stages.selecting import decisions_of, select
from deita_core.store import Store

PRESETS: tuple[PresetName, PresetName] = ("laptop", "fast")
DUPLICATES = ("near_dup", "exact_dup")
# Rows that hold the answer of another row.
COPIES = (*DUPLICATES, "wrong_pair")
BLOCKED = (0.02, 0.05)
BLOCK = 2_048
POOL, TRUTH = "planted_pool.parquet", "planted_truth.parquet"


@dataclass(frozen=True)
class Result:
    """What was measured with a preset; `selected` are the ids of planted rows."""

    seconds: dict[str, float]
    near: dict[str, float]
    edits: pl.DataFrame
    selected: set[str]


class Vectors:
    """Vectors of texts: those of a store, and others, which are encoded once."""

    def __init__(self, store: Store, encoder: TextEncoder) -> None:
        table = encoder_table(encoder.files)
        stored = store.read(table, ["text_id"])["text_id"]
        self._rows = {id_: row for row, id_ in enumerate(stored)}
        self._vectors, self._encoder = store.vectors(table, stored.to_list()), encoder

    def of(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (n, d) float32, in order."""
        ids = [text_id(text) for text in texts]
        new = {id_: text for id_, text in zip(ids, texts, strict=True) if id_ not in self._rows}
        if new:
            self._rows.update(zip(new, range(len(self._rows), len(self._rows) + len(new)), strict=True))
            self._vectors = np.concatenate([self._vectors, self._encoder.encode(list(new.values())).vectors])
        return self._vectors[[self._rows[id_] for id_ in ids]]


def main() -> None:
    """Print the tables."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rows", type=int, default=20_000, help="of the planted pool, in whole groups of duplicates")
    parser.add_argument("--budget", type=int, default=2_000, help="of both selections")
    parser.add_argument("--folder", type=Path, default=None, help="keeps stores and cache; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() if options.folder is None else nullcontext(options.folder) as name:
        folder = Path(name).resolve()
        os.environ["DEITA_CACHE"] = str(folder / "cache")
        pool = take_groups(options.data, folder, options.rows)
        results = {preset: measure(preset, pool, folder, options.budget) for preset in reversed(PRESETS)}
    print_results(results)


def take_groups(data: Path, folder: Path, rows: int) -> pl.DataFrame:
    """Write about so many rows of the planted pool, in whole groups of duplicates; returns them with their truth."""
    folder.mkdir(parents=True, exist_ok=True)
    pool, truth = (pl.read_parquet(data / name) for name in (POOL, TRUTH))
    pool = pool.join(truth, on="id", maintain_order="left")
    groups = pool["group"].unique(maintain_order=True)
    sizes = pool.group_by("group", maintain_order=True).len()["len"].cum_sum()
    pool = pool.filter(pl.col("group").is_in(groups.filter(sizes <= rows).implode()))
    pool.select("id", "messages").write_parquet(folder / POOL)
    return pool


def measure(preset: PresetName, pool: pl.DataFrame, folder: Path, budget: int) -> Result:
    """Run a preset's stages and measure its vectors."""
    settings = SelectionSettings(preset=preset, budget=budget)
    store, seconds = Store(folder / preset), {}
    started = perf_counter()
    encoder = find_pool_encoder(settings)
    scorers = [find_scorer(name, axis, encoder) for axis in AXES for name in settings.scorers(axis)]
    heads = [load_found(scorer, encoder) for scorer in scorers]
    seconds["first use"] = perf_counter() - started
    file_id = ingest_file(store, describe_file(str(folder / POOL))).file_id
    model = load_text_encoder(encoder)
    model.encode(["to load everything"])
    started = perf_counter()
    for shard in plan_encoding(store, encoder, [file_id]):
        encode_shard(store, model, shard)
    seconds["encoding"] = perf_counter() - started
    for scorer, head in zip(scorers, heads, strict=True):
        started = perf_counter()
        for shard in plan_scoring(store, [scorer], [file_id]):
            score_shard(store, [(head, scorer)], encoder, shard)
        seconds[f"scoring {scorer.axis}"] = perf_counter() - started
    started = perf_counter()
    selected = selected_ids(store, encoder, scorers, settings, file_id)
    seconds["selecting"] = perf_counter() - started
    vectors = Vectors(store, model)
    assert isinstance(settings.threshold, float), "presets have a fixed threshold"
    near, edits = near_duplicates(pool, vectors, settings.threshold)
    print(f"{preset}: measured", flush=True)
    return Result(seconds, near, edits, selected)


def selected_ids(
    store: Store, encoder: EncoderFiles, scorers: Sequence[ScorerFiles], settings: SelectionSettings, file_id: str
) -> set[str]:
    """Select, and return the ids of the conversations selected."""
    complexity, quality = scorers
    job = Job(
        run_id="benchmark", file_ids=(file_id,), encoder=encoder, complexity=complexity, quality=quality,
        settings=settings,
    )  # fmt: skip
    select(store, job)
    decisions = decisions_of(store, job)
    return set(decisions.filter(pl.col("fate") == "selected")["id"])


def near_duplicates(pool: pl.DataFrame, vectors: Vectors, threshold: float) -> tuple[dict[str, float], pl.DataFrame]:
    """Thresholds and recalls by share of unrelated rows blocked, both at `threshold`, and the recall of each edit."""
    pool = pool.filter(pl.col("kind") != "empty")
    table = conversations(pool["messages"].to_list(), vectors)
    copies = pool["kind"].is_in(COPIES).to_numpy()
    prompts = pool["prompt_group"].rank("dense").to_numpy()
    own = nearest_elsewhere(table[~copies], prompts[~copies])
    rows = pool.with_row_index("row")
    originals = rows.filter(~pl.col("kind").is_in(DUPLICATES)).select("group", original="row")
    pairs = rows.filter(pl.col("kind") == "near_dup").join(originals, on="group").unique("row", maintain_order=True)
    like = (table[pairs["row"].to_numpy()] * table[pairs["original"].to_numpy()]).sum(axis=1)
    near: dict[str, float] = {"near-duplicates with their original": float(len(pairs))}
    for share in BLOCKED:
        near[f"threshold that blocks {share:.0%}"] = bar = float(np.quantile(own, 1 - share))
        near[f"recall where {share:.0%} are blocked"] = float((like > bar).mean())
    near["unrelated rows blocked at the preset's threshold"] = float((own > threshold).mean())
    near["recall at the preset's threshold"] = float((like > threshold).mean())
    edits = pairs.with_columns(found=like > bar).group_by("edit").agg(pl.col("found").mean()).sort("edit")
    return near, edits


def conversations(messages: Sequence[Sequence[dict[str, str]]], vectors: Vectors) -> np.ndarray:
    """Unit vectors (n, d) of conversations: means of their messages' weighted by characters."""
    texts = [[m["content"] for m in conversation if m["content"].strip()] for conversation in messages]
    flat = vectors.of([text for conversation in texts for text in conversation]).astype(np.float64)
    flat *= np.array([len(text) for conversation in texts for text in conversation])[:, None]
    means = np.add.reduceat(flat, np.cumsum([0, *map(len, texts)])[:-1])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def nearest_elsewhere(table: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """Each row's largest cosine with a row of another prompt."""
    found = np.empty(len(table))
    for start in range(0, len(table), BLOCK):
        part = slice(start, start + BLOCK)
        cosines = table[part] @ table.T
        cosines[prompts[part, None] == prompts[None, :]] = -1
        found[part] = cosines.max(axis=1)
    return found


def print_results(results: dict[PresetName, Result]) -> None:
    """Print both presets side by side."""
    laptop, fast = (results[preset] for preset in PRESETS)
    print(f"{'seconds':<62}{'laptop':>10}{'fast':>10}{'ratio':>8}")
    for name, ours in laptop.seconds.items():
        print(f"{name:<62}{ours:>10.1f}{fast.seconds[name]:>10.1f}{ours / fast.seconds[name]:>8.1f}")
    print(f"\n{'near-duplicates':<62}{'laptop':>10}{'fast':>10}")
    for name, value in laptop.near.items():
        print(f"{name:<62}{value:>10.3f}{fast.near[name]:>10.3f}")
    for edit, found in laptop.edits.iter_rows():
        other = fast.edits.filter(pl.col("edit") == edit)["found"].item()
        print(f"{f'  recall of {edit}, where {BLOCKED[-1]:.0%} are blocked':<62}{found:>10.3f}{other:>10.3f}")
    both = len(laptop.selected & fast.selected)
    print(f"\nselected by laptop {len(laptop.selected):,}, by fast {len(fast.selected):,}, by both {both:,}")
    print(f"Jaccard index of the two selections {both / len(laptop.selected | fast.selected):.3f}")


if __name__ == "__main__":
    main()
