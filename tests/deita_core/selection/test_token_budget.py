import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.errors import InputError
from deita_core.selection.token_budget import FULL, take_tokens


def test_rows_are_taken_in_rank_order_up_to_the_budget():
    assert take_tokens([5, 5, 5, 5], 15) == [0, 1, 2]


def test_a_row_that_does_not_fit_is_skipped_and_the_next_is_tried():
    assert take_tokens([6, 50, 3, 2, 1], 10) == [0, 2, 4]


def test_nothing_is_taken_once_the_budget_is_nearly_full():
    assert take_tokens([990, 5, 5], 1_000) == [0]
    assert take_tokens([989, 5, 5], 1_000) == [0, 1]


def test_a_pool_smaller_than_the_budget_is_taken_whole_and_one_of_long_rows_not_at_all():
    assert take_tokens([1, 2, 3], 100) == [0, 1, 2]
    assert take_tokens([20, 30], 10) == []
    assert take_tokens([], 10) == []


def test_a_budget_or_a_row_without_tokens_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        take_tokens([1], 0)
    with pytest.raises(InputError, match="without training tokens"):
        take_tokens([1, 0], 5)


def test_no_more_rows_are_read_than_the_budget_takes():
    sizes = iter([5, 5, 5, 5])
    assert take_tokens(sizes, 10) == [0, 1]
    assert list(sizes) == [5, 5]


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 400))
def test_the_rows_are_the_best_that_fit(tokens, budget):
    taken, spent, expected = take_tokens(tokens, budget), 0, []
    for position, size in enumerate(tokens):
        if spent < FULL * budget and spent + size <= budget:
            expected.append(position)
            spent += size
    assert taken == expected
    assert sum(tokens[i] for i in taken) <= budget
