"""Agreement of values with what is known of rows, and how far above text length it is."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import polars as pl

from deita_core.evaluation.bootstrap import Interval, paired_bootstrap

# (n,): one number for each row of a question; NaN, an unreadable row, is below every number.
Values = np.ndarray
RESAMPLES = 1_000


@dataclass(frozen=True)
class Measure:
    """An agreement of values with the truth: of each chain, averaged in its instruction first, or of all rows.

    `of` takes rows with the columns value, truth and chain, and returns chain and figure.
    """

    of: Callable[[pl.DataFrame], pl.DataFrame] | None = None
    over_all: Callable[[Values, Values], float] | None = None


@dataclass(frozen=True)
class Question:
    """Rows with the columns instruction, response (on the quality axis), truth, chain and group.

    Rows of one chain are compared with each other; a group is what the bootstrap draws, such as an instruction.
    """

    name: str
    measure: Measure
    rows: pl.DataFrame

    @property
    def scored(self) -> str:
        """The column that is scored."""
        return "response" if "response" in self.rows.columns else "instruction"

    def head(self, rows: int | None) -> Self:
        """The question with a fixed random sample of whole chains, about so many rows, of as many groups as can be."""
        if rows is None or rows >= len(self.rows):
            return self
        chains = self.rows.group_by("group", "chain", maintain_order=True).len()
        chains = chains.sample(fraction=1.0, shuffle=True, seed=0).with_columns(
            nth=pl.int_range(pl.len()).over("group"), place=pl.int_range(pl.len())
        )
        kept = chains.sort("nth", "place").filter(pl.col("len").cum_sum() - pl.col("len") < rows)
        return replace(self, rows=self.rows.join(kept, on=["group", "chain"], how="semi", maintain_order="left"))


class Compared(NamedTuple):
    """The figures of values and of text length, and the interval of their difference."""

    figure: float
    length: float
    above: Interval


def compare(question: Question, values: Values, length: Values) -> Compared:
    """The agreement of values (n,) and of lengths (n,) with the truth, with a 95 % interval over groups."""
    values = np.where(np.isnan(values), -np.inf, values)
    if question.measure.of:
        ours, theirs = (_by_group(question, these) for these in (values, length))
        return Compared(float(ours.mean()), float(theirs.mean()), paired_bootstrap(ours - theirs))
    assert question.measure.over_all
    measure, truth = question.measure.over_all, question.rows["truth"].cast(float).to_numpy()
    figure, alone = (measure(these, truth) for these in (values, length))
    differences = [measure(values[d], truth[d]) - measure(length[d], truth[d]) for d in _draws(question.rows["group"])]
    low, high = np.nanquantile(differences, [0.025, 0.975])
    return Compared(figure, alone, Interval(figure - alone, float(low), float(high)))


def _by_group(question: Question, values: Values) -> np.ndarray:
    """The figure of each group (g,): the mean over its chains."""
    assert question.measure.of
    rows = question.rows.with_columns(pl.col("truth").cast(float), value=values)
    chains = question.measure.of(rows).join(rows.select("chain", "group").unique(), on="chain")
    return chains.group_by("group").agg(pl.col("figure").mean()).sort("group")["figure"].to_numpy()


def _draws(groups: pl.Series) -> list[np.ndarray]:
    """Rows of as many groups as there are, drawn with replacement, for each resample."""
    frame = pl.DataFrame({"group": groups}).with_row_index("row")
    rows = frame.group_by("group", maintain_order=True).agg("row")["row"].to_list()
    members = [np.array(of_group) for of_group in rows]
    generator = np.random.default_rng(0)
    return [
        np.concatenate([members[i] for i in generator.integers(0, len(members), len(members))])
        for _ in range(RESAMPLES)
    ]


def right_order(rows: pl.DataFrame) -> pl.DataFrame:
    """Share of each chain's pairs of different truth that the values order correctly; a tie counts half."""
    side = rows.select("chain", "truth", "value")
    found = side.join(side, on="chain").filter(pl.col("truth") > pl.col("truth_right"))
    hit = (pl.col("value") > pl.col("value_right")) + 0.5 * (pl.col("value") == pl.col("value_right"))
    return found.group_by("chain").agg(figure=hit.mean())


def rank_within(rows: pl.DataFrame) -> pl.DataFrame:
    """Spearman's correlation in each chain; 0 where all values are equal, and no chain of equal truth."""
    ranks = rows.select("chain", pl.col("truth", "value").rank().over("chain"))
    found = ranks.group_by("chain").agg(figure=pl.corr("truth", "value"), told=pl.col("truth").n_unique() > 1)
    return found.filter("told").select("chain", pl.col("figure").fill_nan(0.0).fill_null(0.0))


def auc(values: Values, truth: Values) -> float:
    """Probability that a value of a row whose truth is 1 is above one of a row whose truth is 0; a tie counts half.

    NaN if either kind is missing, which a resample of few groups can do.
    """
    below, above = np.sort(values[truth == 0]), values[truth == 1]
    if not len(below) or not len(above):
        return float("nan")
    left, right = np.searchsorted(below, above, "left"), np.searchsorted(below, above, "right")
    return float((left + right).mean() / 2 / len(below))


def rank_over(values: Values, truth: Values) -> float:
    """Spearman's correlation over all rows; NaN where all values are equal."""
    frame = pl.DataFrame({"value": values, "truth": truth})
    return float(frame.select(pl.corr("value", "truth", method="spearman")).item())


ORDER = Measure(of=right_order)
RANK = Measure(of=rank_within)
AUC = Measure(over_all=auc)
RANK_OVER = Measure(over_all=rank_over)
