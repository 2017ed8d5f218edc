"""Do the scorers agree with judges and with known defects? Each figure is shown beside that of text length alone.

    python -m benchmarks.truth [--data ../shared/data] [--rows 3000]

Nothing is fitted on this data: it measures the scorers as they are.
"""

from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from deita_core.scorers import Scorer, load_scorer


@dataclass(frozen=True)
class Figure:
    """One line of the table: name, rows, the figures of the scorer and of text length, and the target, if any."""

    name: str
    rows: int
    scorer: float
    length: float
    bar: float | None = None


def main() -> None:
    """Print the table."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rows", type=int, default=None, help="at most so many rows of each kind")
    parser.add_argument("--complexity-scorer", default="laptop")
    parser.add_argument("--quality-scorer", default="laptop")
    options = parser.parse_args()
    quality = load_scorer(options.quality_scorer, "quality")
    complexity = load_scorer(options.complexity_scorer, "complexity")
    print(f"{'figure':<58}{'rows':>7}{'scorer':>9}{'length':>9}{'bar':>7}")
    for figures in (
        pair_figures(quality, options.data, options.rows),
        planted_figures(quality, options.data, options.rows),
        difficulty_figures(complexity, options.data, options.rows),
    ):
        for f in figures:
            bar = "" if f.bar is None else f"{f.bar:.2f}"
            print(f"{f.name:<58}{f.rows:>7,}{f.scorer:>9.3f}{f.length:>9.3f}{bar:>7}", flush=True)


def pair_figures(scorer: Scorer, data: Path, rows: int | None) -> Iterator[Figure]:
    """Pairs of answers to one instruction: how often the better answer scores higher."""
    pairs = pl.read_parquet(data / "quality_pairs_dev.parquet")
    pairs = pairs.filter((pl.col("judge") == "derived_v2") & pl.col("length_matched"))
    yield pair_accuracy(scorer, head(pairs, rows), "pref_b", 0.5, "length-matched pairs, GPT-4 judge: accuracy", 0.62)
    extra = pl.read_parquet(data / "pairs_extra_dev.parquet").filter(pl.col("length_matched"))
    yield pair_accuracy(scorer, head(extra, rows), "label", 0.5, "length-matched pairs, human-checked: accuracy", None)


def pair_accuracy(
    scorer: Scorer, pairs: pl.DataFrame, column: str, middle: float, name: str, bar: float | None
) -> Figure:
    """Share of pairs in which the preferred answer scores higher."""
    # A null and the middle express no preference.
    pairs = pairs.filter(pl.col(column) != middle)
    a, b = (score(scorer, pairs["instruction"], pairs[f"response_{side}"]) for side in "ab")
    b_better = (pairs[column] > middle).to_numpy()
    longer = (pairs["response_b"].str.len_chars() > pairs["response_a"].str.len_chars()).to_numpy()
    return Figure(name, len(pairs), hits((b > a) == b_better), hits(longer == b_better), bar)


def planted_figures(scorer: Scorer, data: Path, rows: int | None) -> Iterator[Figure]:
    """AUC of strong models' answers against weak, mid and defective ones, in a pool with planted answers."""
    pool = pl.read_parquet(data / "planted_pool.parquet").join(pl.read_parquet(data / "planted_truth.parquet"), on="id")
    first, last = pl.col("messages").list.first(), pl.col("messages").list.last()
    pool = pool.select("kind", instruction=first.struct.field("content"), response=last.struct.field("content")).filter(
        pl.col("response").str.strip_chars() != ""
    )
    bars = {"weak": 0.78, "wrong_pair": 0.75}
    kinds = {kind: head(pool.filter(pl.col("kind") == kind), rows) for kind in ("strong", "mid", "truncated", *bars)}
    scores = {kind: score(scorer, rows["instruction"], rows["response"]) for kind, rows in kinds.items()}
    lengths = {kind: rows["response"].str.len_chars().to_numpy().astype(float) for kind, rows in kinds.items()}
    for kind in ("weak", "wrong_pair", "truncated", "mid"):
        n = len(kinds["strong"]) + len(kinds[kind])
        found, alone = auc(scores["strong"], scores[kind]), auc(lengths["strong"], lengths[kind])
        yield Figure(f"planted pool, strong above {kind}: AUC", n, found, alone, bars.get(kind))


def difficulty_figures(scorer: Scorer, data: Path, rows: int | None) -> Iterator[Figure]:
    """Agreement with levels of difficulty of instructions: within each chain, or over the whole source."""
    table = pl.read_parquet(data / "difficulty_dev.parquet")
    tiers = table.filter(pl.col("label") == "coarse_tier")
    for (source,), part in table.filter(pl.col("label") != "coarse_tier").group_by("source", maintain_order=True):
        part = head(part, rows)
        scores = score(scorer, part["instruction"])
        lengths = part["instruction"].str.len_chars().to_numpy().astype(float)
        within = part["group"].n_unique() > 1
        measure = order_within if within else order_over
        name = f"{source}, {part['label'][0]}: {'order within a chain' if within else 'rank correlation'}"
        levels, groups = part["level"].to_numpy(), part["group"].to_list()
        yield Figure(name, len(part), measure(scores, levels, groups), measure(lengths, levels, groups))
    easy, hard = (head(tiers.filter(pl.col("level") == level), rows) for level in (0, 2))
    found = auc(score(scorer, hard["instruction"]), score(scorer, easy["instruction"]))
    alone = auc(*(part["instruction"].str.len_chars().to_numpy().astype(float) for part in (hard, easy)))
    yield Figure("arena-hard above plain seeds: AUC", len(easy) + len(hard), found, alone)


def score(scorer: Scorer, instructions: pl.Series, responses: pl.Series | None = None) -> np.ndarray:
    """Scores as an array; NaN if unreadable, which never counts as a hit."""
    frame = scorer.score(instructions.to_list(), None if responses is None else responses.to_list())
    return frame["score"].to_numpy()


def head(frame: pl.DataFrame, rows: int | None) -> pl.DataFrame:
    """A fixed random sample of at most `rows` rows."""
    return frame if rows is None or rows >= len(frame) else frame.sample(rows, seed=0)


def hits(which: np.ndarray) -> float:
    """The share of true values."""
    return float(which.mean())


def auc(higher: np.ndarray, lower: np.ndarray) -> float:
    """Probability that a value of `higher` is above one of `lower`; a tie counts half."""
    below = np.sort(lower)
    left, right = np.searchsorted(below, higher, "left"), np.searchsorted(below, higher, "right")
    return float((left + right).mean() / 2 / len(below))


def order_within(values: np.ndarray, levels: np.ndarray, groups: list[str]) -> float:
    """Share of pairs in a group with different levels that the values order correctly; a tie counts half."""
    frame = pl.DataFrame({"group": groups, "level": levels, "value": values})
    pairs = frame.join(frame, on="group").filter(pl.col("level") > pl.col("level_right"))
    right = (pairs["value"] > pairs["value_right"]).cast(float) + 0.5 * (pairs["value"] == pairs["value_right"])
    return hits(right.to_numpy())


def order_over(values: np.ndarray, levels: np.ndarray, groups: list[str]) -> float:
    """Spearman's rank correlation over all rows."""
    frame = pl.DataFrame({"value": values, "level": levels})
    return float(frame.select(pl.corr("value", "level", method="spearman")).item())


if __name__ == "__main__":
    main()
