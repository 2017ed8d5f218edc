"""kMQ against a reference written from the paper's formulas, and clusters of planted directions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.errors import InputError
from deita_core.selection.diversity.clusters import cluster_quotas, select_clusters, spherical_kmeans


def reference(clusters, scores, budget, seed, ids):
    """m |c| / n rows of each cluster, by largest remainder; then draws without replacement, as exponential clocks."""
    n, k = len(scores), max(clusters) + 1
    sizes = [sum(c == label for c in clusters) for label in range(k)]
    exact = [budget * size / n for size in sizes]
    quotas = [math.floor(share + 1e-12) for share in exact]
    by_remainder = sorted(range(k), key=lambda label: (-round(exact[label] - quotas[label], 9), label))
    for label in by_remainder[: budget - sum(quotas)]:
        quotas[label] += 1
    by_id = sorted(range(n), key=lambda i: ids[i])
    u = np.random.default_rng(seed).random(n) if seed is not None else None
    clock = {i: -math.log(1 - u[place]) / scores[i] for place, i in enumerate(by_id)} if seed is not None else {}
    chosen = []
    for label in range(k):
        members = [i for i in range(n) if clusters[i] == label]
        order = sorted(members, key=lambda i: (clock[i] if seed is not None else -scores[i], ids[i]))
        chosen += order[: quotas[label]]
    return sorted(chosen, key=lambda i: (-scores[i], ids[i]))


@pytest.mark.parametrize("seed", [None, 0, 7])
def test_the_selection_is_that_of_the_formulas(seed):
    rng = np.random.default_rng(1)
    clusters, scores = rng.integers(0, 37, 2_000), rng.choice(np.linspace(1, 36, 200), 2_000)
    ids = [f"{i:04d}" for i in rng.permutation(2_000)]
    found = select_clusters(clusters, scores, budget=211, seed=seed, ids=ids)
    assert found.indices.tolist() == reference(clusters.tolist(), scores.tolist(), 211, seed, ids)
    assert len(found.over_budget) == 2_000 - 211 and found.rejected.is_empty()


def test_draws_follow_the_scores():
    """A row with twice the score is drawn first twice as often."""
    scores = np.array([1.0, 2.0, 3.0])
    drawn = [int(select_clusters(np.zeros(3, int), scores, budget=1, seed=seed).indices[0]) for seed in range(3_000)]
    assert np.bincount(drawn) / 3_000 == pytest.approx(scores / 6, abs=0.04)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.integers(1, 400))
def test_quotas_fill_the_budget_and_are_within_one_of_the_share(sizes, budget):
    quotas, total = cluster_quotas(np.array(sizes), budget), sum(sizes)
    assert quotas.sum() == min(budget, total)
    for size, quota in zip(sizes, quotas.tolist(), strict=True):
        assert 0 <= quota <= size and abs(quota - size * min(budget, total) / max(total, 1)) < 1


@given(st.data(), st.integers(1, 30), st.integers(1, 40), st.sampled_from([None, 3]))
def test_the_result_does_not_depend_on_the_order_of_the_rows(data, n, budget, seed):
    rows = data.draw(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.0, 1.0, 2.5])), min_size=n, max_size=n))
    order = data.draw(st.permutations(range(n)))
    ids = [f"{i:02d}" for i in range(n)]

    def selected(positions):
        clusters, scores = (np.array(part) for part in zip(*(rows[i] for i in positions), strict=True))
        return select_clusters(clusters, scores, budget=budget, seed=seed, ids=[ids[i] for i in positions]).ids

    assert selected(range(n)) == selected(order) and len(selected(range(n))) == min(budget, n)


def test_a_row_without_a_score_is_rejected_and_takes_no_share():
    found = select_clusters(np.array([0, 0, 1, 1]), np.array([np.nan, 1.0, 2.0, 3.0]), budget=2)
    assert found.indices.tolist() == [3, 1] and found.rejected["id"].to_list() == ["0"]
    assert found.explain("2") == "2 was not selected: others fill its cluster's share of the budget."
    assert found.explain("1") == "1 has rank 2 (score 1) and was selected."


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"clusters": np.array([0.5, 1])}, "not one number"),
        ({"clusters": np.array([-1, 1])}, "not one number"),
        ({"clusters": np.array([1])}, "1 clusters and 2 scores"),
        ({"scores": np.array([-1.0, 1.0]), "seed": 0}, "negative"),
        ({"budget": 0}, "budget is 0"),
        ({"ids": ["a", "a"]}, "not unique"),
    ],
)
def test_arguments_that_do_not_fit_together_are_bad_usage(change, said):
    with pytest.raises(InputError, match=said):
        select_clusters(**{"clusters": np.array([0, 1]), "scores": np.array([1.0, 2.0]), "budget": 1, **change})


def planted(k=6, each=40, dim=24, noise=0.2):
    rng = np.random.default_rng(5)
    directions = np.linalg.qr(rng.normal(size=(dim, k)))[0].T
    rows = np.repeat(directions, each, axis=0) + noise / dim**0.5 * rng.normal(size=(k * each, dim))
    return (rows * rng.uniform(0.1, 9, (len(rows), 1))).astype(np.float32), np.repeat(np.arange(k), each)


def test_planted_directions_are_found_whatever_the_lengths():
    vectors, truth = planted()
    found = spherical_kmeans(vectors, 6, seed=3)
    assert len(set(zip(truth.tolist(), found.labels.tolist(), strict=True))) == 6
    assert np.linalg.norm(found.centroids, axis=1) == pytest.approx(1, abs=1e-5)
    again = spherical_kmeans(vectors, 6, seed=3)
    assert (again.labels == found.labels).all() and (again.centroids == found.centroids).all()


def test_a_result_is_a_fixed_point_and_the_best_of_its_restarts():
    vectors, _ = planted(noise=3.0)
    found = spherical_kmeans(vectors, 9, seed=0)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    means = np.stack([unit[found.labels == label].sum(axis=0) for label in range(9)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert (np.argmax(unit @ means.T, axis=1) == found.labels).all()
    assert found.cohesion == pytest.approx((unit * means[found.labels]).sum(), rel=1e-5)
    assert found.cohesion >= max(spherical_kmeans(vectors, 9, seed=s, restarts=1).cohesion for s in (0,))


def test_clusters_of_equal_rows_and_as_many_as_rows():
    same = np.ones((5, 3), np.float32)
    assert len(spherical_kmeans(same, 2).labels) == 5
    vectors, _ = planted(k=3, each=3)
    assert sorted(spherical_kmeans(vectors, 9).labels.tolist()) == list(range(9))
    for k, rows, said in ((0, same, "0 clusters"), (6, same, "6 clusters"), (1, same * 0, "5 vectors are zero")):
        with pytest.raises(InputError, match=said):
            spherical_kmeans(rows, k)
