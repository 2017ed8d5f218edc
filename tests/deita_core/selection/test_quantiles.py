from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.selection.quantiles import quantile_scores

VALUES = st.lists(st.one_of(st.none(), st.floats(-50, 50), st.sampled_from([-1.0, 0.0, 2.5])), min_size=1, max_size=30)


def scores(values):
    frame = pl.DataFrame({"raw": values}, schema={"raw": pl.Float64})
    return frame.select(quantile_scores("raw")).to_series().to_list()


@given(VALUES)
def test_a_score_is_one_and_five_times_the_quantile_by_mean_ranks(values):
    known = [value for value in values if value is not None]
    for value, score in zip(values, scores(values), strict=True):
        if value is None:
            assert score is None
        elif len(known) == 1:
            assert score == 3.5
        else:
            below, equal = sum(v < value for v in known), sum(v == value for v in known)
            # Ranks from 0: equal values stand at the middle of the places that they take together.
            assert score == pytest.approx(1 + 5 * (below + (equal - 1) / 2) / (len(known) - 1), abs=1e-12)


@given(VALUES)
def test_scores_are_on_the_scale_and_keep_order_and_ties(values):
    pairs = sorted((v, s) for v, s in zip(values, scores(values), strict=True) if v is not None)
    assert all(1 <= score <= 6 for _, score in pairs)
    for (lower, low), (higher, high) in pairwise(pairs):
        assert (low < high) if lower < higher else (low == high)


@given(VALUES, st.randoms(use_true_random=False))
def test_the_order_of_the_values_changes_no_bit_of_a_score(values, random):
    order = random.sample(range(len(values)), len(values))
    assert scores([values[i] for i in order]) == [scores(values)[i] for i in order]


def test_lowest_and_highest_are_the_ends_of_the_scale():
    assert scores([-7.0, 3.0, 0.5]) == [1, 6, 3.5]
    assert scores([2.0, 2.0, 2.0]) == [3.5] * 3
