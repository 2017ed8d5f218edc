import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deita_core.selection import DiversitySelector, nearest_selected, with_nearest
from deita_core.selection.nearest import nearest_of
from deita_core.selection.vectors import normalize


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.int8, st.tuples(st.integers(0, 30), st.integers(1, 4)), elements=st.integers(-4, 4)))
def test_the_nearest_is_the_first_of_the_most_similar_above(grid):
    vectors = grid[grid.any(axis=1)].astype(np.float32)
    place, similarity = nearest_selected(vectors)
    assert len(place) == len(similarity) == len(vectors)
    for row in range(len(vectors)):
        if row == 0:
            assert (place[0], similarity[0]) == (-1, -np.inf)
            continue
        wide = vectors.astype(np.float64)
        lengths = np.sqrt((wide * wide).sum(axis=1))
        exact = np.clip((wide[:row] * wide[row]).sum(axis=1) / (lengths[:row] * lengths[row]), -1, 1)
        assert place[row] == np.argmax(exact)
        assert similarity[row] == pytest.approx(exact.max(), abs=1e-15)


def test_blocks_and_tiles_change_nothing():
    vectors = np.random.default_rng(0).normal(size=(2_600, 12)).astype(np.float32)
    place, similarity = nearest_selected(vectors)
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    products = np.where(np.tri(len(unit), k=-1, dtype=bool), unit @ unit.T, -np.inf)
    assert place[0] == -1 and (place[1:] == products.argmax(axis=1)[1:]).all()
    assert np.allclose(similarity[1:], products.max(axis=1)[1:], atol=1e-12)


GRID = hnp.arrays(np.int8, st.tuples(st.integers(0, 12), st.just(3)), elements=st.integers(-4, 4))


@given(GRID, GRID)
def test_the_nearest_of_others_is_the_first_of_the_most_similar(rows, others):
    rows, others = rows.astype(np.float32), others[others.any(axis=1)].astype(np.float32)
    place, similarity = nearest_of(normalize(rows), normalize(others))
    for row, (found, cosine) in enumerate(zip(place, similarity, strict=True)):
        if not rows[row].any() or not len(others):
            assert (found, cosine) == (-1, -np.inf)
            continue
        wide, one = others.astype(np.float64), rows[row].astype(np.float64)
        exact = np.clip((wide * one).sum(axis=1) / np.sqrt((wide * wide).sum(axis=1) * (one * one).sum()), -1, 1)
        # Equal cosines of different vectors may differ in their last digit.
        assert cosine == pytest.approx(exact.max(), abs=1e-15)
        assert exact[found] == pytest.approx(exact.max(), abs=1e-15)


def test_decisions_get_the_nearest_of_each_row():
    vectors = np.array([[1, 0], [0, 1], [3, 4], [1, 0.01]], np.float32)
    selector = DiversitySelector(None, 0.9, 2)
    decisions = selector.add_block(["a", "b", "c", "d"], vectors)
    full = with_nearest(decisions, selector.selected)
    assert full["nearest"].to_list() == [None, "a", "b", "a"]
    assert full["similarity"].to_list() == [None, 0.0, pytest.approx(0.8), pytest.approx(1, abs=1e-4)]
    assert full.select(pl.exclude("nearest", "similarity")).equals(decisions.drop("similarity"))
    assert with_nearest(decisions, vectors[:3]).equals(full)


def test_no_decisions_have_no_nearest():
    nobody = DiversitySelector(None, 0.9, 2).add_block([], np.empty((0, 2), np.float32))
    assert with_nearest(nobody, np.empty((0, 2), np.float32)).columns[-1] == "nearest"
