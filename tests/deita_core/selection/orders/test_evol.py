import math
import random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deita_core.selection.orders.evol import evol_scores

SCHEMA = {"id": pl.String, "turn": pl.Int32, "complexity": pl.Float64, "quality": pl.Float64, "end": pl.Int64}
RULES = ["sum", "mean", "max", "fit"]
SCORE = st.floats(1, 6)


@st.composite
def conversations(draw, score=SCORE):
    """Per sample, its turns in order: complexity, quality, end."""
    turn = st.tuples(score, score, st.integers(1, 50))
    samples = {}
    for id_ in draw(st.lists(st.sampled_from("abcdef"), unique=True)):
        end, turns = 0, []
        for complexity, quality, length in draw(st.lists(turn, min_size=1, max_size=6)):
            end += length
            turns.append((complexity, quality, end))
        samples[id_] = turns
    return samples


def frame(samples):
    rows = [(id_, number, *turn) for id_, turns in samples.items() for number, turn in enumerate(turns)]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def score_of(turns, how, training_tokens=100):
    """The score, complexity, quality and n_scored of one sample."""
    return evol_scores(frame({"a": turns}), how, training_tokens).row(0)[1:]


@settings(deadline=None)
@given(conversations(), st.sampled_from(RULES), st.integers(0, 120))
def test_a_score_is_complexity_times_quality_over_the_turns_that_count(samples, how, training_tokens):
    found = evol_scores(frame(samples), how, training_tokens)
    assert found["id"].to_list() == sorted(samples)
    for id_, score, complexity, quality, n_scored in found.rows():
        counting = [
            (c, q) for i, (c, q, end) in enumerate(samples[id_]) if how != "fit" or i == 0 or end <= training_tokens
        ]
        products = [c * q for c, q in counting]
        total = {"mean": math.fsum(products) / len(products), "max": max(products)}.get(how, math.fsum(products))
        assert score == pytest.approx(total, rel=1e-12)
        assert complexity == pytest.approx(math.fsum(c for c, _ in counting) / len(counting), rel=1e-12)
        assert quality == pytest.approx(math.fsum(q for _, q in counting) / len(counting), rel=1e-12)
        assert n_scored == len(counting)


@settings(deadline=None)
@given(conversations(st.one_of(st.none(), SCORE)), st.sampled_from(RULES), st.integers(0, 120))
def test_a_score_is_null_exactly_where_a_turn_that_counts_is_unread(samples, how, training_tokens):
    for id_, score, complexity, quality, _ in evol_scores(frame(samples), how, training_tokens).rows():
        counting = [t for i, t in enumerate(samples[id_]) if how != "fit" or i == 0 or t[2] <= training_tokens]
        unread = any(c is None or q is None for c, q, _ in counting)
        assert (score is None, complexity is None, quality is None) == (unread, unread, unread)


@pytest.mark.parametrize("how", RULES)
def test_the_order_of_the_rows_changes_no_bit_of_a_score(how):
    draw = random.Random(1)
    samples = {f"{i:02d}": [(draw.uniform(1, 6), draw.uniform(1, 6), t) for t in range(9)] for i in range(40)}
    rows = frame(samples)
    shuffled = rows[draw.sample(range(len(rows)), len(rows))]
    assert evol_scores(shuffled, how, 7).equals(evol_scores(rows, how, 7))


def test_sum_is_that_of_the_paper():
    assert score_of([(2, 3, 10), (4, 5, 20)], "sum") == (26, 3, 4, 2)


def test_mean_does_not_grow_with_the_number_of_turns():
    assert score_of([(2, 3, 10), (4, 5, 20)], "mean") == (13, 3, 4, 2)


def test_max_is_the_best_turn():
    assert score_of([(2, 3, 10), (4, 5, 20), (1, 1, 30)], "max")[0] == 20


def test_fit_counts_a_turn_that_ends_right_where_training_cuts():
    assert score_of([(2, 3, 10), (4, 5, 20)], "fit", 20)[0] == 26
    assert score_of([(2, 3, 10), (4, 5, 20)], "fit", 19) == (6, 2, 3, 1)


def test_fit_counts_the_first_turn_however_long_it_is():
    assert score_of([(2, 3, 9_000), (4, 5, 9_100)], "fit", 20) == (6, 2, 3, 1)


@pytest.mark.parametrize("how", RULES)
@pytest.mark.parametrize("unread", [(None, 3, 5), (3, None, 5), (None, None, 5)])
def test_an_unread_turn_makes_the_whole_sample_unread(how, unread):
    assert score_of([(2, 3, 4), unread], how) == (None, None, None, 2)


def test_an_unread_turn_that_does_not_fit_spoils_nothing():
    assert score_of([(2, 3, 10), (None, None, 5_000)], "fit")[0] == 6


def test_an_unread_first_turn_spoils_the_sample_even_where_it_does_not_fit():
    assert score_of([(None, 3, 5_000), (2, 2, 6_000)], "fit")[0] is None


def test_one_unread_sample_costs_the_others_nothing():
    found = evol_scores(frame({"a": [(None, 2, 5)], "b": [(2, 2, 5)]}), "sum", 100)
    assert found["score"].to_list() == [None, 4]


@pytest.mark.parametrize("how", RULES)
def test_no_turns_are_no_samples(how):
    found = evol_scores(frame({}), how, 100)
    assert found.columns == ["id", "score", "complexity", "quality", "n_scored"]
    assert found.is_empty()
