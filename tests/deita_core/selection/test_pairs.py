from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deita_core.selection.pairs import PairRules, make_pairs

SCHEMA = {"id": pl.String, "instruction": pl.String, "text": pl.String, "score": pl.Float64}
FAR = np.eye(12, dtype=np.float32)
# Directions at these cosines to the first one.
NEAR = np.array([[1, 0, 0], [0.99, 0.141, 0], [0.9, 0.436, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], np.float32)


def frame(rows):
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def answered(scores, instruction="q", **rules):
    """Unlike answers to one instruction, named by letters; the pairs as (chosen, rejected) and the fate of each."""
    rows = [(name, instruction, name, score) for name, score in zip("abcdefghijkl", scores, strict=False)]
    return told(make_pairs(frame(rows), FAR[: len(rows)], PairRules(**rules)))


def told(found):
    pairs = list(found.pairs.select("chosen", "rejected").iter_rows())
    return pairs, dict(found.fates.select("id", "fate").iter_rows())


def test_the_best_answer_is_paired_with_the_worst():
    pairs, fates = answered([2, 5, 3, 4])
    assert pairs == [("b", "a")]
    assert fates == {"a": "paired", "b": "paired", "c": "in_between", "d": "in_between"}


def test_more_pairs_of_an_instruction_are_the_second_best_and_worst_and_so_on():
    pairs, fates = answered([1, 2, 3, 4, 5], per_instruction=7)
    assert pairs == [("e", "a"), ("d", "b")]
    assert fates["c"] == "in_between"


def test_a_pair_has_the_margin_or_is_none():
    assert answered([3, 3.5], margin=0.5)[0] == [("b", "a")]
    assert answered([3, 3.5], margin=0.6) == ([], {"a": "margin_too_small", "b": "margin_too_small"})
    pairs, fates = answered([1, 2.9, 3, 5], margin=1, per_instruction=2)
    assert (pairs, fates["b"], fates["c"]) == ([("d", "a")], "margin_too_small", "margin_too_small")


def test_answers_to_other_instructions_are_no_partners():
    rows = [("a", "q", "a", 1), ("b", "r", "b", 6)]
    assert told(make_pairs(frame(rows), FAR[:2])) == ([], {"a": "no_other_answer", "b": "no_other_answer"})


def test_an_answer_without_a_score_is_in_no_pair_and_no_ones_partner():
    assert answered([None, 5]) == ([], {"a": "no_score", "b": "no_other_answer"})
    assert answered([float("nan"), 5, 1]) == ([("b", "c")], {"a": "no_score", "b": "paired", "c": "paired"})


def test_an_answer_near_identical_to_a_better_one_is_skipped_and_names_it():
    rows = [("a", "q", "a", 5), ("b", "q", "b", 1), ("c", "q", "c", 2)]
    found = make_pairs(frame(rows), NEAR[[0, 1, 3]])
    assert told(found) == ([("a", "c")], {"a": "paired", "b": "near_identical", "c": "paired"})
    [(id_, of, similarity)] = (
        found.fates.filter(fate="near_identical").select("id", "duplicate_of", "similarity").rows()
    )
    assert (id_, of, similarity) == ("b", "a", pytest.approx(0.99, abs=1e-3))


def test_two_near_identical_answers_make_no_pair_however_far_their_scores():
    rows = [("a", "q", "a", 6), ("b", "q", "b", 1)]
    assert told(make_pairs(frame(rows), NEAR[:2])) == ([], {"a": "no_other_answer", "b": "near_identical"})
    assert told(make_pairs(frame(rows), NEAR[:2], PairRules(similarity=1)))[0] == [("a", "b")]


def test_equal_texts_are_one_answer_whatever_their_vectors():
    rows = [("a", "q", "same", 6), ("b", "q", "same", 1)]
    found = make_pairs(frame(rows), FAR[:2])
    assert told(found) == ([], {"a": "no_other_answer", "b": "near_identical"})
    assert found.fates["duplicate_of"].to_list() == [None, "a"]


def test_an_answer_whose_vector_is_zero_is_in_no_pair():
    rows = [("a", "q", "a", 6), ("b", "q", "b", 1), ("c", "q", "c", 2)]
    found = make_pairs(frame(rows), NEAR[[0, 5, 3]])
    assert told(found) == ([("a", "c")], {"a": "paired", "b": "no_vector", "c": "paired"})


def test_among_equal_scores_the_smaller_id_is_better():
    assert answered([2, 2, 1, 1])[0] == [("a", "d")]


def test_rules_out_of_range_are_refused():
    for wrong in ({"margin": 0}, {"margin": 5.1}, {"similarity": 1.1}, {"per_instruction": 0}, {"margins": 1}):
        with pytest.raises(ValidationError):
            PairRules(**wrong)


SCORE = st.none() | st.sampled_from([1.0, 1.3, 2.0, 2.5, 2.7, 3.1, 4.0, 5.6, 6.0])
ANSWER = st.tuples(st.sampled_from("pqr"), st.sampled_from("stuvw"), SCORE, st.integers(0, len(NEAR) - 1))


@given(
    st.lists(ANSWER, max_size=14),
    st.sampled_from([0.1, 0.3, 0.7, 1.5, 5.0]),
    st.sampled_from([0.5, 0.95, 1.0]),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_pairs_keep_the_rules_in_any_order_and_every_answer_has_one_fate(drawn, margin, similarity, per, random):
    rows = [(f"{i:02d}", *answer[:3]) for i, answer in enumerate(drawn)]
    vectors = NEAR[[answer[3] for answer in drawn]] if drawn else NEAR[:0]
    rules = PairRules(margin=margin, similarity=similarity, per_instruction=per)
    found = make_pairs(frame(rows), vectors, rules)

    texts = {id_: (instruction, text) for id_, instruction, text, _ in rows}
    scores = {id_: score for id_, _, _, score in rows}
    assert found.fates["id"].to_list() == [row[0] for row in rows]
    fates = dict(found.fates.select("id", "fate").iter_rows())
    used = [id_ for pair in told(found)[0] for id_ in pair]
    assert len(set(used)) == len(used)
    assert {id_ for id_, fate in fates.items() if fate == "paired"} == set(used)
    assert {id_ for id_, fate in fates.items() if fate == "no_score"} == {i for i, s in scores.items() if s is None}
    for pair in found.pairs.iter_rows(named=True):
        chosen, rejected = pair["chosen"], pair["rejected"]
        assert texts[chosen][0] == texts[rejected][0] == pair["instruction"]
        assert texts[chosen][1] != texts[rejected][1]
        assert (pair["chosen_score"], pair["rejected_score"]) == (scores[chosen], scores[rejected])
        assert scores[chosen] >= scores[rejected] + margin
        assert pair["similarity"] <= similarity
    assert max(Counter(found.pairs["instruction"]).values(), default=0) <= per

    order = list(range(len(rows)))
    random.shuffle(order)
    again = make_pairs(frame([rows[i] for i in order]), vectors[order], rules)
    assert again.pairs.equals(found.pairs)
    assert again.fates.sort("id").equals(found.fates.sort("id"))
