"""RDS+ against loops written from the paper: likeness is the highest cosine, and tasks take turns."""

import numpy as np
import pytest

from deita_core.errors import InputError
from deita_core.selection import rank_candidates
from deita_core.selection.orders.target import target_order, task_likeness


def reference(ids, vectors, examples, task, budget):
    """Rows in the order taken: task 0, task 1, ..., task 0 again; each takes the highest cosine, ties by id."""
    likeness = np.zeros((len(vectors), max(task) + 1))
    for row, vector in enumerate(vectors):
        for number in range(max(task) + 1):
            queries = [query for query, of in zip(examples, task, strict=True) if of == number]
            likeness[row, number] = max(
                float(vector @ query / np.linalg.norm(vector) / np.linalg.norm(query)) for query in queries
            )
    left, picked = set(range(len(ids))), []
    while len(picked) < budget:
        number = len(picked) % likeness.shape[1]
        best = min(left, key=lambda row: (-likeness[row, number], ids[row]))
        picked.append((ids[best], number))
        left.remove(best)
    return picked


def drawn(n, m, tasks, seed=0):
    rng = np.random.default_rng(seed)
    ids = [f"{i:05d}" for i in rng.permutation(n)]
    vectors, examples = (rng.normal(size=(size, 16)).astype(np.float32) for size in (n, m))
    return ids, vectors, examples, np.arange(m) % tasks


@pytest.mark.parametrize("tasks", [1, 3])
def test_the_rows_chosen_of_2000_are_those_of_the_formula(tasks):
    ids, vectors, examples, task = drawn(2_000, 12, tasks)
    found = target_order(ids, task_likeness(vectors, examples, task))
    ranked = rank_candidates(found).candidates.head(200)
    expected = reference(ids, vectors, examples, task, 200)
    assert ranked.select("id", "task").rows() == expected
    assert found["score"].max() == 6 and found["score"].min() == 1


def test_of_equally_alike_rows_the_smaller_id_is_taken_first():
    vectors = np.ones((4, 3), np.float32)
    found = target_order(["d", "b", "a", "c"], task_likeness(vectors, vectors[:2], np.array([0, 1])))
    assert rank_candidates(found).candidates.select("id", "task").rows() == [("a", 0), ("b", 1), ("c", 0), ("d", 1)]


def test_a_weight_mixes_quantiles_of_the_evol_score_and_of_the_likeness():
    ids, vectors, examples, task = drawn(50, 4, 1, seed=1)
    likeness, evol = task_likeness(vectors, examples, task), np.random.default_rng(2).uniform(1, 36, 50)

    def quantiles(values):
        return {i: sum(other < values[i] for other in values) / 49 for i in range(50)}

    e, q = quantiles(evol), quantiles(likeness[:, 0])
    for weight in (0.0, 0.3, 1.0):
        mixed = sorted(range(50), key=lambda i: (-round((1 - weight) * e[i] + weight * q[i], 9), ids[i]))
        found = rank_candidates(target_order(ids, likeness, evol, weight)).candidates["id"].to_list()
        assert found == [ids[i] for i in mixed]


def test_a_row_without_a_vector_or_a_needed_score_has_no_place():
    vectors = np.array([[1, 0], [0, 0], [0, 1], [np.nan, 1]], np.float32)
    likeness = task_likeness(vectors, vectors[:1], np.array([0]))
    evol = np.array([np.nan, 1, 2, 3])
    assert target_order(list("abcd"), likeness)["score"].to_list() == [6, None, 1, None]
    assert target_order(list("abcd"), likeness, evol)["score"].to_list() == [6, None, 1, None]
    assert target_order(list("abcd"), likeness, evol, 0.5)["score"].to_list() == [None, None, 6, None]


def test_an_example_without_a_vector_is_an_error():
    with pytest.raises(InputError, match="1 examples have no valid vector"):
        task_likeness(np.ones((1, 2), np.float32), np.zeros((1, 2), np.float32), np.array([0]))
