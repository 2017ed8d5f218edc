import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deita_core.selection import DiversitySelector
from deita_core.selection.threshold import count_selected, smallest_filling


def around_centres(seed, n=100, centres=12, dim=8, spread=0.4):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(centres, dim))[rng.integers(0, centres, n)] + rng.normal(size=(n, dim)) * spread
    return vectors.astype(np.float32)


def selected(vectors, threshold, budget=None):
    selector = DiversitySelector(budget, threshold, vectors.shape[1])
    selector.add_block([str(i) for i in range(len(vectors))], vectors)
    return len(selector.selected_ids)


class Source:
    """Blocks of a pool that can be read again, and how many were read."""

    def __init__(self, vectors, size):
        self.vectors, self.size, self.scans, self.blocks = vectors, size, 0, 0

    def __call__(self):
        self.scans += 1
        for start in range(0, len(self.vectors), self.size):
            self.blocks += 1
            part = self.vectors[start : start + self.size]
            yield [f"{start + i}" for i in range(len(part))], part


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1_000), st.integers(1, 90), st.sampled_from([7, 30, 100]), st.booleans(), st.integers(2, 40))
def test_the_threshold_found_fills_the_budget_and_one_step_below_does_not(seed, budget, size, known, dim):
    vectors = around_centres(seed, dim=dim)
    source = Source(vectors, size)
    found = smallest_filling(source, budget, dim, len(vectors) if known else None)
    assert selected(vectors, found.threshold, budget) == budget or found.threshold == 1.0
    if found.threshold:
        assert selected(vectors, round(found.threshold - 0.001, 3), budget) < budget
    assert (found.scans, found.blocks) == (source.scans, source.blocks)
    assert found.scans <= 2


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1_000), st.integers(2, 60))
def test_the_threshold_found_is_the_smallest_of_all_within_its_stretch(seed, budget):
    vectors = around_centres(seed, n=60)
    found = round(smallest_filling(Source(vectors, 20), budget, 8).threshold * 1_000)
    start = (found - 1) // 32 * 32
    assert all(selected(vectors, step / 1_000, budget) < budget for step in range(max(start, 0), found))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1_000), st.integers(1, 24), st.sets(st.integers(-9, 10), min_size=1, max_size=12))
def test_a_scan_for_many_thresholds_selects_as_many_as_one_for_each(seed, dim, tenths):
    vectors = around_centres(seed, dim=dim)
    vectors[5], vectors[50], vectors[70] = 0, np.nan, vectors[3]
    thresholds = [tenth / 10 for tenth in sorted(tenths)]
    expected = [selected(vectors, threshold) for threshold in thresholds]
    assert count_selected([vectors[:31], vectors[31:]], thresholds, dim) == expected
    assert count_selected([vectors], thresholds, dim) == expected


def test_pairs_exactly_at_a_threshold_are_selected():
    vectors = np.array([[1, 0], [3, 4]], np.float32)
    assert count_selected([vectors], [0.5, 0.599, 0.6, 0.7], 2) == [1, 1, 2, 2]


def test_thresholds_are_decided_in_float64():
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(40):
        frame = np.linalg.qr(rng.normal(size=(24, 2)))[0]
        cosine = rng.choice([0.5, 0.6, 0.9]) + rng.choice([-1e-7, -1e-8, 1e-8, 1e-7])
        rows += [frame[:, 0], frame @ [cosine, np.sqrt(1 - cosine**2)]]
    vectors = np.array(rows, np.float32)
    thresholds = [0.3, 0.5, 0.599, 0.6, 0.9]
    assert count_selected([vectors], thresholds, 24) == [selected(vectors, threshold) for threshold in thresholds]


def test_a_pool_of_several_thousand_is_scanned_for_many_thresholds_as_for_one():
    vectors = around_centres(1, n=4_000, centres=900, dim=64, spread=0.3)
    thresholds = [0.3, 0.5, 0.7, 0.85, 0.9, 0.92, 0.95, 0.99]
    expected = [selected(vectors, threshold) for threshold in thresholds]
    assert count_selected([vectors], thresholds, 64) == expected
    assert len(set(expected)) > 4


@pytest.mark.parametrize("n", [0, 3])
def test_one_is_the_answer_where_nothing_fills(n):
    found = smallest_filling(Source(np.ones((n, 4), np.float32), 2), 5, 4, n)
    assert found.threshold == 1.0


def test_zero_is_the_answer_where_it_fills():
    found = smallest_filling(Source(np.eye(20, dtype=np.float32), 4), 3, 20)
    assert (found.threshold, found.scans, found.blocks) == (0.0, 1, 1)


def test_a_threshold_that_cannot_fill_the_budget_any_more_ends_its_scan():
    source = Source(np.ones((1_000, 4), np.float32), 10)
    assert smallest_filling(source, 900, 4, 1_000).threshold == 1.0
    assert source.blocks < 40
