import math
import tracemalloc
from contextlib import contextmanager, nullcontext
from itertools import cycle

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deita_core.errors import InputError
from deita_core.selection import DiversitySelector, projection, selected, selector
from tests.support.paths import SHARED

GOLDEN = SHARED / "golden/selection"
GOLDEN_THRESHOLDS = (0.95, 0.9, 0.8, 0.7, 0.6)
COLUMNS = ["id", "rank", "selected", "duplicate_of", "similarity"]


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
        rows.append((id_, len(rows) + 1, keep, None if keep else nearest, None if keep else similarity))
        if keep:
            kept.append((id_, vector))
    return rows, rejected


def plain_cosine(a, b):
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return dot / (math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(y * y for y in b)))


def names(count):
    return [f"id-{i:04d}" for i in range(count)]


def scan(vectors, budget=None, threshold=0.9, sizes=None, ids=None):
    """Add everything in blocks of the sizes given (over and over), however full the selector is."""
    ids = ids or names(len(vectors))
    chosen, frames, start = DiversitySelector(budget, threshold, vectors.shape[1]), [], 0
    sizes = sizes or [max(len(ids), 1)]
    while start < len(ids):
        end = start + sizes[len(frames) % len(sizes)]
        frames.append(chosen.add_block(ids[start:end], vectors[start:end]))
        start = end
    return chosen, pl.concat([chosen.add_block([], vectors[:0]), *frames])


@contextmanager
def always_projected(*ranks):
    """Every block fits the projection again and uses it, whatever it costs."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (projection, selected):
            patch.setattr(module, "GATHERED", 0)
        patch.setattr(projection, "RANKS", ranks)
        patch.setattr(selected, "FIT", 0)
        patch.setattr(selected, "REDUCE", 0)
        yield


def within_one(rows):
    """Rounding may put a cosine an ulp beyond 1."""
    return [(*row[:4], row[4] and min(1.0, max(-1.0, row[4]))) for row in rows]


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
        chosen, decisions = scan(vectors, budget, threshold, sizes)
    expected, _ = reference(names(len(vectors)), vectors, budget, threshold)
    assert within_one(decisions.rows()) == within_one(expected)
    assert chosen.selected_ids == [row[0] for row in expected if row[2]]


@settings(deadline=None, max_examples=120)
@given(grids(), BUDGETS, THRESHOLDS, SIZES, st.sampled_from([1, 2, 5]), st.sampled_from([(1,), (1, 2)]))
def test_a_projection_changes_no_bit_of_a_decision(vectors, budget, threshold, sizes, block, ranks):
    with always_projected(*ranks), pytest.MonkeyPatch.context() as patch:
        patch.setattr(selector, "BLOCK", block)
        chosen, decisions = scan(vectors, budget, threshold, sizes)
    expected, _ = reference(names(len(vectors)), vectors, budget, threshold)
    assert within_one(decisions.rows()) == within_one(expected)
    assert chosen.selected_ids == [row[0] for row in expected if row[2]]


@settings(deadline=None, max_examples=120)
@given(close_calls(), BUDGETS, SIZES, st.sampled_from([(), (1,), (4,), (2, 12)]))
def test_pairs_that_differ_from_the_threshold_by_rounding_are_decided_in_float64(pool, budget, sizes, ranks):
    threshold, vectors = pool
    with always_projected(*ranks) if ranks else nullcontext():
        _, decisions = scan(vectors, budget, threshold, sizes)
    expected, _ = reference(names(len(vectors)), vectors, budget, threshold)
    assert [row[:3] for row in decisions.rows()] == [row[:3] for row in expected]
    vector_of = dict(zip(names(len(vectors)), vectors.tolist(), strict=True))
    for (id_, _, _, duplicate_of, found), (*_, similarity) in zip(decisions.rows(), expected, strict=True):
        assert (found is None) == (similarity is None)
        if similarity is not None:
            assert found == pytest.approx(similarity, abs=1e-14)
            assert plain_cosine(vector_of[id_], vector_of[duplicate_of]) == pytest.approx(similarity, abs=1e-14)


@pytest.mark.parametrize(
    "kind", ["steep", "steep and long", "low rank", "one direction", "changing", "float16", "scaled"]
)
def test_a_projection_learnt_from_the_data_decides_as_full_products_do(kind):
    rng = np.random.default_rng(5)
    n, dim = 3_000, 1_500 if kind == "steep and long" else 96
    texts = rng.normal(size=(900, dim)) * np.arange(1, dim + 1) ** -0.6
    vectors = texts[rng.integers(0, 900, n)] + 0.25 * rng.normal(size=(n, dim)) * np.arange(1, dim + 1) ** -0.6
    if kind == "low rank":
        vectors[:, 5:] = 0
    elif kind == "one direction":
        vectors = 1 + 1e-3 * vectors
    elif kind == "changing":
        vectors[1_000:2_000], vectors[2_000:] = vectors[1_000:2_000, ::-1], rng.normal(size=(n - 2_000, dim))
    elif kind == "scaled":
        vectors *= 10.0 ** rng.uniform(-30, 30, (n, 1))
    vectors = vectors.astype(np.float16 if kind == "float16" else np.float32)
    _, full = scan(vectors, None, 0.9, [500])
    with always_projected(8, 16, 32):
        projected, decisions = scan(vectors, None, 0.9, [500])
    assert projected._set.rank is not None
    assert decisions.equals(full)
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    products = unit @ unit[full["selected"].to_numpy()].T
    above = np.arange(n)[:, None] > np.flatnonzero(full["selected"])
    assert ((np.where(above, products, -1).max(axis=1) <= 0.9) == full["selected"].to_numpy()).all()


@settings(deadline=None, max_examples=50)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 40), st.integers(1, 40)), elements=st.floats(-8, 8, width=16)),
    BUDGETS,
    THRESHOLDS,
    SIZES,
    st.sampled_from([1, 3, 1024]),
)
def test_the_block_size_changes_no_bit_of_a_decision(vectors, budget, threshold, sizes, block):
    whole, decisions = scan(vectors, budget, threshold)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selector, "BLOCK", block)
        parted, others = scan(vectors, budget, threshold, sizes)
    assert decisions.equals(others)
    assert whole.selected_ids == parted.selected_ids


def test_the_block_size_changes_nothing_where_vectors_are_long_and_many():
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(40, 384))
    vectors = (centres[rng.integers(0, 40, 1_500)] + rng.normal(size=(1_500, 384)) * 0.33).astype(np.float32)
    _, whole = scan(vectors, None, 0.9)
    _, parted = scan(vectors, None, 0.9, [1, 257, 3, 64])
    assert 100 < whole["selected"].sum() < 1_400
    assert whole.equals(parted)


@settings(deadline=None, max_examples=60)
@given(grids(), THRESHOLDS, st.integers(1, 12))
def test_a_budget_stops_the_scan_of_all_right_after_the_last_selected(vectors, threshold, budget):
    _, unlimited = scan(vectors, None, threshold)
    chosen, decisions = scan(vectors, budget, threshold)
    filled = unlimited.filter(pl.col("selected").cum_sum() == budget)
    assert decisions.equals(unlimited.filter(pl.col("rank") <= filled["rank"].min()) if len(filled) else unlimited)
    assert chosen.full == (len(filled) > 0)


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.float16, st.tuples(st.integers(0, 15), st.just(3)), elements=st.floats(-9, 9, width=16)))
def test_float16_vectors_are_decided_like_the_float32_vectors_of_the_same_values(vectors):
    _, half = scan(vectors, 5, 0.8)
    _, single = scan(vectors.astype(np.float32), 5, 0.8)
    assert half.equals(single)


# -- what a decision says


def test_a_near_duplicate_names_what_it_duplicates():
    _, decisions = scan(np.array([[1, 0], [0, 2], [1, 0.1]], np.float32), ids=["across", "up", "nearly across"])
    last = decisions.row(2, named=True)
    assert (last["selected"], last["duplicate_of"]) == (False, "across")
    assert last["similarity"] == pytest.approx(1 / math.hypot(1, 0.1), abs=1e-8)


def test_a_selected_sample_duplicates_nobody():
    _, decisions = scan(np.array([[1, 0], [0, 1], [3, 4]], np.float32))
    assert decisions.row(2) == ("id-0002", 3, True, None, None)


def test_a_similarity_equal_to_the_threshold_is_selected():
    vectors = np.array([[1, 0], [3, 4]], np.float32)
    assert scan(vectors, None, 0.6)[0].selected_ids == names(2)
    assert scan(vectors, None, math.nextafter(0.6, 0))[0].selected_ids == names(1)


def test_of_equally_similar_ones_the_best_ranked_is_named():
    vectors = np.array([[0, 1], [1, 0], [1, 1]], np.float32)
    for sizes in ([3], [2, 1], [1]):
        assert scan(vectors, None, 0.7, sizes)[1].row(2)[3] == "id-0000"


def test_nobody_duplicates_a_near_duplicate():
    angles = np.radians([0, 20, 40])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert scan(vectors, None, 0.9)[0].selected_ids == ["id-0000", "id-0002"]


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.float32, (6, 5), elements=st.floats(-1, 1, width=32)))
def test_a_threshold_of_one_selects_every_finite_nonzero_vector(vectors):
    chosen, _ = scan(np.concatenate([vectors, vectors]), None, 1.0)
    assert len(chosen.selected_ids) + len(chosen.rejected) == 12


# -- vectors that are zero or not finite


@settings(deadline=None, max_examples=60)
@given(grids(), THRESHOLDS, SIZES)
def test_a_vector_that_is_zero_or_not_finite_is_rejected_and_never_ranked(vectors, threshold, sizes):
    chosen, decisions = scan(vectors, None, threshold, sizes)
    _, expected = reference(names(len(vectors)), vectors, None, threshold)
    assert chosen.rejected["id"].to_list() == expected
    assert sorted([*decisions["id"], *expected]) == names(len(vectors))


def test_a_rejected_vector_has_its_reason():
    chosen, decisions = scan(np.array([[0, 0], [np.nan, 1], [1, np.inf], [0, 1]], np.float32))
    assert [reason for _, reason in chosen.rejected.rows()] == ["zero_vector", "vector_not_finite", "vector_not_finite"]
    assert decisions.rows() == [("id-0003", 1, True, None, None)]


def test_the_largest_and_the_smallest_vectors_are_decided():
    vectors = np.array([[3e38, 3e38], [1e-45, 1e-45], [-3e38, 3e38], [1e-45, 0]], np.float32)
    chosen, decisions = scan(vectors)
    assert chosen.rejected.is_empty()
    assert decisions["duplicate_of"].to_list() == [None, "id-0000", None, None]


@settings(deadline=None, max_examples=50)
@given(grids(), st.integers(1, 4), THRESHOLDS, SIZES)
def test_no_vector_beyond_the_one_that_fills_the_budget_is_judged(vectors, budget, threshold, sizes):
    chosen, _ = scan(vectors, budget, threshold, sizes)
    _, expected = reference(names(len(vectors)), vectors, budget, threshold)
    assert chosen.rejected["id"].to_list() == expected


# -- the scan


def test_after_the_budget_is_full_nobody_gets_a_decision():
    chosen = DiversitySelector(2, 0.9, 3)
    assert chosen.add_block(["a", "b", "c"], np.eye(3, dtype=np.float32))["id"].to_list() == ["a", "b"]
    assert chosen.full
    assert chosen.add_block(["d"], -np.eye(3, dtype=np.float32)[:1]).is_empty()
    assert chosen.selected_ids == ["a", "b"]


def test_a_block_of_nobody_is_a_frame_of_no_decisions():
    nobody = DiversitySelector(None, 0.9, 3).add_block([], np.zeros((0, 3), np.float32))
    assert nobody.columns == COLUMNS
    assert nobody.is_empty()


def test_without_a_budget_the_scan_is_never_full():
    chosen, _ = scan(np.eye(5, dtype=np.float32))
    assert chosen.selected_ids == names(5)
    assert not chosen.full


def test_ranks_go_on_from_block_to_block():
    _, decisions = scan(np.eye(5, dtype=np.float32), sizes=[2])
    assert decisions["rank"].to_list() == [1, 2, 3, 4, 5]


def test_the_ids_selected_so_far_are_a_copy():
    chosen, _ = scan(np.eye(2, dtype=np.float32))
    chosen.selected_ids.clear()
    assert chosen.selected_ids == names(2)


def test_vectors_added_may_be_overwritten_afterwards():
    chosen, block = DiversitySelector(None, 0.9, 2), np.array([[1, 0]], np.float32)
    chosen.add_block(["a"], block)
    block[:] = [[0, 1]]
    assert chosen.add_block(["b"], block)["selected"].to_list() == [True]


def test_memory_does_not_grow_with_near_duplicates():
    def peak(blocks):
        rng = np.random.default_rng(0)
        chosen = DiversitySelector(None, 0.9, 64)
        tracemalloc.start()
        for number in range(blocks):
            vectors = (1 + rng.normal(size=(200, 64)) * 0.01).astype(np.float32)
            chosen.add_block([f"{number}-{i}" for i in range(200)], vectors)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(chosen.selected_ids) == 1
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
        DiversitySelector(None, 0.9, 3).add_block(["a", "b"], np.ones(shape, np.float32))


# -- golden values


@pytest.fixture(scope="module")
def pool():
    """The golden pool in rank order, and the ids that the original selects for each threshold and budget."""
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
def test_any_blocks_select_what_the_original_selects(pool, threshold, budget, sizes):
    ids, vectors, expected = pool
    chosen, start = DiversitySelector(budget, threshold, vectors.shape[1]), 0
    for size in cycle(sizes):
        if start >= len(ids) or chosen.full:
            break
        chosen.add_block(ids[start : start + size], vectors[start : start + size])
        start += size
    assert chosen.selected_ids == expected[threshold, budget]
