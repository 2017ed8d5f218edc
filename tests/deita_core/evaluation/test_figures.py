import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.evaluation.figures import Compared, Scored, figure, pair_figures, score_figures


def test_a_mean_has_the_usual_standard_error():
    found = figure([1, 2, 4, 9])
    assert (found.mean, found.n) == (4, 4)
    assert found.error == pytest.approx(statistics.stdev([1, 2, 4, 9]) / 2)


def test_one_value_has_no_error_and_none_has_no_figure():
    assert figure([3]).error is None
    assert figure([]) is None


@given(st.lists(st.tuples(st.integers(1, 10), st.integers(1, 10)), min_size=2, max_size=20))
def test_two_turns_of_each_question_have_the_error_of_the_questions_means(scores):
    """The turns of a question are not independent: as many turns again do not halve the variance by themselves."""
    rows = [Scored(str(q), "x", turn, score) for q, pair in enumerate(scores) for turn, score in enumerate(pair, 1)]
    found = score_figures(rows).overall
    means = [sum(pair) / 2 for pair in scores]
    assert found.mean == pytest.approx(statistics.mean(means))
    assert found.error == pytest.approx(statistics.stdev(means) / len(means) ** 0.5)


def test_scores_are_by_turn_and_by_category_in_the_order_of_the_file():
    rows = [Scored("1", "writing", 1, 8), Scored("1", "writing", 2, 4), Scored("2", "math", 1, 3)]
    found = score_figures(rows)
    assert {turn: figure.mean for turn, figure in found.turns.items()} == {1: 5.5, 2: 4}
    assert {name: figure.mean for name, figure in found.categories.items()} == {"writing": 6, "math": 3}
    assert list(found.categories) == ["writing", "math"] and found.overall.mean == 5


def compared(question, first, second, length=10, reference=20, category="x"):
    return Compared(str(question), category, first, second, length, reference)


def test_a_pair_counts_where_both_orders_agree():
    rows = [compared(i, *points) for i, points in enumerate([(1, 1), (0, 0), (0.5, 0.5), (1, 0), (1, 0.5), (0, 1)])]
    found = pair_figures(rows)
    assert (found.wins, found.losses, found.ties, found.split) == (1, 1, 1, 3)
    assert found.win_rate.mean == pytest.approx((1 + 0 + 0.5 + 0.5 + 0.75 + 0.5) / 6)


def test_a_judge_that_always_takes_the_first_place_is_all_bias_and_no_win():
    found = pair_figures([compared(i, 1, 0) for i in range(5)])
    assert found.position_bias.mean == 0.5 and found.position_bias.error == 0
    assert found.win_rate.mean == 0.5 and found.split == 5


@given(st.lists(st.tuples(st.sampled_from([0, 0.5, 1]), st.sampled_from([0, 0.5, 1])), min_size=1, max_size=20))
def test_the_position_bias_is_that_of_the_reference_too(points):
    """Seen from the other side each point is the rest to one, and the orders change their places."""
    mine = pair_figures([compared(i, a, b) for i, (a, b) in enumerate(points)])
    theirs = pair_figures([compared(i, 1 - b, 1 - a) for i, (a, b) in enumerate(points)])
    assert mine.position_bias.mean == pytest.approx(theirs.position_bias.mean)
    assert mine.win_rate.mean + theirs.win_rate.mean == pytest.approx(1)
    assert -0.5 <= mine.position_bias.mean <= 0.5


def test_without_a_readable_verdict_there_are_no_figures():
    assert score_figures([]).overall is None
    found = pair_figures([])
    assert (found.win_rate, found.length_controlled, found.position_bias, found.categories) == (None, None, None, {})
