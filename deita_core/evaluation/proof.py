"""Compares the arms of a proof: losses on held-out answers over seeds, paired differences, and a verdict."""

import numpy as np
import polars as pl
from pydantic import BaseModel

from deita_core.evaluation.bootstrap import Interval, mean_and_error, paired_bootstrap


class Mean(BaseModel):
    """A figure's mean over seeds, and its standard error; None for a single seed."""

    mean: float
    error: float | None


class Difference(BaseModel):
    """An arm's loss per row less the selection's, in nats per token; above 0 the selection is better.

    `low` and `high`: 95% interval of the paired bootstrap over held-out rows. `better`, `worse`: seeds in which the
    selection was so.
    """

    mean: float
    low: float
    high: float
    better: int
    worse: int

    @property
    def shown(self) -> int:
        """1 if the selection is better, -1 if it is worse: outside the interval's doubt and in every seed; else 0."""
        if self.low > 0 and not self.worse:
            return 1
        return -1 if self.high < 0 and not self.better else 0


class ArmFigures(BaseModel):
    """The figures of one arm.

    `per_token`: mean negative log-likelihood of a token of the held-out answers, in nats; `per_row`: the mean over rows
    of each row's; `likelier`: how often a held-out answer is likelier per token than a weaker one, averaged within an
    instruction first. `difference` is None for the selection itself.
    """

    arm: str
    per_token: Mean
    per_row: Mean
    likelier: Mean | None
    difference: Difference | None


def compare_arms(losses: pl.DataFrame, pairs: pl.DataFrame, proven: str) -> list[ArmFigures]:
    """The figures of every arm, in the order of their first row.

    `losses`: arm, seed, id, loss (sum over tokens, in nats), tokens, held_out (whether it is a held-out answer or a
    weaker one). Every arm and seed has the same ids; an arm may have one seed for all. `pairs`: instruction, good,
    weaker. `proven`: the arm that the others are compared with.
    """
    losses = losses.with_columns(per_row=pl.col("loss") / pl.col("tokens"))
    own = _by_seed(losses.filter(arm=proven))
    return [_figures(arm, losses.filter(arm=arm), pairs, None if arm == proven else own) for arm in _names(losses)]


def verdict(figures: list[ArmFigures], proven: str = "deita") -> str:
    """One sentence on what was shown: which arms the selection beats, which beat it, and where nothing is shown."""
    seeds = {1: [], -1: [], 0: []}  # type: dict[int, list[str]]
    for one in figures:
        if (found := one.difference) and one.arm != "base":
            interval = f"{found.mean:+.4f}, {found.low:+.4f} to {found.high:+.4f}"
            seeds[found.shown].append(f"{one.arm} ({interval})")
    said = [
        f"is better than {_listed(seeds[1])}" if seeds[1] else "",
        f"is worse than {_listed(seeds[-1])}" if seeds[-1] else "",
        f"differs from {_listed(seeds[0])} by no more than chance may explain" if seeds[0] else "",
    ]
    return f"On the held-out answers the selection of {proven} {_listed([part for part in said if part])}."


def _figures(arm: str, losses: pl.DataFrame, pairs: pl.DataFrame, own: np.ndarray | None) -> ArmFigures:
    held = losses.filter("held_out")
    by_seed = (
        held.group_by("seed").agg(pl.col("loss").sum() / pl.col("tokens").sum(), pl.col("per_row").mean()).sort("seed")
    )
    likelier = _likelier(losses, pairs)
    return ArmFigures(
        arm=arm,
        per_token=_mean(by_seed["loss"].to_numpy()),
        per_row=_mean(by_seed["per_row"].to_numpy()),
        likelier=None if likelier is None else _mean(likelier),
        difference=None if own is None else _difference(_by_seed(losses) - own),
    )


def _likelier(losses: pl.DataFrame, pairs: pl.DataFrame) -> np.ndarray | None:
    """How often the good answer is likelier, for each seed (seeds,); None without a pair that was measured."""
    of = losses.select("seed", "id", "per_row")
    both = pairs.join(of.rename({"id": "good", "per_row": "of_good"}), on="good").join(
        of.rename({"id": "weaker", "per_row": "of_weaker"}), on=["weaker", "seed"]
    )
    shares = both.group_by("seed", "instruction").agg((pl.col("of_good") < pl.col("of_weaker")).mean().alias("share"))
    means = shares.group_by("seed").agg(pl.col("share").mean()).sort("seed")
    return means["share"].to_numpy() if len(means) else None


def _by_seed(losses: pl.DataFrame) -> np.ndarray:
    """Loss per token of each held-out row: (seeds, rows), both in order."""
    held = losses.filter("held_out").sort("seed", "id")
    return held["per_row"].to_numpy().reshape(held["seed"].n_unique(), -1)


def _difference(differences: np.ndarray) -> Difference:
    found: Interval = paired_bootstrap(differences)
    of_seeds = differences.mean(axis=1)
    return Difference(
        mean=found.mean,
        low=found.low,
        high=found.high,
        better=int((of_seeds > 0).sum()),
        worse=int((of_seeds < 0).sum()),
    )


def _mean(values: np.ndarray) -> Mean:
    mean, error = mean_and_error(values)
    return Mean(mean=mean, error=error)


def _names(losses: pl.DataFrame) -> list[str]:
    return losses["arm"].unique(maintain_order=True).to_list()


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
