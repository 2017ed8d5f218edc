"""Figures of chosen sets against plain loops over their definitions."""

import math

import numpy as np
import pytest

from deita_core.errors import InputError
from deita_core.selection.set_figures import coverage, density, nearest_similarity, novel_sum


def random_rows(count, dim=8, seed=0):
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def distance(a, b):
    a, b = a.astype(float), b.astype(float)
    return 1 - float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def plain_density(pool, row, k):
    others = sorted(distance(pool[row], other) for i, other in enumerate(pool) if i != row)
    return 1 / (sum(others[:k]) / len(others[:k]))


def plain_novel_sum(rows, densities):
    novelties = []
    for i, row in enumerate(rows):
        others = sorted((distance(row, other), densities[j]) for j, other in enumerate(rows) if j != i)
        weights = [1 / rank for rank in range(1, len(others) + 1)]
        weighted = sum(w * d * math.sqrt(sigma) for w, (d, sigma) in zip(weights, others, strict=True))
        novelties.append(weighted / sum(weights))
    return sum(novelties) / len(novelties)


# More rows than one block of products.
@pytest.mark.parametrize("count", [2, 11, 600])
def test_novel_sum_is_that_of_its_formula(count):
    rows = random_rows(count)
    densities = np.random.default_rng(1).uniform(0.5, 3, count)
    assert novel_sum(rows, densities) == pytest.approx(plain_novel_sum(rows, densities), rel=1e-5)


@pytest.mark.parametrize("k", [1, 10])
def test_the_density_is_one_over_the_mean_distance_to_the_nearest_others_of_the_pool(k):
    pool = random_rows(700)
    rows = np.random.default_rng(2).choice(700, 550, replace=False)
    expected = [plain_density(pool, row, k) for row in rows]
    np.testing.assert_allclose(density(pool, rows, k), expected, rtol=1e-4)


def test_a_row_with_more_copies_than_neighbours_has_a_finite_density():
    pool = np.concatenate([np.repeat(random_rows(1), 12, axis=0), random_rows(5, seed=3)])
    assert density(pool, np.array([0]))[0] == pytest.approx(1e6)


def test_a_small_pool_gives_all_its_other_rows_as_neighbours():
    pool = random_rows(4)
    np.testing.assert_allclose(density(pool, np.array([2])), [plain_density(pool, 2, 10)], rtol=1e-5)


def test_lengths_of_vectors_change_no_figure():
    rows, scale = random_rows(40), np.linspace(0.1, 9, 40, dtype=np.float32)[:, None]
    ones = np.ones(40)
    assert novel_sum(rows * scale, ones) == pytest.approx(novel_sum(rows, ones), rel=1e-5)
    assert nearest_similarity(rows * scale) == pytest.approx(nearest_similarity(rows), rel=1e-5)
    np.testing.assert_allclose(density(rows * scale, np.arange(40)), density(rows, np.arange(40)), rtol=1e-4)


def test_a_set_of_near_copies_is_less_novel_than_one_spread_out():
    spread, jitter = random_rows(100), random_rows(100, seed=4) * 0.01
    copies = spread[np.arange(100) % 5] + jitter
    ones = np.ones(100)
    assert novel_sum(copies, ones) < novel_sum(spread, ones)
    assert nearest_similarity(copies) > nearest_similarity(spread)


def test_nearest_similarity_is_the_mean_of_the_highest_cosine_to_another_row():
    rows = random_rows(530)
    highest = [1 - min(distance(row, other) for j, other in enumerate(rows) if j != i) for i, row in enumerate(rows)]
    assert nearest_similarity(rows) == pytest.approx(sum(highest) / len(highest), rel=1e-5)


def test_fewer_than_two_rows_have_no_neighbours():
    assert novel_sum(random_rows(1), np.ones(1)) == 0
    assert math.isnan(nearest_similarity(random_rows(1)))
    with pytest.raises(InputError, match="at least two rows"):
        density(random_rows(1), np.array([0]))


@pytest.mark.parametrize("wrong", [0.0, np.nan, np.inf])
def test_a_vector_without_a_direction_is_an_error(wrong):
    rows = random_rows(5)
    rows[3] = wrong
    for figure in (lambda: novel_sum(rows, np.ones(5)), lambda: density(rows, np.arange(2)),
                   lambda: nearest_similarity(rows)):  # fmt: skip
        with pytest.raises(InputError, match="1 vectors are zero or not finite"):
            figure()


def test_densities_of_other_rows_are_an_error():
    with pytest.raises(InputError, match="3 vectors and 2 densities"):
        novel_sum(random_rows(3), np.ones(2))


def test_coverage_is_the_share_of_clusters_of_which_a_row_is_chosen():
    assert coverage(np.array([0, 0, 1, 2, 3, 3]), np.array([3, 0, 0])) == 0.5
    assert coverage(np.array(["a", "b"]), np.array(["b", "a"])) == 1
    assert coverage(np.array([4, 4]), np.array([], dtype=int)) == 0
    assert math.isnan(coverage(np.array([], dtype=int), np.array([], dtype=int)))
