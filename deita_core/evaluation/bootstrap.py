"""The error of a figure: bootstrap intervals of a mean over rows, and the standard error over training seeds."""

from dataclasses import dataclass

import numpy as np

from deita_core.errors import InputError

# Numbers drawn at a time: 8 MB of positions.
BLOCK = 2**20


@dataclass(frozen=True)
class Interval:
    """A mean, and the interval in which it lies with the confidence level asked for."""

    mean: float
    low: float
    high: float

    @property
    def covers_zero(self) -> bool:
        """True if the sign of the mean is not certain."""
        return self.low <= 0 <= self.high


def paired_bootstrap(
    differences: np.ndarray, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Interval:  # fmt: skip
    """The mean difference of two arms over the same held-out rows, with its percentile bootstrap interval.

    `differences`: (rows,), or (seeds, rows), which is averaged over seeds first: only rows are drawn again, so the
    interval holds for these seeds, and `mean_and_error` says how far seeds differ. The same seed gives the same
    interval. Raises InputError without rows, for a difference that is not finite, and for a level outside 0 to 1.
    """
    values = np.atleast_2d(np.asarray(differences, dtype=np.float64)).mean(axis=0)
    if not len(values) or not np.isfinite(values).all():
        raise InputError(f"An interval takes finite differences of at least one row; {len(values)} rows were given.")
    if not 0 < level < 1 or resamples < 1:
        raise InputError(f"The level is {level} of {resamples} resamples; give one between 0 and 1, of at least 1.")
    means = _resampled_means(values, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def _resampled_means(values: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Means (resamples,) of as many rows drawn with replacement; the same for any size of block."""
    means = np.empty(resamples)
    step = max(1, BLOCK // len(values))
    for start in range(0, resamples, step):
        end = min(start + step, resamples)
        means[start:end] = values[generator.integers(0, len(values), (end - start, len(values)))].mean(axis=1)
    return means


def mean_and_error(values: np.ndarray) -> tuple[float, float | None]:
    """The mean of a figure over training seeds, (seeds,), and its standard error; None for a single seed."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise InputError(f"The figures have the shape {values.shape}; give one for each seed, of at least one seed.")
    error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return float(values.mean()), error
