import math
import tracemalloc
from itertools import cycle
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deita_core.errors import InputError
from deita_core.selection import DiversitySelector, selector

GOLDEN = Path(__file__).resolve().parents[4] / "shared/golden/selection"
GOLDEN_THRESHOLDS = (0.95, 0.9, 0.8, 0.7, 0.6)
COLUMNS = ["id", "rank", "selected", "duplicate_of", "nearest", "similarity"]


def reference(ids, vectors, budget, threshold):
    """The plain filter: one candidate after the other, each kept one in turn, in Python's own float64."""
    kept, rows, rejected = [], [], []
    for id_, vector in zip(ids, vectors.astype(np.float32).tolist(), strict=True):
        if budget is not None and len(kept) == budget:
            break
        if not all(map(math.isfinite, vector)) or not any(vector):
            rejected.append(id_)
            continue
        nearest = similarity = None
        for other_id, other in kept:
            cosine = plain_cosine(vector, other)
            if similarity is None or cosine > similarity:
                nearest, similarity = other_id, cosine
        keep = similarity is None or similarity <= threshold
        rows.append((id_, len(rows) + 1, keep, None if keep else nearest, nearest, similarity))
        if keep:
            kept.append((id_, vector))
    return rows, rejected


def plain_cosine(a, b):
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return dot / (math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(y * y for y in b)))


def names(count):
    return [f"id-{i:04d}" for i in range(count)]


def walk(vectors, budget=None, threshold=0.9, sizes=None, ids=None):
    """Offer everything in blocks of the sizes given (over and over), however full the selector is."""
    ids = ids or names(len(vectors))
    chosen, frames, start = DiversitySelector(budget, threshold, vectors.shape[1]), [], 0
    sizes = sizes or [max(len(ids), 1)]
    while start < len(ids):
        end = start + sizes[len(frames) % len(sizes)]
        frames.append(chosen.offer(ids[start:end], vectors[start:end]))
        start = end
    return chosen, pl.concat([chosen.offer([], vectors[:0]), *frames])


def within_one(rows):
    """Rounding may put a cosine an ulp beyond 1."""
    return [(*row[:5], row[5] and min(1.0, max(-1.0, row[5]))) for row in rows]


@st.composite
def grids(draw):
    """Small whole numbers, some repeated, negated, scaled, zero or not finite: every sum of theirs is exact."""
    dim = draw(st.integers(1, 4))
    bases = draw(st.lists(st.lists(st.integers(-4, 4), min_size=dim, max_size=dim), min_size=1, max_size=8))
    factors = st.sampled_from([1, 1, 1, 2, 3, -1, 0.5, -4, 0, 1024])
    rows = draw(st.lists(st.tuples(st.sampled_from(bases), factors), max_size=25))
    vectors = np.array([[x * factor for x in base] for base, factor in rows], np.float32).reshape(len(rows), dim)
    for row in draw(st.lists(st.integers(0, max(len(rows) - 1, 0)), max_size=2 if rows else 0)):
        vectors[row, draw(st.integers(0, dim - 1))] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    return vectors


@st.composite
def close_calls(draw):
    """Random directions and, beside each, copies turned by almost exactly the threshold's angle."""
    threshold = draw(st.sampled_from([0.6, 0.9, 0.95]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dim, rows = draw(st.integers(2, 24)), []
    for _ in range(draw(st.integers(1, 6))):
        frame, _ = np.linalg.qr(rng.normal(size=(dim, 2)))
        for offset in draw(st.lists(st.sampled_from([-1e-5, -1e-6, -1e-7, 1e-8, 1e-7, 1e-6, 1e-5]), max_size=4)):
            cosine = threshold + offset
            turned = frame @ np.array([cosine, math.sqrt(1 - cosine * cosine)])
            rows += [frame[:, 0] * rng.uniform(0.1, 10), turned * rng.uniform(0.1, 10)]
    vectors = np.array(rows, np.float32).reshape(len(rows), dim)
    return threshold, vectors[rng.permutation(len(rows))]


THRESHOLDS = st.sampled_from([-0.5, 0.0, 0.5, 0.6, 0.8, 0.9, 0.95, 0.999])
BUDGETS = st.one_of(st.none(), st.integers(1, 12))
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=5)


# -- the decisions


@settings(deadline=None, max_examples=120)
@given(grids(), BUDGETS, THRESHOLDS, SIZES, st.sampled_from([1, 2, 5, 1024]))
def test_every_decision_is_that_of_the_plain_filter_to_the_last_bit(vectors, budget, threshold, sizes, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selector, "BLOCK", block)
        chosen, decisions = walk(vectors, budget, threshold, sizes)
    expected, _ = reference(names(len(vectors)), vectors, budget, threshold)
    assert within_one(decisions.rows()) == within_one(expected)
    assert chosen.kept_ids == [row[0] for row in expected if row[2]]


@settings(deadline=None, max_examples=60)
@given(close_calls(), BUDGETS, SIZES)
def test_pairs_that_differ_from_the_threshold_by_rounding_are_decided_in_float64(pool, budget, sizes):
    threshold, vectors = pool
    _, decisions = walk(vectors, budget, threshold, sizes)
    expected, _ = reference(names(len(vectors)), vectors, budget, threshold)
    assert [row[:3] for row in decisions.rows()] == [row[:3] for row in expected]
    vector_of = dict(zip(names(len(vectors)), vectors.tolist(), strict=True))
    for (id_, _, _, _, nearest, found), (*_, similarity) in zip(decisions.rows(), expected, strict=True):
        if similarity is not None:
            assert found == pytest.approx(similarity, abs=1e-14)
            assert plain_cosine(vector_of[id_], vector_of[nearest]) == pytest.approx(similarity, abs=1e-14)


@settings(deadline=None, max_examples=50)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 40), st.integers(1, 40)), elements=st.floats(-8, 8, width=16)),
    BUDGETS,
    THRESHOLDS,
    SIZES,
    st.sampled_from([1, 3, 1024]),
)
def test_the_block_size_changes_no_bit_of_a_decision(vectors, budget, threshold, sizes, block):
    whole, decisions = walk(vectors, budget, threshold)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selector, "BLOCK", block)
        parted, others = walk(vectors, budget, threshold, sizes)
    assert decisions.equals(others)
    assert whole.kept_ids == parted.kept_ids


def test_the_block_size_changes_nothing_where_vectors_are_long_and_many():
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(40, 384))
    vectors = (centres[rng.integers(0, 40, 1_500)] + rng.normal(size=(1_500, 384)) * 0.33).astype(np.float32)
    _, whole = walk(vectors, None, 0.9)
    _, parted = walk(vectors, None, 0.9, [1, 257, 3, 64])
    assert 100 < whole["selected"].sum() < 1_400
    assert whole.equals(parted)


@settings(deadline=None, max_examples=60)
@given(grids(), THRESHOLDS, st.integers(1, 12))
def test_a_budget_stops_the_walk_of_all_right_after_the_last_kept(vectors, threshold, budget):
    _, unlimited = walk(vectors, None, threshold)
    chosen, decisions = walk(vectors, budget, threshold)
    filled = unlimited.filter(pl.col("selected").cum_sum() == budget)
    assert decisions.equals(unlimited.filter(pl.col("rank") <= filled["rank"].min()) if len(filled) else unlimited)
    assert chosen.full == (len(filled) > 0)


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.float16, st.tuples(st.integers(0, 15), st.just(3)), elements=st.floats(-9, 9, width=16)))
def test_float16_vectors_are_decided_like_the_float32_vectors_of_the_same_values(vectors):
    _, half = walk(vectors, 5, 0.8)
    _, single = walk(vectors.astype(np.float32), 5, 0.8)
    assert half.equals(single)


# -- what a decision says


def test_a_blocked_sample_names_its_blocker():
    _, decisions = walk(np.array([[1, 0], [0, 2], [1, 0.1]], np.float32), ids=["across", "up", "nearly across"])
    last = decisions.row(2, named=True)
    assert (last["selected"], last["duplicate_of"], last["nearest"]) == (False, "across", "across")
    assert last["similarity"] == pytest.approx(1 / math.hypot(1, 0.1), abs=1e-8)


def test_a_kept_sample_names_the_nearest_kept_before_it():
    _, decisions = walk(np.array([[1, 0], [0, 1], [3, 4]], np.float32))
    assert decisions.row(2) == ("id-0002", 3, True, None, "id-0001", 0.8)


def test_the_first_sample_has_nothing_near_it():
    _, decisions = walk(np.array([[3, 4]], np.float32))
    assert decisions.rows() == [("id-0000", 1, True, None, None, None)]


def test_a_similarity_equal_to_the_threshold_is_kept():
    vectors = np.array([[1, 0], [3, 4]], np.float32)
    assert walk(vectors, None, 0.6)[0].kept_ids == names(2)
    assert walk(vectors, None, math.nextafter(0.6, 0))[0].kept_ids == names(1)


def test_of_equally_near_ones_the_first_kept_is_the_blocker():
    vectors = np.array([[0, 1], [1, 0], [1, 1]], np.float32)
    for sizes in ([3], [2, 1], [1]):
        assert walk(vectors, None, 0.7, sizes)[1].row(2)[3] == "id-0000"


def test_a_blocked_sample_blocks_nobody():
    angles = np.radians([0, 20, 40])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert walk(vectors, None, 0.9)[0].kept_ids == ["id-0000", "id-0002"]


def test_the_opposite_of_a_kept_sample_is_as_unlike_it_as_can_be():
    _, decisions = walk(np.array([[1, 2], [-1, -2]], np.float32), None, 0.0)
    assert decisions["selected"].to_list() == [True, True]
    assert decisions["similarity"][1] == pytest.approx(-1)


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.float32, (6, 5), elements=st.floats(-1, 1, width=32)))
def test_a_threshold_of_one_keeps_every_vector_with_a_direction(vectors):
    chosen, _ = walk(np.concatenate([vectors, vectors]), None, 1.0)
    assert len(chosen.kept_ids) + len(chosen.rejected) == 12


# -- vectors without a direction


@settings(deadline=None, max_examples=60)
@given(grids(), THRESHOLDS, SIZES)
def test_a_vector_without_a_direction_is_rejected_and_never_ranked(vectors, threshold, sizes):
    chosen, decisions = walk(vectors, None, threshold, sizes)
    _, expected = reference(names(len(vectors)), vectors, None, threshold)
    assert chosen.rejected["id"].to_list() == expected
    assert sorted([*decisions["id"], *expected]) == names(len(vectors))


def test_a_rejected_vector_has_its_reason():
    chosen, decisions = walk(np.array([[0, 0], [np.nan, 1], [1, np.inf], [0, 1]], np.float32))
    assert [reason for _, reason in chosen.rejected.rows()] == ["zero_vector", "vector_not_finite", "vector_not_finite"]
    assert decisions.rows() == [("id-0003", 1, True, None, None, None)]


def test_the_largest_and_the_smallest_vectors_have_a_direction():
    vectors = np.array([[3e38, 3e38], [1e-45, 1e-45], [-3e38, 3e38], [1e-45, 0]], np.float32)
    chosen, decisions = walk(vectors)
    assert chosen.rejected.is_empty()
    assert decisions["duplicate_of"].to_list() == [None, "id-0000", None, None]


@settings(deadline=None, max_examples=50)
@given(grids(), st.integers(1, 4), THRESHOLDS, SIZES)
def test_no_vector_beyond_the_one_that_fills_the_budget_is_judged(vectors, budget, threshold, sizes):
    chosen, _ = walk(vectors, budget, threshold, sizes)
    _, expected = reference(names(len(vectors)), vectors, budget, threshold)
    assert chosen.rejected["id"].to_list() == expected


# -- the walk


def test_after_the_budget_is_full_nobody_gets_a_decision():
    chosen = DiversitySelector(2, 0.9, 3)
    assert chosen.offer(["a", "b", "c"], np.eye(3, dtype=np.float32))["id"].to_list() == ["a", "b"]
    assert chosen.full
    assert chosen.offer(["d"], -np.eye(3, dtype=np.float32)[:1]).is_empty()
    assert chosen.kept_ids == ["a", "b"]


def test_an_offer_of_nobody_is_a_frame_of_no_decisions():
    nobody = DiversitySelector(None, 0.9, 3).offer([], np.zeros((0, 3), np.float32))
    assert nobody.columns == COLUMNS
    assert nobody.is_empty()


def test_without_a_budget_the_walk_is_never_full():
    chosen, _ = walk(np.eye(5, dtype=np.float32))
    assert chosen.kept_ids == names(5)
    assert not chosen.full


def test_ranks_go_on_from_block_to_block():
    _, decisions = walk(np.eye(5, dtype=np.float32), sizes=[2])
    assert decisions["rank"].to_list() == [1, 2, 3, 4, 5]


def test_the_ids_kept_so_far_are_a_copy():
    chosen, _ = walk(np.eye(2, dtype=np.float32))
    chosen.kept_ids.clear()
    assert chosen.kept_ids == names(2)


def test_vectors_offered_may_be_overwritten_afterwards():
    chosen, block = DiversitySelector(None, 0.9, 2), np.array([[1, 0]], np.float32)
    chosen.offer(["a"], block)
    block[:] = [[0, 1]]
    assert chosen.offer(["b"], block)["selected"].to_list() == [True]


def test_memory_does_not_grow_with_what_is_passed_over():
    def peak(blocks):
        rng = np.random.default_rng(0)
        chosen = DiversitySelector(None, 0.9, 64)
        tracemalloc.start()
        for number in range(blocks):
            vectors = (1 + rng.normal(size=(200, 64)) * 0.01).astype(np.float32)
            chosen.offer([f"{number}-{i}" for i in range(200)], vectors)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(chosen.kept_ids) == 1
        return most

    assert peak(8) < peak(2) * 1.2


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_below_one_is_bad_usage(budget):
    with pytest.raises(InputError, match=f"budget is {budget}"):
        DiversitySelector(budget, 0.9, 3)


@pytest.mark.parametrize("threshold", [-1.001, 1.5, 90, float("nan"), float("inf")])
def test_a_threshold_that_is_no_cosine_is_bad_usage(threshold):
    with pytest.raises(InputError, match=f"threshold is {threshold}"):
        DiversitySelector(None, threshold, 3)


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (2,), (2, 3, 1)])
def test_vectors_that_do_not_fit_their_ids_are_bad_usage(shape):
    with pytest.raises(InputError, match="2 ids of 3 dimensions"):
        DiversitySelector(None, 0.9, 3).offer(["a", "b"], np.ones(shape, np.float32))


# -- golden values


@pytest.fixture(scope="module")
def pool():
    """The golden pool in walking order, and the ids that the original keeps for each threshold and budget."""
    rows = pl.read_parquet(GOLDEN / "pool.parquet").sort(["score", "id"], descending=[True, False])
    settings_ = pl.read_parquet(GOLDEN / "expected.parquet").select("threshold", "budget", "ids").rows()
    kept = {(threshold, budget): ids for threshold, budget, ids in settings_}
    return rows["id"].to_list(), np.ascontiguousarray(rows["vector"].to_numpy()), kept


@pytest.mark.realdata
@pytest.mark.skipif(not GOLDEN.exists(), reason=f"the golden selections are not at {GOLDEN}")
@pytest.mark.parametrize(
    ("threshold", "budget", "sizes"),
    [
        *((threshold, budget, [1, 7, 1_000]) for threshold in GOLDEN_THRESHOLDS for budget in (500, 2_000, 6_600)),
        *((threshold, 500, [size]) for threshold in GOLDEN_THRESHOLDS for size in (1, 7)),
    ],
    ids=str,
)
def test_any_blocks_keep_what_the_original_keeps(pool, threshold, budget, sizes):
    ids, vectors, expected = pool
    chosen, start = DiversitySelector(budget, threshold, vectors.shape[1]), 0
    for size in cycle(sizes):
        if start >= len(ids) or chosen.full:
            break
        chosen.offer(ids[start : start + size], vectors[start : start + size])
        start += size
    assert chosen.kept_ids == expected[threshold, budget]
