import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.errors import InputError
from deita_core.selection import select_diverse
from deita_core.selection.calibration import (
    QUANTILES,
    THRESHOLDS,
    calibrate,
    calibration_text,
    nearest_similarities,
)


def spread(n, dim=16, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def walk(vectors, threshold):
    return len(select_diverse(vectors, -np.arange(len(vectors), dtype=float), threshold=threshold).indices)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("n", [2, 3, 1_023, 1_024, 1_025, 2_100])
def test_the_nearest_similarity_is_the_largest_of_all_others(n):
    vectors = unit(spread(n, dim=4))
    products = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    np.fill_diagonal(products, -np.inf)
    assert np.abs(nearest_similarities(vectors) - products.max(axis=1)).max() < 1e-5


def test_a_pool_of_pairs_has_half_its_samples_kept_below_their_similarity():
    found = calibrate(_pairs(40), keep=0.9)
    shares = {kept.threshold: kept.share for kept in found.kept}
    assert shares[0.9] == 0.5 and shares[0.99] == 1.0
    assert found.nearest == pytest.approx([0.95] * len(QUANTILES), abs=1e-4)
    assert 0.949 <= found.wanted.threshold <= 0.951 and found.wanted.share >= 0.9


def _pairs(n):
    """n pairs of vectors whose cosine is 0.95, each pair at right angles to all others."""
    first, second = np.zeros((n, 2 * n), np.float32), np.zeros((n, 2 * n), np.float32)
    rows = np.arange(n)
    first[rows, 2 * rows] = 1
    second[rows, 2 * rows], second[rows, 2 * rows + 1] = 0.95, np.sqrt(1 - 0.95**2)
    return np.concatenate([first, second])


@given(seed=st.integers(0, 50), n=st.integers(2, 60), keep=st.floats(0.05, 1))
def test_the_threshold_wanted_keeps_the_share_wanted_and_is_the_one_that_selection_means(seed, n, keep):
    vectors = spread(n, dim=3, seed=seed)
    found = calibrate(vectors, keep)
    kept, most = (walk(vectors, threshold) for threshold in (found.wanted.threshold, 1.0))
    assert found.wanted.share == pytest.approx(kept / n, abs=1e-4)
    assert kept >= min(np.ceil(keep * n), most)


def test_lengths_say_nothing():
    vectors = spread(50)
    assert calibrate(vectors) == calibrate(vectors * np.linspace(0.5, 8, 50, dtype=np.float32)[:, None])


def test_vectors_without_a_direction_are_left_out():
    vectors = spread(20)
    vectors[3], vectors[7] = 0, np.nan
    assert calibrate(vectors).samples == 18


@pytest.mark.parametrize("n", [0, 1])
def test_one_vector_has_no_neighbour(n):
    with pytest.raises(InputError, match="two samples"):
        calibrate(spread(n))


def test_the_text_says_what_was_found():
    found = calibrate(_pairs(10), keep=0.9)
    text = calibration_text(found, "an/encoder")
    assert "an/encoder" in text and "20 conversations" in text
    assert "| 0.9 | 50.0% |" in text and f"Threshold {found.wanted.threshold:g}" in text
    assert text.count("\n| 0.") == len(THRESHOLDS)
