"""Figures of an evaluation, each with its standard error; what could not be read is left out and counted elsewhere."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel

from deita_core.evaluation.length_control import LengthControlled, length_controlled


class Scored(NamedTuple):
    """A score of 1 to 10 for the answer to one turn (from 1) of a question."""

    question: str
    category: str
    turn: int
    score: int


class Compared(NamedTuple):
    """A model's answer against the reference's, judged in both orders.

    `shown_first`, `shown_second`: the points for the model where its answer was A and where it was B: 1 for a win, 0.5
    for a tie, 0 for a loss. Lengths in characters.
    """

    question: str
    category: str
    shown_first: float
    shown_second: float
    length: int
    reference_length: int
    difficulty: float | None = None

    @property
    def preference(self) -> float:
        """The mean points of both orders, in [0, 1]."""
        return (self.shown_first + self.shown_second) / 2

    @property
    def first_place(self) -> float:
        """How far the first place was preferred, whoever had it: the mean points of both orders, in [0, 1]."""
        return (self.shown_first + 1 - self.shown_second) / 2


class Figure(BaseModel):
    """A mean, its standard error (None for fewer than two questions), and the number of values."""

    mean: float
    error: float | None
    n: int


class ScoreFigures(BaseModel):
    """Mean scores over all turns, by turn and by category. None and empty if no score could be read."""

    overall: Figure | None
    turns: dict[int, Figure]
    categories: dict[str, Figure]


class PairFigures(BaseModel):
    """Figures of a comparison. None and empty if no question has a verdict in both orders.

    `win_rate`: mean preference; a tie is half a win. `wins`, `ties`, `losses`: questions on which both orders agree;
    `split`: those on which they do not. `position_bias`: how often the first place is preferred, less one half.
    `length`, `reference_length`: mean lengths of the answers in characters.
    """

    win_rate: Figure | None
    length_controlled: LengthControlled | None
    wins: int
    ties: int
    losses: int
    split: int
    position_bias: Figure | None
    length: Figure | None
    reference_length: Figure | None
    categories: dict[str, Figure]


def score_figures(rows: Sequence[Scored]) -> ScoreFigures:
    """The figures of a single-answer evaluation."""
    return ScoreFigures(
        overall=_of_scores(rows),
        turns={turn: _of_scores([r for r in rows if r.turn == turn]) for turn in sorted({r.turn for r in rows})},
        categories={name: _of_scores([r for r in rows if r.category == name]) for name in _categories(rows)},
    )


def pair_figures(rows: Sequence[Compared]) -> PairFigures:
    """The figures of a comparison; the length-controlled win rate uses difficulties if every question has one."""
    difficulties = [row.difficulty for row in rows if row.difficulty is not None]
    controlled = length_controlled(
        [row.preference for row in rows],
        [row.length for row in rows],
        [row.reference_length for row in rows],
        difficulties if len(difficulties) == len(rows) else None,
    ) if rows else None  # fmt: skip
    agreed = [row.shown_first for row in rows if row.shown_first == row.shown_second]
    return PairFigures(
        win_rate=figure([row.preference for row in rows]),
        length_controlled=controlled,
        wins=agreed.count(1.0),
        ties=agreed.count(0.5),
        losses=agreed.count(0.0),
        split=len(rows) - len(agreed),
        position_bias=figure([row.first_place - 0.5 for row in rows]),
        length=figure([row.length for row in rows]),
        reference_length=figure([row.reference_length for row in rows]),
        categories={
            name: figure([row.preference for row in rows if row.category == name]) for name in _categories(rows)
        },
    )


def figure(values: Sequence[float], clusters: Sequence[str] | None = None) -> Figure | None:
    """The mean of values and its standard error, or None without values.

    Values of one cluster, as the turns of one question, are not independent: deviations are summed within clusters.
    """
    if not values:
        return None
    given = np.asarray(values, dtype=float)
    _, places = np.unique(np.arange(len(given)) if clusters is None else np.asarray(clusters), return_inverse=True)
    sums = np.bincount(places, weights=given - given.mean())
    n = len(sums)
    error = float(np.sqrt(n / (n - 1) * (sums**2).sum()) / len(given)) if n > 1 else None
    return Figure(mean=float(given.mean()), error=error, n=len(given))


def _of_scores(rows: Sequence[Scored]) -> Figure | None:
    return figure([row.score for row in rows], [row.question for row in rows])


def _categories(rows: Sequence[Scored] | Sequence[Compared]) -> list[str]:
    """The categories in the order of the file."""
    return list(dict.fromkeys(row.category for row in rows))
