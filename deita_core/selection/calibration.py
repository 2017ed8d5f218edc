"""Calibrates similarity thresholds for an encoder: cosines within a pool, and the share that a scan selects.

The paper's 0.9 is for its own encoder (section 2.4). Encoders distribute texts differently: with some, any two texts
have a cosine of 0.8; with others, only rewordings have.
"""

import numpy as np
from pydantic import BaseModel, ConfigDict

from deita_core.errors import InputError
from deita_core.export.markdown import markdown_table
from deita_core.selection.threshold import count_selected, smallest_filling

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)
BLOCK = 1_024


class Kept(BaseModel):
    """The share of the samples that a scan without a budget selects at a threshold."""

    model_config = ConfigDict(frozen=True)

    threshold: float
    share: float


class Calibration(BaseModel):
    """Cosine similarities of `samples` vectors, and the share selected at each threshold.

    `nearest`: cosine of each vector to the most similar one; `pairs`: of random pairs; both at QUANTILES. `wanted`: the
    smallest threshold, in steps of 0.001, that selects the requested share.
    """

    model_config = ConfigDict(frozen=True)

    samples: int
    nearest: tuple[float, ...]
    pairs: tuple[float, ...]
    kept: tuple[Kept, ...]
    wanted: Kept


def calibrate(vectors: np.ndarray, keep: float = 0.9, seed: int = 0) -> Calibration:
    """Measure vectors (n, d) float32, n >= 2, and find the threshold that selects the share `keep`, 0 to 1, of them.

    The result is exact for the given order of the vectors, and similar for other orders. Raises InputError for fewer
    than two valid vectors.
    """
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    good = np.isfinite(lengths) & (lengths > 0)
    if good.sum() < 2:
        raise InputError(f"There are {int(good.sum())} finite nonzero vectors; give a pool of two samples at least.")
    unit = (vectors[good] / lengths[good, None]).astype(np.float32)
    budget, dim = max(1, int(np.ceil(keep * len(unit)))), unit.shape[1]
    names = [""] * len(unit)
    wanted = smallest_filling(lambda: iter(_blocks(names, unit)), budget, dim, len(unit)).threshold
    kept = count_selected([unit], THRESHOLDS, dim)
    return Calibration(
        samples=len(unit),
        nearest=_quantiles(nearest_similarities(unit)),
        pairs=_quantiles(_random_pairs(unit, seed)),
        kept=tuple(
            Kept(threshold=tau, share=round(many / len(unit), 4)) for tau, many in zip(THRESHOLDS, kept, strict=True)
        ),
        wanted=Kept(threshold=wanted, share=round(count_selected([unit], [wanted], dim)[0] / len(unit), 4)),
    )


def _blocks(names: list[str], unit: np.ndarray) -> list[tuple[list[str], np.ndarray]]:
    return [(names[start : start + BLOCK], unit[start : start + BLOCK]) for start in range(0, len(unit), BLOCK)]


def nearest_similarities(unit: np.ndarray) -> np.ndarray:
    """Cosine (n,) of each normalized vector (n, d) to the most similar other one; computed in blocks of rows."""
    found = np.empty(len(unit), dtype=np.float32)
    for start in range(0, len(unit), BLOCK):
        products = unit[start : start + BLOCK] @ unit.T
        rows = np.arange(len(products))
        products[rows, start + rows] = -np.inf
        found[start : start + BLOCK] = products.max(axis=1)
    return found


def _random_pairs(unit: np.ndarray, seed: int, count: int = 20_000) -> np.ndarray:
    draw = np.random.default_rng(seed)
    first, step = draw.integers(0, len(unit), count), draw.integers(1, len(unit), count)
    return np.einsum("ij,ij->i", unit[first], unit[(first + step) % len(unit)])


def _quantiles(similarities: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in np.quantile(similarities, QUANTILES))


def calibration_text(found: Calibration, encoder: str) -> str:
    """The calibration as Markdown, with an explanation."""
    return "\n".join(
        [
            f"# What a threshold means for {encoder}",
            "",
            f"Measured on {found.samples:,} conversations of the pool.",
            "",
            markdown_table(("cosine similarity", *(f"{q:.0%}" for q in QUANTILES)), _similarity_rows(found)),
            "",
            f"Half of all random pairs are more alike than {found.pairs[3]:.2f}, and half of the conversations have a "
            f"nearest neighbour closer than {found.nearest[3]:.2f}. These figures are the encoder's as much as the "
            f"pool's: an encoder that puts all texts into a narrow cone has them near 1. That is why 0.9, the paper's "
            f"threshold, keeps one share with its encoder and another with this one.",
            "",
            markdown_table(("threshold", "share kept"), [(f"{k.threshold:g}", f"{k.share:.1%}") for k in found.kept]),
            "",
            f"Threshold {found.wanted.threshold:g} keeps {found.wanted.share:.1%}.",
            "",
        ]
    )


def _similarity_rows(found: Calibration) -> list[tuple[str, ...]]:
    rows = {"nearest neighbour": found.nearest, "random pair": found.pairs}
    return [(name, *(f"{value:.2f}" for value in values)) for name, values in rows.items()]
