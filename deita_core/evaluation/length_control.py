"""The length-controlled win rate of AlpacaEval 2 (Dubois et al., arXiv 2404.04475), for one model against a reference.

As published and as in alpaca_eval's code (length_controlled_v1): the preference for the model on question x is modelled
as sigmoid(theta + phi * tanh(d_x / s) + psi * gamma_x), where d_x is the difference of the answers' lengths in
characters, s the standard deviation of d over the questions (with n - 1), and gamma_x the question's difficulty.
Preferences may be any number in [0, 1]. The win rate is the mean over the questions with the length term left out.

Not as published: theta, phi and psi are plain maximum likelihood estimates here. alpaca_eval adds an L1 penalty, whose
strength 5-fold cross-validation chooses, and annotations of its own baseline with other lengths, at weight 0.2. The
difficulties come from a fit over many models, which one model's answers cannot give: alpaca_eval has them for its own
questions, in a column instruction_difficulty. Without that column the term is left out.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel

STEPS = 100
# Newton's steps end when none of the gradients per question is larger.
SMALL = 1e-12
# A coefficient that grows beyond this has no estimate: even at 15 a preference is certain to six digits.
BEYOND = 15.0


class LengthControlled(BaseModel):
    """A length-controlled win rate in [0, 1], its standard error, and the terms' coefficients.

    `length`: 0 where all length differences are equal. `difficulty`: None without difficulties.
    """

    win_rate: float
    error: float
    model: float
    length: float
    difficulty: float | None


def length_controlled(
    preferences: Sequence[float],
    lengths: Sequence[int],
    reference_lengths: Sequence[int],
    difficulties: Sequence[float] | None = None,
) -> LengthControlled | None:
    """The win rate that a model would have if its answers were as long as the reference's; one entry per question.

    `preferences`: for the model, in [0, 1]. The standard error is the sandwich estimate, for the questions as given.
    None if the likelihood has no maximum, as when one side wins everywhere or the terms are not independent.
    """
    y = np.asarray(preferences, dtype=float)
    terms = {"model": np.ones(len(y))}
    delta = np.asarray(lengths, dtype=float) - np.asarray(reference_lengths, dtype=float)
    if len(y) > 1 and (spread := delta.std(ddof=1)) > 0:
        terms["length"] = np.tanh(delta / spread)
    if difficulties is not None:
        terms["difficulty"] = np.asarray(difficulties, dtype=float)
    x = np.column_stack(list(terms.values()))
    coefficients = _maximum(x, y)
    if coefficients is None:
        return None
    named = dict(zip(terms, coefficients.tolist(), strict=True))
    level = x.copy()
    level[:, [name == "length" for name in terms]] = 0.0
    rates = _sigmoid(level @ coefficients)
    slope = (level * (rates * (1 - rates))[:, None]).mean(axis=0)
    return LengthControlled(
        win_rate=float(rates.mean()),
        error=float(np.sqrt(slope @ _covariance(x, y, coefficients) @ slope)),
        model=named["model"],
        length=named.get("length", 0.0),
        difficulty=named.get("difficulty"),
    )


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -z))


def _maximum(x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """The coefficients of greatest likelihood by Newton's method, or None if there are none."""
    coefficients = np.zeros(x.shape[1])
    if np.linalg.matrix_rank(x) < x.shape[1]:
        return None
    for _ in range(STEPS):
        p = _sigmoid(x @ coefficients)
        gradient = x.T @ (y - p)
        if np.abs(gradient).max() <= SMALL * len(y):
            return coefficients
        step = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x, gradient)
        # A step as long as the sigmoid is curved cannot overshoot.
        coefficients = coefficients + step / max(1.0, float(np.abs(x @ step).max()) / 2)
        if np.abs(x @ coefficients).max() > BEYOND:
            return None
    return None


def _covariance(x: np.ndarray, y: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """The sandwich estimate of the coefficients' covariance, valid for preferences between 0 and 1 as well."""
    p = _sigmoid(x @ coefficients)
    bread = np.linalg.inv((x * (p * (1 - p))[:, None]).T @ x)
    scores = x * (y - p)[:, None]
    return bread @ (scores.T @ scores) @ bread
