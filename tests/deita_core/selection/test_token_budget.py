import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.errors import InputError
from deita_core.selection.token_budget import FULL, take_tokens


def take(tokens, budget, order=None):
    return take_tokens(range(len(tokens)) if order is None else order, np.array(tokens), budget).tolist()


def test_rows_are_taken_in_rank_order_up_to_the_budget():
    assert take([5, 5, 5, 5], 15) == [0, 1, 2]
    assert take([5, 5, 5, 5], 15, order=[3, 1, 0, 2]) == [3, 1, 0]


def test_a_row_that_does_not_fit_is_skipped_and_the_next_is_tried():
    assert take([6, 50, 3, 2, 1], 10) == [0, 2, 4]


def test_nothing_is_taken_once_the_budget_is_nearly_full():
    assert take([990, 5, 5], 1_000) == [0]
    assert take([989, 5, 5], 1_000) == [0, 1]


def test_a_pool_smaller_than_the_budget_is_taken_whole_and_one_of_long_rows_not_at_all():
    assert take([1, 2, 3], 100) == [0, 1, 2]
    assert take([20, 30], 10) == []
    assert take([], 10) == []


def test_a_budget_or_a_row_without_tokens_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        take([1], 0)
    with pytest.raises(InputError, match="without training tokens"):
        take([1, 0], 5)
    assert take([1, 0], 5, order=[0]) == [0]


@given(st.data(), st.lists(st.integers(1, 50), max_size=40), st.integers(1, 400))
def test_the_rows_are_the_best_that_fit(data, tokens, budget):
    order = data.draw(st.permutations(range(len(tokens))))
    taken, spent, expected = take(tokens, budget, order), 0, []
    for position in order:
        if spent < FULL * budget and spent + tokens[position] <= budget:
            expected.append(position)
            spent += tokens[position]
    assert taken == expected
    assert sum(tokens[i] for i in taken) <= budget
