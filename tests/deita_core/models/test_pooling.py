import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deita_core.models.pooling import conversation_vectors, weighted_means
from deita_core.tables import MESSAGE_INDEX_TYPE

VECTORS = hnp.arrays(np.float32, (6, 5), elements=st.floats(-1, 1, width=32))
GROUPS = st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5_000)), max_size=5), min_size=1, max_size=6)


def indices(*conversations):
    """Conversations of (text, characters) as the samples table has them."""
    rows = [
        [{"role": "user", "text_id": text, "n_chars": chars, "blank": text == "blank"} for text, chars in messages]
        for messages in conversations
    ]
    return pl.Series(rows, dtype=pl.List(MESSAGE_INDEX_TYPE))


@settings(deadline=None)
@given(GROUPS, VECTORS)
def test_a_group_is_the_weighted_mean_of_its_members_at_length_one(groups, vectors):
    means = weighted_means(groups, vectors)
    assert means.dtype == np.float32
    assert means.shape == (len(groups), 5)
    for mean, group in zip(means, groups, strict=True):
        total = sum((vectors[row].astype(float) * weight for row, weight in group), start=np.zeros(5))
        length = np.sqrt(total @ total)
        if length > 0:
            np.testing.assert_allclose(mean, total / length, atol=1e-6)
        else:
            assert not mean.any()


@settings(deadline=None)
@given(GROUPS, VECTORS)
def test_a_group_does_not_depend_on_the_groups_beside_it(groups, vectors):
    together = weighted_means(groups, vectors)
    alone = np.concatenate([weighted_means([group], vectors) for group in groups])
    assert together.tobytes() == alone.tobytes()


def test_a_group_without_members_is_the_zero_vector():
    assert weighted_means([[]], np.ones((2, 3), np.float32)).tolist() == [[0, 0, 0]]


def test_members_that_cancel_out_are_the_zero_vector():
    vectors = np.array([[0.6, -0.8], [-0.6, 0.8]], np.float32)
    assert weighted_means([[(0, 1), (1, 3), (0, 2)]], vectors).tolist() == [[0, 0]]


def test_no_groups_are_no_vectors():
    assert weighted_means([], np.ones((2, 3), np.float32)).shape == (0, 3)


def test_the_mean_of_one_to_three_points_where_the_longer_one_does():
    vectors = np.array([[1, 0], [0, 1]], np.float32)
    np.testing.assert_allclose(weighted_means([[(0, 3), (1, 4)]], vectors), [[0.6, 0.8]], atol=1e-7)


def test_a_conversation_weighs_its_messages_by_their_characters():
    vectors = np.array([[1, 0], [0, 1]], np.float32)
    found = conversation_vectors(indices([("a", 30), ("b", 40)], [("b", 7)]), ["a", "b"], vectors)
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 1]], atol=1e-7)


def test_a_blank_message_counts_for_nothing_and_needs_no_vector():
    vectors = np.array([[1, 0]], np.float32)
    assert conversation_vectors(indices([("blank", 9), ("a", 1)]), ["a"], vectors).tolist() == [[1, 0]]


def test_a_text_said_twice_counts_twice():
    vectors = np.array([[1, 0], [0, 1]], np.float32)
    found = conversation_vectors(indices([("a", 3), ("b", 8), ("a", 3)]), ["a", "b"], vectors)
    np.testing.assert_allclose(found, [[0.6, 0.8]], atol=1e-7)


@settings(deadline=None)
@given(VECTORS, st.permutations(range(6)))
def test_the_order_in_which_vectors_are_stored_changes_nothing(vectors, order):
    talks = indices([("t0", 3), ("t5", 11), ("t2", 4)], [("t1", 1)], [("t3", 2), ("t4", 9), ("t3", 2)])
    straight = conversation_vectors(talks, [f"t{i}" for i in range(6)], vectors)
    shuffled = conversation_vectors(talks, [f"t{i}" for i in order], vectors[list(order)])
    assert straight.tobytes() == shuffled.tobytes()


def test_a_text_without_a_vector_is_an_error():
    with pytest.raises(KeyError):
        conversation_vectors(indices([("a", 1), ("lost", 1)]), ["a"], np.ones((1, 2), np.float32))
