import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deita_core.errors import InputError
from deita_core.evaluation import bootstrap
from deita_core.evaluation.bootstrap import Interval, mean_and_error, paired_bootstrap


def drawn(*shape, mean=0.0, seed=1):
    return np.random.default_rng(seed).normal(mean, 1, shape)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_is_that_of_scipy(level):
    stats = pytest.importorskip("scipy.stats")
    values = drawn(40, mean=0.3) ** 3
    found = paired_bootstrap(values, resamples=3_000, seed=7, level=level)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=3_000, confidence_level=level, method="percentile", rng=np.random.default_rng(7)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    assert found.mean == pytest.approx(values.mean())


def test_it_covers_the_true_mean_about_as_often_as_the_level_says():
    covered = [
        found.low <= 0.5 <= found.high
        for i in range(400)
        for found in [paired_bootstrap(drawn(80, mean=0.5, seed=i), resamples=500, seed=i, level=0.9)]
    ]
    # 0.9 less what percentile intervals of 80 rows lack; four standard errors of 400 trials are 0.06.
    assert np.mean(covered) == pytest.approx(0.89, abs=0.06)


def test_the_same_seed_gives_the_same_interval_for_any_size_of_block(monkeypatch):
    whole = paired_bootstrap(drawn(37), resamples=500)
    assert whole == paired_bootstrap(drawn(37), resamples=500)
    assert whole != paired_bootstrap(drawn(37), resamples=500, seed=1)
    monkeypatch.setattr(bootstrap, "BLOCK", 100)
    assert whole == paired_bootstrap(drawn(37), resamples=500)


def test_of_several_training_seeds_the_average_is_taken_and_only_rows_are_drawn():
    matrix = drawn(3, 50)
    assert paired_bootstrap(matrix, resamples=300) == paired_bootstrap(matrix.mean(axis=0), resamples=300)


@settings(max_examples=50)
@given(hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(-100, 100)))
def test_the_interval_lies_within_the_values_and_turns_with_their_sign(values):
    found, turned = (paired_bootstrap(sign * values, resamples=200) for sign in (1, -1))
    slack = 1e-9
    assert values.min() - slack <= found.low <= found.high <= values.max() + slack
    assert (turned.mean, turned.low, turned.high) == pytest.approx((-found.mean, -found.high, -found.low), abs=slack)


def test_a_constant_difference_has_no_error():
    assert paired_bootstrap(np.full(20, 0.25)) == Interval(0.25, 0.25, 0.25)


def test_an_interval_covers_zero_or_does_not():
    assert Interval(0.1, -0.1, 0.3).covers_zero
    assert not Interval(0.2, 0.1, 0.3).covers_zero and not Interval(-0.2, -0.3, -0.1).covers_zero


def test_the_standard_error_over_seeds_is_that_of_the_textbook():
    assert mean_and_error(np.array([1.0, 2.0, 3.0])) == pytest.approx((2.0, 1 / 3**0.5))
    assert mean_and_error(np.array([4.0])) == (4.0, None)


@pytest.mark.parametrize("wrong", [np.empty(0), np.empty((3, 0)), np.array([1, np.nan]), np.array([np.inf])])
def test_differences_without_rows_or_not_finite_are_refused(wrong):
    with pytest.raises(InputError, match="finite differences"):
        paired_bootstrap(wrong)


def test_other_arguments_out_of_range_are_refused():
    for level, resamples in ((0, 10), (1, 10), (0.9, 0)):
        with pytest.raises(InputError, match="level"):
            paired_bootstrap(np.ones(3), resamples=resamples, level=level)
    with pytest.raises(InputError, match="one for each seed"):
        mean_and_error(np.empty(0))
