"""MIG against a plain greedy over dense matrices, written from the paper's formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.errors import InputError
from deita_core.selection.diversity.coverage import select_coverage


def reference(labels, scores, budget, similarity=None):
    """Rows by the largest X_i . phi'(z) with X = V P, phi'(x) = 0.8 (x + 1e-6)^-0.2; the first of equal ones."""
    count = len(similarity) if similarity is not None else 1 + max((x for of in labels for x in of), default=0)
    shares = np.zeros((len(labels), count))
    for row, of_row in enumerate(labels):
        for label in of_row:
            shares[row, label] += scores[row] / len(of_row)
    if similarity is not None:
        alike = np.where(similarity >= 0.9, similarity, 0.0)
        np.fill_diagonal(alike, 1)
        shares = shares @ (alike / alike.sum(axis=0, keepdims=True))
    held, picked, left = np.zeros(count), [], list(range(len(labels)))
    while left and len(picked) < budget:
        gains = shares[left] @ (0.8 * (held + 1e-6) ** -0.2)
        # Sums of floats in another order differ in their last digits.
        best = next(row for row, gain in zip(left, gains, strict=True) if gain >= gains.max() * (1 - 1e-12))
        picked.append(best)
        left.remove(best)
        held += shares[best]
    return picked


def rows_of(n, count, seed=0):
    rng = np.random.default_rng(seed)
    labels = [rng.choice(count, rng.integers(0, 6), replace=False).tolist() for _ in range(n)]
    return labels, rng.uniform(1, 36, n)


@pytest.mark.parametrize("alike", [False, True])
def test_the_lazy_picks_are_those_of_the_plain_greedy(alike):
    labels, scores = rows_of(2_000, 80)
    similarity = None
    if alike:
        rng = np.random.default_rng(2)
        directions = np.repeat(rng.normal(size=(20, 16)), 4, axis=0) + 0.15 * rng.normal(size=(80, 16))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        similarity = directions @ directions.T
        assert 80 < (similarity >= 0.9).sum() < 80 * 80
    found = select_coverage(labels, scores, budget=150, similarity=similarity)
    assert found.indices.tolist() == reference(labels, scores, 150, similarity)
    assert found.decisions["rank"].to_list() == list(range(1, 151))


label_lists = st.lists(st.lists(st.integers(0, 5), max_size=4, unique=True), min_size=1, max_size=15)


@given(st.data(), label_lists, st.integers(1, 20))
def test_no_pick_adds_less_than_another_row_and_of_equal_rows_the_first_is_picked(data, labels, budget):
    scores = np.array(data.draw(st.lists(st.sampled_from([0.0, 1.0, 4.0]), min_size=len(labels), max_size=len(labels))))
    picked = select_coverage(labels, scores, budget=budget).indices.tolist()
    assert len(picked) == min(budget, len(labels)) == len(set(picked))
    held, shares = np.zeros(6), np.zeros((len(labels), 6))
    for row, of_row in enumerate(labels):
        shares[row, of_row] = scores[row] / max(len(of_row), 1)
    for place, row in enumerate(picked):
        left = [other for other in range(len(labels)) if other not in picked[:place]]
        gains = shares @ (0.8 * (held + 1e-6) ** -0.2)
        assert gains[row] >= gains[left].max() * (1 - 1e-12)
        assert not any(labels[other] == labels[row] and scores[other] == scores[row] for other in left if other < row)
        held += shares[row]


def test_a_new_label_beats_a_better_row_of_a_known_one():
    labels = [[0], [0], [0], [1]]
    found = select_coverage(labels, np.array([9.0, 8.0, 7.0, 2.0]), budget=2, ids=list("abcd"))
    assert found.ids == ["a", "d"]
    assert found.explain("b") == "b was not selected: others add more information about the labels."


def test_labels_that_are_alike_count_as_known():
    labels, scores = [[0], [1], [2]], np.array([9.0, 6.0, 5.5])
    similarity = np.array([[1, 0.95, 0.1], [0.95, 1, 0.1], [0.1, 0.1, 1]])
    assert select_coverage(labels, scores, budget=2).indices.tolist() == [0, 1]
    assert select_coverage(labels, scores, budget=2, similarity=similarity).indices.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": [[0]]}, "1 lists of labels and 2 scores"),
        ({"scores": np.array([-1.0, 1.0])}, "negative"),
        ({"labels": [[0], [-1]]}, "not a number from 0"),
        ({"labels": [[0], [3]], "similarity": np.eye(2)}, "not a number from 0 to 1"),
        ({"budget": 0}, "budget is 0"),
    ],
)
def test_arguments_that_do_not_fit_together_are_bad_usage(change, said):
    with pytest.raises(InputError, match=said):
        select_coverage(**{"labels": [[0], [1]], "scores": np.array([1.0, 2.0]), "budget": 1, **change})


def test_a_row_without_a_score_is_rejected():
    found = select_coverage([[0], [1]], np.array([np.nan, 1.0]), budget=2)
    assert found.indices.tolist() == [1] and found.rejected["id"].to_list() == ["0"]
