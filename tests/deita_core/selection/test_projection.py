import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deita_core.selection.projection import fit, leading_directions, projection
from deita_core.selection.vectors import margin, normalize


@st.composite
def hard_pools(draw):
    """Normalized vectors of few directions, copies, near copies, or huge and tiny ones."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, dim = draw(st.integers(1, 40)), draw(st.integers(2, 64))
    kind = draw(st.sampled_from(["any", "low rank", "one direction", "near copies", "extreme", "float16", "axes"]))
    vectors = rng.normal(size=(n, dim))
    if kind == "low rank":
        vectors = rng.normal(size=(n, 2)) @ rng.normal(size=(2, dim))
    elif kind == "one direction":
        vectors[:] = vectors[0] * rng.uniform(0.1, 9, (n, 1))
    elif kind == "near copies":
        vectors = vectors[:1] + vectors * 10.0 ** rng.uniform(-9, -1, (n, 1))
    elif kind == "extreme":
        vectors *= 10.0 ** rng.uniform(-37, 37, (n, 1))
    elif kind == "float16":
        vectors = vectors.astype(np.float16)
    elif kind == "axes":
        vectors = np.eye(dim)[rng.integers(0, dim, n)]
    return normalize(vectors.astype(np.float32)).unit


@settings(deadline=None, max_examples=200)
@given(hard_pools(), hard_pools(), st.integers(1, 64), st.booleans())
def test_no_product_of_vectors_exceeds_that_of_the_reduced_ones_and_the_slack(some, sample, rank, learnt):
    dim = some.shape[1]
    rank = min(rank, dim)
    if learnt and sample.shape[1] == dim:
        directions = leading_directions(sample, rank)
    elif learnt:
        directions = leading_directions(some, rank)
    else:
        directions = np.linalg.qr(np.random.default_rng(rank).normal(size=(dim, rank)))[0]
    found = projection(directions)
    reduced = found.reduce(some)
    exact = some.astype(np.float64) @ some.astype(np.float64).T
    assert reduced.shape == (len(some), rank + 1)
    assert (exact <= (reduced @ reduced.T).astype(np.float64) + found.slack).all()


@pytest.mark.parametrize("skew", [0.0, 1e-3, 0.1])
def test_directions_that_are_not_orthonormal_cost_tightness_and_no_pair(skew):
    rng = np.random.default_rng(0)
    some = normalize(rng.normal(size=(200, 30)).astype(np.float32)).unit
    directions = np.linalg.qr(rng.normal(size=(30, 6)))[0] + skew * rng.normal(size=(30, 6))
    found = projection(directions)
    reduced = found.reduce(some)
    assert (some.astype(np.float64) @ some.T <= reduced @ reduced.T + found.slack).all()


def test_the_slack_is_small_beside_any_threshold():
    assert projection(np.eye(384, 96)).slack < 0.002
    assert projection(np.eye(4_096, 64)).slack < 0.01


def test_the_leading_directions_hold_what_an_exact_decomposition_holds():
    rng = np.random.default_rng(0)
    sample = rng.normal(size=(500, 100)) * np.arange(1, 101) ** -1.0
    found = leading_directions(sample.astype(np.float32), 10)
    best = np.linalg.svd(sample, full_matrices=False)[2][:10].T
    assert np.allclose(found.T @ found, np.eye(10), atol=1e-5)
    assert ((sample @ found) ** 2).sum() > 0.98 * ((sample @ best) ** 2).sum()


def steep(n, dim, power, seed=0):
    scale = np.arange(1, dim + 1) ** -power
    return normalize((np.random.default_rng(seed).normal(size=(n, dim)) * scale).astype(np.float32)).unit


def test_a_steep_spectrum_needs_few_directions_and_a_flat_one_gets_none():
    some, flat = steep(2_000, 384, 0.5), steep(2_000, 384, 0.0)
    found, cost = fit(some[:500], some[500:], 0.9, margin(384))
    assert found is not None and found.rank <= 48 and cost < 384 / 3
    assert fit(flat[:500], flat[500:], 0.1, margin(384))[0] is None


def test_vectors_that_are_all_alike_are_compared_in_full():
    alike = normalize(1 + 0.001 * np.random.default_rng(0).normal(size=(300, 64)).astype(np.float32)).unit
    assert fit(alike, alike, 0.9, margin(64))[0] is None


@pytest.mark.parametrize("dim", [1, 2, 31])
def test_short_vectors_are_compared_in_full(dim):
    some = normalize(np.random.default_rng(0).normal(size=(300, dim)).astype(np.float32)).unit
    assert fit(some, some, 0.9, margin(dim)) == (None, dim + 20.0)
