import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deita_core.scorers.training.metrics import LIKE_LENGTH, figures_table, held_out_figures, length_scores


def figures(rows):
    """Figures of rows (chain, given, found, foretold from length, length)."""
    chains, *columns = zip(*rows, strict=True) if rows else [[]] * 5
    return held_out_figures(list(chains), *(np.array(column, float) for column in columns))


def compared(given, found, lengths=None, chain="a"):
    """Rows of one chain."""
    lengths = lengths or [100] * len(given)
    return [(chain, *row) for row in zip(given, found, [0.0] * len(given), lengths, strict=True)]


# -- golden values, counted by hand

GOLDEN = [
    # chain, given, found, by length, length
    ("a", 1, 1.0, 2.0, 100),
    ("a", 2, 3.0, 3.0, 110),
    ("a", 3, 2.0, 4.0, 150),
    ("a", 4, 4.0, 1.0, 155),
    ("b", 2, 5.0, 2.0, 50),
    ("b", 5, 5.0, 6.0, 58),
]


def test_counts():
    found = figures(GOLDEN)
    assert (found.rows, found.chains, found.pairs) == (6, 2, 7)
    # log(110/100) = 0.095, log(155/150) = 0.033 and log(58/50) = 0.148; all others are 0.31 and more.
    assert found.like_pairs == 3


def test_rank_correlation_is_within_a_chain_and_leaves_out_chains_without_an_order():
    found = figures(GOLDEN)
    # a: 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15); in b all that was found is the same.
    assert found.scorer.spearman == 0.8
    # a: ranks 2 3 4 1 for 1 2 3 4: 1 - 6 * (1 + 1 + 1 + 9) / 60 = -0.2; b: 1.
    assert found.length.spearman == 0.4


def test_pairs_in_order_count_a_tie_half():
    found = figures(GOLDEN)
    # a: five of six; b: a tie.
    assert found.scorer.pair_accuracy == round(5.5 / 7, 4)
    # a: three of six; b: one of one.
    assert found.length.pair_accuracy == round(4 / 7, 4)


def test_pairs_of_like_length_are_those_within_a_fifth():
    found = figures(GOLDEN)
    # 1 and 2: in order; 3 and 4: in order; b: a tie.
    assert found.scorer.like_accuracy == round(2.5 / 3, 4)
    # 1 and 2: in order; 3 and 4: not; b: in order.
    assert found.length.like_accuracy == round(2 / 3, 4)


def test_error_is_the_mean_distance_in_scores():
    found = figures(GOLDEN)
    assert found.scorer.error == round((0 + 1 + 1 + 0 + 3 + 0) / 6, 4)
    assert found.length.error == round((1 + 1 + 1 + 3 + 0 + 1) / 6, 4)


def test_calibration_is_the_mean_of_what_was_found_for_each_score_given():
    levels = [(level.score, level.rows, level.mean) for level in figures(GOLDEN).calibration]
    assert levels == [(1, 1, 1.0), (2, 2, 4.0), (3, 1, 2.0), (4, 1, 4.0), (5, 1, 5.0)]


# -- what is compared with what


def test_rows_given_the_same_score_are_no_pair():
    assert figures(compared([3, 3, 5], [1, 2, 3])).pairs == 2


def test_chains_are_not_compared_with_each_other():
    rows = [*compared([1, 2], [5, 6], chain="a"), *compared([5, 6], [1, 2], chain="b")]
    found = figures(rows)
    assert found.pairs == 2 and found.scorer.pair_accuracy == 1 and found.scorer.spearman == 1


@pytest.mark.parametrize(("ratio", "alike"), [(0.99 * LIKE_LENGTH, True), (1.01 * LIKE_LENGTH, False)])
@pytest.mark.parametrize("longer", [0, 1])
def test_which_of_a_pair_is_longer_does_not_matter(ratio, alike, longer):
    lengths = [100.0, 100.0]
    lengths[longer] *= np.exp(ratio)
    assert figures(compared([1, 2], [1, 2], lengths)).like_pairs == (1 if alike else 0)


# -- nothing to compare


def test_a_chain_of_one_row_has_neither_pairs_nor_order():
    found = figures(compared([3], [4]))
    assert (found.pairs, found.like_pairs) == (0, 0)
    assert (found.scorer.spearman, found.scorer.pair_accuracy, found.scorer.like_accuracy) == (None, None, None)
    assert found.scorer.error == 1


def test_a_chain_whose_given_scores_are_all_the_same_has_no_order():
    found = figures(compared([3, 3, 3], [1, 2, 3]))
    assert (found.scorer.spearman, found.scorer.pair_accuracy) == (None, None)


def test_without_pairs_of_like_length_there_is_no_share_of_them():
    found = figures(compared([1, 6], [1, 6], [10, 1_000]))
    assert (found.scorer.pair_accuracy, found.scorer.like_accuracy, found.like_pairs) == (1, None, 0)


def test_no_rows_have_no_figures():
    found = figures([])
    assert (found.rows, found.chains, found.pairs, found.calibration) == (0, 0, 0, ())
    assert set(found.scorer.model_dump().values()) == set(found.length.model_dump().values()) == {None}


def test_the_table_shows_what_there_is_and_a_dash_where_there_is_nothing():
    table = figures_table(figures(compared([1, 6], [1, 6], [10, 1_000])))
    assert "2 held-out rows of 1 chains, 1 pairs of unlike score (0 of like length)." in table
    assert "| rank correlation within a chain | 1.000 | - |" in table
    assert "| the same, of like length | - | - |" in table
    assert "| 6 | 1 | 6.00 |" in table
    assert "None" not in table and "nan" not in table


# -- properties

ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 6), st.floats(1, 6), st.floats(1, 6), st.integers(1, 500)),
    min_size=1,
    max_size=20,
)


@given(ROWS)
def test_figures_stay_within_their_bounds(rows):
    found = figures(rows)
    assert found.rows == len(rows) and found.like_pairs <= found.pairs
    assert sum(level.rows for level in found.calibration) == len(rows)
    for side in (found.scorer, found.length):
        assert side.spearman is None or -1 <= side.spearman <= 1
        assert side.pair_accuracy is None or 0 <= side.pair_accuracy <= 1
        assert (side.pair_accuracy is None) == (found.pairs == 0)
        assert (side.like_accuracy is None) == (found.like_pairs == 0)
        assert 0 <= side.error <= 5


@given(ROWS, st.randoms())
def test_the_order_of_the_rows_changes_nothing(rows, shuffle):
    other = list(rows)
    shuffle.shuffle(other)
    one, two = figures(rows), figures(other)
    assert one.scorer.model_dump() == pytest.approx(two.scorer.model_dump(), abs=2e-4)
    assert [level.score for level in one.calibration] == [level.score for level in two.calibration]


@given(ROWS)
def test_a_scorer_that_says_what_was_given_is_right(rows):
    found = figures([(chain, given_, float(given_), length, size) for chain, given_, _, length, size in rows])
    assert found.scorer.error == 0
    assert found.scorer.pair_accuracy in (None, 1)
    assert found.scorer.spearman is None or found.scorer.spearman == pytest.approx(1)
    assert all(level.mean == level.score for level in found.calibration)


# -- scores from lengths


def test_length_scores_are_the_line_through_the_logarithms():
    # log1p is 0, 1 and 2, and the scores lie on 1 + 2x.
    lengths = np.expm1([0.0, 1.0, 2.0])
    assert length_scores(lengths, np.array([1, 3, 5]), np.expm1([3.0, 0.5])) == pytest.approx([7, 2])


def test_training_rows_of_one_length_foretell_their_mean():
    assert length_scores(np.array([10, 10]), np.array([2, 5]), np.array([1, 1_000])) == pytest.approx([3.5, 3.5])


@given(
    st.lists(st.tuples(st.integers(1, 10_000), st.integers(1, 6)), min_size=2, max_size=20),
    st.lists(st.integers(0, 10_000), min_size=2, max_size=20, unique=True),
)
def test_a_longer_text_is_scored_always_higher_or_always_lower(training, lengths):
    sizes, given_ = (np.array(column) for column in zip(*training, strict=True))
    known = np.log1p(sizes)
    slope = ((known - known.mean()) * (given_ - given_.mean())).sum()
    assume(abs(slope) > 1e-3)
    steps = np.diff(length_scores(sizes, given_, np.array(sorted(lengths))))
    assert (steps * np.sign(slope) >= 0).all() and (steps != 0).any()
