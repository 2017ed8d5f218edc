import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deita_core.models import pooling

VECTORS = hnp.arrays(np.float32, (6, 5), elements=st.floats(-1, 1, width=32))
GROUPS = st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5_000)), max_size=5), min_size=1, max_size=6)


def weighted_means(groups, vectors):
    """Means of groups of (row, weight)."""
    members = [(number, row, weight) for number, group in enumerate(groups) for row, weight in group]
    schema = {"group": pl.Int64, "row": pl.UInt32, "weight": pl.Int32}
    return pooling.weighted_means(pl.DataFrame(members, schema=schema, orient="row"), len(groups), vectors)


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


@settings(deadline=None)
@given(GROUPS, VECTORS, st.integers(1, 40))
def test_how_many_groups_are_summed_at_a_time_changes_no_bit(groups, vectors, numbers):
    whole = weighted_means(groups, vectors)
    before, pooling.PASS = pooling.PASS, numbers
    try:
        assert weighted_means(groups, vectors).tobytes() == whole.tobytes()
    finally:
        pooling.PASS = before


@settings(deadline=None)
@given(GROUPS, VECTORS)
def test_members_are_summed_one_after_the_other(groups, vectors):
    for mean, group in zip(weighted_means(groups, vectors), groups, strict=True):
        total = np.zeros(5)
        for row, weight in group:
            total += float(weight) * vectors[row].astype(float)
        length = np.linalg.norm(total[None], axis=1)[0]
        assert mean.tobytes() == (total / length if length > 0 else total).astype(np.float32).tobytes()


def test_a_member_that_comes_twice_counts_twice():
    vectors = np.array([[1, 0], [0, 1]], np.float32)
    np.testing.assert_allclose(weighted_means([[(0, 3), (1, 8), (0, 3)]], vectors), [[0.6, 0.8]], atol=1e-7)
