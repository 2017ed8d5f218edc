import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.selection import select_diverse
from deita_core.selection.threshold import smallest_filling


@given(st.integers(0, 1_000))
def test_where_more_similarity_keeps_more_the_smallest_that_fills_is_found(cut):
    assert smallest_filling(lambda threshold: threshold >= cut / 1_000) == cut / 1_000


@given(st.floats(0, 1))
def test_the_result_fills_and_one_step_below_does_not(cut):
    found = smallest_filling(lambda threshold: threshold >= cut)
    assert found >= cut
    assert found == 0 or (round(found * 1_000) - 1) / 1_000 < cut


@given(st.sets(st.integers(0, 1_000), min_size=1))
def test_the_result_fills_even_where_more_similarity_keeps_less(filling):
    found = round(smallest_filling(lambda threshold: round(threshold * 1_000) in filling) * 1_000)
    assert found in filling or found == 1_000
    assert found == 0 or found - 1 not in filling


def test_one_is_the_answer_where_nothing_fills():
    assert smallest_filling(lambda threshold: False) == 1.0


@given(st.integers(0, 1_000))
def test_a_pool_is_walked_a_dozen_times_at_most(cut):
    asked = []
    smallest_filling(lambda threshold: asked.append(threshold) or threshold >= cut / 1_000)
    assert len(asked) <= 12
    assert all(0 <= threshold <= 1 for threshold in asked)


@pytest.mark.parametrize("budget", [2, 10, 40, 80])
def test_the_threshold_found_for_a_pool_fills_its_budget_with_the_most_diversity(budget):
    rng = np.random.default_rng(3)
    vectors = (rng.normal(size=(12, 8))[rng.integers(0, 12, 100)] + rng.normal(size=(100, 8)) * 0.4).astype("f4")
    scores = rng.permutation(100)

    def kept(threshold):
        return len(select_diverse(vectors, scores, budget=budget, threshold=threshold).ids)

    found = smallest_filling(lambda threshold: kept(threshold) == budget)
    assert kept(found) == budget
    assert found == 0 or kept(found - 0.001) < budget
