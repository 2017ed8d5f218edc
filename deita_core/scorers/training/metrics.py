"""Held-out figures of a scorer, compared with those of text length alone."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

from deita_core.export.markdown import markdown_table

# Lengths are similar if their logarithms differ by less than this, about a fifth.
LIKE_LENGTH = 0.2


class Level(BaseModel):
    """A scorer's mean score of the rows with one given score."""

    model_config = ConfigDict(frozen=True)

    score: int
    rows: int
    mean: float


class Agreement(BaseModel):
    """Agreement of scores with the given ones; a figure without data, such as pairs, is null.

    `spearman`: mean over chains of the rank correlation within the chain, -1 to 1; `pair_accuracy`: share of a chain's
    pairs with different scores in the correct order, a tie counts half; `like_accuracy`: that share among pairs whose
    lengths differ by less than a fifth; `error`: mean absolute error, in scores.
    """

    model_config = ConfigDict(frozen=True)

    spearman: float | None
    pair_accuracy: float | None
    like_accuracy: float | None
    error: float | None


class Figures(BaseModel):
    """Agreement on held-out rows, of the scorer and of text length alone."""

    model_config = ConfigDict(frozen=True)

    rows: int
    chains: int
    pairs: int
    like_pairs: int
    scorer: Agreement
    length: Agreement
    calibration: tuple[Level, ...]


def held_out_figures(
    chains: Sequence[str] | np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    by_length: np.ndarray,
    lengths: np.ndarray,
) -> Figures:
    """Compare held-out scores (n,), and scores predicted from lengths (n,) alone, with the given ones, by chain."""
    columns = {"truth": truth, "scorer": predicted, "length": by_length, "size": lengths}
    frame = pl.DataFrame(
        {"chain": list(chains), **columns}, schema={"chain": pl.String, **dict.fromkeys(columns, pl.Float64)}
    )
    levels = frame.group_by("truth").agg(pl.len(), pl.col("scorer").mean()).sort("truth")
    pairs = _pairs(frame)
    return Figures(
        rows=len(frame),
        chains=frame["chain"].n_unique(),
        pairs=len(pairs),
        like_pairs=len(_alike(pairs)),
        scorer=_agreement(frame, pairs, "scorer"),
        length=_agreement(frame, pairs, "length"),
        calibration=tuple(Level(score=int(k), rows=n, mean=round(mean, 4)) for k, n, mean in levels.iter_rows()),
    )


def length_scores(train_lengths: np.ndarray, train_scores: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return scores (n,) predicted from text lengths (n,): least squares on the logarithm over the training rows."""
    known = np.log1p(np.asarray(train_lengths, dtype=np.float64))
    centred = known - known.mean()
    spread = float(centred @ centred)
    mean = float(np.mean(train_scores))
    slope = float(centred @ (np.asarray(train_scores, dtype=np.float64) - mean)) / spread if spread else 0.0
    # Not clipped to the scale: clipping would tie the longest texts and lower length's pair accuracy.
    return mean + slope * (np.log1p(np.asarray(lengths, dtype=np.float64)) - known.mean())


def figures_table(figures: Figures) -> str:
    """Return the figures as Markdown: the scorer's beside those of length alone, and the calibration."""
    rows = [
        ("rank correlation within a chain", figures.scorer.spearman, figures.length.spearman),
        ("pairs of a chain in order", figures.scorer.pair_accuracy, figures.length.pair_accuracy),
        ("the same, of like length", figures.scorer.like_accuracy, figures.length.like_accuracy),
        ("mean absolute error", figures.scorer.error, figures.length.error),
    ]
    return "\n\n".join(
        [
            f"{figures.rows:,} held-out rows of {figures.chains:,} chains, {figures.pairs:,} pairs of unlike score "
            f"({figures.like_pairs:,} of like length).",
            markdown_table(
                ("held out", "this scorer", "length alone"),
                [(name, _shown(ours), _shown(length)) for name, ours, length in rows],
            ),
            markdown_table(
                ("given score", "rows", "mean of this scorer"),
                [(level.score, f"{level.rows:,}", f"{level.mean:.2f}") for level in figures.calibration],
            ),
        ]
    )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _pairs(frame: pl.DataFrame) -> pl.DataFrame:
    """Return every pair of rows of one chain with different given scores, the better one first."""
    return frame.join(frame, on="chain", suffix="_worse").filter(pl.col("truth") > pl.col("truth_worse"))


def _alike(pairs: pl.DataFrame) -> pl.DataFrame:
    return pairs.filter((pl.col("size") / pl.col("size_worse")).log().abs() < LIKE_LENGTH)


def _agreement(frame: pl.DataFrame, pairs: pl.DataFrame, name: str) -> Agreement:
    margin = pl.col(name) - pl.col(f"{name}_worse")
    hits = pl.when(margin == 0).then(0.5).otherwise((margin > 0).cast(pl.Float64)).mean()
    within = frame.group_by("chain").agg(rho=pl.corr(name, "truth", method="spearman"))["rho"]
    return Agreement(
        # Null in a chain whose given or predicted scores are all equal: it has no order to compare.
        spearman=rounded(within.filter(within.is_finite()).mean()),
        pair_accuracy=rounded(pairs.select(hits).item()),
        like_accuracy=rounded(_alike(pairs).select(hits).item()),
        error=rounded(frame.select((pl.col(name) - pl.col("truth")).abs().mean()).item()),
    )


def rounded(value: object) -> float | None:
    """Round a figure to four places; None if it is not a finite number."""
    return round(float(value), 4) if isinstance(value, int | float) and np.isfinite(value) else None
