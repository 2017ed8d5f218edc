"""The length-controlled win rate against two other computations: the written likelihood, the released estimator."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from deita_core.evaluation.length_control import length_controlled

QUESTIONS = 805


def preferences(seed, model, length, difficulty=None, n=QUESTIONS, soft=True):
    """Synthetic preferences of known parameters: the mean of two judged orders, or one draw; lengths; difficulties."""
    draw = np.random.default_rng(seed)
    lengths, reference = draw.integers(100, 4_000, n), draw.integers(100, 2_500, n)
    gamma = draw.normal(0, 1, n)
    delta = lengths - reference
    logits = model + length * np.tanh(delta / delta.std(ddof=1)) + (difficulty or 0) * gamma
    judged = draw.random((2 if soft else 1, n)) < 1 / (1 + np.exp(-logits))
    return judged.mean(axis=0), lengths, reference, gamma if difficulty is not None else None


def by_the_likelihood(y, lengths, reference, gamma=None):
    """The win rate by a general optimiser of the likelihood as the paper writes it, without a gradient of ours."""
    delta = lengths - reference
    spread = np.sqrt(((delta - delta.mean()) ** 2).sum() / (len(delta) - 1))
    gamma = np.zeros(len(y)) if gamma is None else gamma

    def q(parameters, d):
        theta, phi, psi = parameters
        return 1 / (1 + np.exp(-(theta + phi * np.tanh(d / spread) + psi * gamma)))

    def loss(parameters):
        p = q(parameters, delta)
        return -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum()

    start = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"maxiter": 5_000, "xatol": 1e-9, "fatol": 1e-9})
    found = minimize(loss, start.x, method="BFGS", options={"gtol": 1e-9})
    return q(found.x, np.zeros(len(y))).mean(), found.x


CASES = [(0.4, 1.2, None), (-1.5, 2.5, None), (0.0, 0.0, None), (-0.7, 1.0, 0.8), (1.1, -0.6, -1.5)]


@pytest.mark.parametrize(("model", "length", "difficulty"), CASES)
@pytest.mark.parametrize("soft", [True, False])
def test_the_win_rate_is_that_of_the_written_likelihood(model, length, difficulty, soft):
    y, lengths, reference, gamma = preferences(7, model, length, difficulty, soft=soft)
    expected, [theta, phi, psi] = by_the_likelihood(y, lengths, reference, gamma)
    found = length_controlled(y, lengths, reference, gamma)
    assert found.win_rate == pytest.approx(expected, abs=1e-4)
    assert (found.model, found.length) == pytest.approx((theta, phi), abs=1e-3)
    assert found.difficulty is None if gamma is None else found.difficulty == pytest.approx(psi, abs=1e-3)


@pytest.mark.parametrize(("model", "length", "difficulty"), CASES)
def test_the_true_win_rate_is_within_three_standard_errors(model, length, difficulty):
    y, lengths, reference, gamma = preferences(11, model, length, difficulty)
    found = length_controlled(y, lengths, reference, gamma)
    true = (1 / (1 + np.exp(-(model + (difficulty or 0) * (0 if gamma is None else gamma))))).mean()
    assert abs(found.win_rate - true) < 3 * found.error
    assert 0.001 < found.error < 0.05


def test_the_error_is_the_spread_over_repeated_samples():
    found = [length_controlled(*preferences(seed, -0.5, 1.0)[:3]) for seed in range(200)]
    spread = np.std([one.win_rate for one in found], ddof=1)
    assert np.mean([one.error for one in found]) == pytest.approx(spread, rel=0.2)


def released(y, lengths, reference):
    """alpaca_eval's estimator on the same terms: an L1 penalty by 5-fold cross-validation; without its own rows."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import GroupKFold

    delta = lengths - reference
    x = np.column_stack([np.tanh(delta / delta.std(ddof=1)), np.ones(len(y))])
    hard = (y > 0.5).astype(int)
    cv = list(GroupKFold(5).split(x, hard, np.arange(len(y))))
    model = LogisticRegressionCV(
        cv=cv, l1_ratios=(1.0,), solver="liblinear", fit_intercept=False, random_state=123, scoring="neg_log_loss",
        use_legacy_attributes=False,
    ).fit(x, hard)  # fmt: skip
    return 1 / (1 + np.exp(-model.coef_[0][1]))


def test_the_released_penalty_changes_little_at_the_size_of_alpaca_eval():
    apart = []
    for seed, (model, length, _) in enumerate(CASES[:3]):
        y, lengths, reference, _ = preferences(seed, model, length, soft=False)
        found = length_controlled(y, lengths, reference)
        apart.append(abs(released(y, lengths, reference) - found.win_rate))
    print(f"\nwin rates apart from those with the released penalty: {[round(float(a), 4) for a in apart]}")
    assert max(apart) < 0.02


def test_answers_of_equal_length_have_the_plain_win_rate():
    y = [1.0, 0.0, 0.5, 1.0, 0.75]
    found = length_controlled(y, [10] * 5, [20] * 5)
    assert found.win_rate == pytest.approx(np.mean(y)) and found.length == 0.0


@given(st.integers(0, 10_000), st.floats(-1.5, 1.5), st.floats(-1.5, 1.5))
def test_the_other_side_has_the_rest(seed, model, length):
    y, lengths, reference, _ = preferences(seed, model, length, n=60)
    mine, theirs = length_controlled(y, lengths, reference), length_controlled(1 - y, reference, lengths)
    assert (mine is None) == (theirs is None)
    if mine:
        assert mine.win_rate + theirs.win_rate == pytest.approx(1)
        assert mine.error == pytest.approx(theirs.error)


@pytest.mark.parametrize(
    ("y", "lengths", "difficulties"),
    [
        ([1.0] * 6, [1, 2, 3, 4, 5, 6], None),
        # Whoever writes more wins.
        ([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], [1, 2, 3, 101, 102, 103], None),
        # A difficulty that is the same everywhere says what the model's own term says.
        ([0.0, 1.0, 0.5, 0.5], [1, 4, 2, 9], [2.0] * 4),
        ([0.5], [3], [1.0]),
    ],
)
def test_a_likelihood_without_a_maximum_gives_no_figure(y, lengths, difficulties):
    assert length_controlled(y, lengths, [50] * len(y), difficulties) is None
