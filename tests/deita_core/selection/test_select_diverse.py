import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deita_core.errors import InputError
from deita_core.selection import rank_candidates, select_diverse
from tests.support.paths import SHARED

GOLDEN = SHARED / "golden/selection"
COLUMNS = ["id", "rank", "score", "selected", "duplicate_of", "nearest", "similarity"]
BUDGETS = st.one_of(st.none(), st.integers(1, 8))
THRESHOLDS = st.sampled_from([-0.5, 0.0, 0.5, 0.6, 0.8, 0.9, 0.95])


@st.composite
def pools(draw):
    """Vectors with copies, opposites and multiples of each other, few distinct scores, ids in any script."""
    bases = draw(st.lists(st.lists(st.integers(-4, 4), min_size=3, max_size=3), min_size=1, max_size=7))
    factor = st.sampled_from([1, 1, 1, 2, 3, -1, 0, float("nan")])
    rows = draw(st.lists(st.tuples(st.sampled_from(bases), factor), min_size=1, max_size=20))
    vectors = np.array([[x * by for x in base] for base, by in rows], np.float32).reshape(len(rows), 3)
    number = st.sampled_from([0.0, -0.0, 1.0, 1.0000000000000002, 2.0, -3.5, float("nan"), float("inf")])
    scores = np.array(draw(st.lists(number, min_size=len(rows), max_size=len(rows))), np.float64)
    ids = draw(st.lists(st.text(min_size=1, max_size=3), min_size=len(rows), max_size=len(rows), unique=True))
    return vectors, scores, ids


def in_rank_order(scores, ids):
    finite = [i for i, score in enumerate(scores) if np.isfinite(score)]
    return sorted(finite, key=lambda i: (-scores[i], ids[i]))


# -- ranking


@settings(deadline=None)
@given(pools())
def test_candidates_come_by_score_descending_then_id_ascending(pool):
    _, scores, ids = pool
    ranked = rank_candidates(pl.DataFrame({"id": ids, "score": scores}, schema={"id": pl.String, "score": pl.Float64}))
    assert ranked.candidates["position"].to_list() == in_rank_order(scores, ids)
    assert ranked.unscored["id"].to_list() == [i for i, s in zip(ids, scores, strict=True) if not np.isfinite(s)]


def test_ranking_keeps_the_other_columns():
    ranked = rank_candidates(pl.DataFrame({"id": ["a", "b"], "score": [1.0, 2.0], "quality": [5, 6]}))
    assert ranked.candidates.select("id", "quality").rows() == [("b", 6), ("a", 5)]


def test_a_missing_score_is_no_score():
    ranked = rank_candidates(pl.DataFrame({"id": ["a", "b"], "score": [None, 2.0]}))
    assert ranked.unscored.rows() == [("a", "score_not_finite")]


# -- selecting


@settings(deadline=None, max_examples=60)
@given(pools(), BUDGETS, THRESHOLDS, st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_no_bit_of_a_decision(pool, budget, threshold, random):
    vectors, scores, ids = pool
    order = list(range(len(ids)))
    random.shuffle(order)
    straight = select_diverse(vectors, scores, budget=budget, threshold=threshold, ids=ids)
    shuffled = select_diverse(
        vectors[order], scores[order], budget=budget, threshold=threshold, ids=[ids[i] for i in order]
    )
    assert straight.decisions.equals(shuffled.decisions)
    assert straight.ids == shuffled.ids
    assert sorted(straight.rejected.rows()) == sorted(shuffled.rejected.rows())


@settings(deadline=None, max_examples=60)
@given(pools(), BUDGETS, THRESHOLDS, st.data())
def test_duplicates_further_down_change_nothing_for_the_others(pool, budget, threshold, data):
    vectors, scores, ids = pool
    again = data.draw(st.lists(st.integers(0, len(ids) - 1), max_size=5, unique=True))
    alone = select_diverse(vectors, scores, budget=budget, threshold=threshold, ids=ids)
    crowded = select_diverse(
        np.concatenate([vectors, vectors[again]]),
        np.concatenate([scores, scores[again]]),
        budget=budget,
        threshold=threshold,
        ids=[*ids, *(f"{ids[i]} again" for i in again)],
    )
    columns = [name for name in COLUMNS if name != "rank"]
    assert crowded.ids == alone.ids
    assert crowded.decisions.filter(pl.col("id").is_in(ids)).select(columns).equals(alone.decisions.select(columns))


@settings(deadline=None, max_examples=60)
@given(pools(), THRESHOLDS)
def test_every_candidate_is_decided_or_rejected_with_a_reason(pool, threshold):
    vectors, scores, ids = pool
    selection = select_diverse(vectors, scores, threshold=threshold, ids=ids)
    assert sorted([*selection.decisions["id"], *selection.rejected["id"]]) == sorted(ids)
    for id_, reason in selection.rejected.rows():
        vector, score = vectors[ids.index(id_)], scores[ids.index(id_)]
        if not np.isfinite(score):
            assert reason == "score_not_finite"
        else:
            assert reason == ("vector_not_finite" if np.isnan(vector).any() else "zero_vector")
            assert np.isnan(vector).any() or not vector.any()


@settings(deadline=None, max_examples=60)
@given(pools(), BUDGETS, THRESHOLDS)
def test_a_selection_is_evidence_for_itself(pool, budget, threshold):
    vectors, scores, ids = pool
    selection = select_diverse(vectors, scores, budget=budget, threshold=threshold, ids=ids)
    assert [ids[i] for i in selection.indices] == selection.ids
    assert selection.indices.dtype == np.int64
    assert selection.decisions.columns == COLUMNS
    assert budget is None or len(selection.ids) <= budget
    kept = set()
    for id_, _, score, keeps, duplicate_of, nearest, similarity in selection.decisions.rows():
        assert score == scores[ids.index(id_)]
        assert keeps == (similarity is None or similarity <= threshold)
        assert duplicate_of == (None if keeps else nearest)
        assert (nearest is None) == (not kept)
        assert nearest is None or nearest in kept
        if keeps:
            kept.add(id_)


def test_a_selection_without_ids_names_candidates_by_their_position():
    selection = select_diverse(np.eye(12, dtype=np.float32), np.arange(12.0), budget=3)
    assert selection.ids == ["11", "10", "09"]
    assert selection.indices.tolist() == [11, 10, 9]


def test_ties_without_ids_go_to_the_first():
    assert select_diverse(np.eye(11, dtype=np.float32), np.ones(11)).indices.tolist() == list(range(11))


def test_float16_vectors_select_what_their_float32_values_do():
    vectors = np.random.default_rng(1).normal(size=(300, 6)).astype(np.float16)
    scores = np.arange(300) % 7
    half = select_diverse(vectors, scores, budget=60, threshold=0.7)
    single = select_diverse(vectors.astype(np.float32), scores, budget=60, threshold=0.7)
    assert half.decisions.equals(single.decisions)
    assert 10 < len(half.ids) < len(half.decisions)


def test_fewer_than_the_budget_is_a_result():
    selection = select_diverse(np.ones((5, 3), np.float32), np.arange(5.0), budget=3)
    assert selection.ids == ["4"]
    assert len(selection.decisions) == 5


def test_an_empty_pool_selects_nothing():
    selection = select_diverse(np.zeros((0, 3), np.float32), np.zeros(0), budget=3)
    assert selection.ids == []
    assert selection.decisions.is_empty()


def test_a_pool_of_rejects_selects_nothing_and_says_why():
    selection = select_diverse(np.array([[0, 0], [1, 0]], np.float32), np.array([1.0, np.nan]))
    assert selection.ids == []
    assert sorted(selection.rejected.rows()) == [("0", "zero_vector"), ("1", "score_not_finite")]


class Watched(np.ndarray):
    """An array that notes which rows are read."""

    def __array_finalize__(self, origin):
        self.rows_read = getattr(origin, "rows_read", None)

    def __getitem__(self, index):
        if isinstance(index, np.ndarray) and self.rows_read is not None:
            self.rows_read.extend(index.tolist())
        return super().__getitem__(index).view(np.ndarray)


def test_vectors_beyond_the_block_that_fills_the_budget_are_never_read():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30_000, 8)).astype(np.float32).view(Watched)
    vectors.rows_read = []
    scores = rng.permutation(30_000).astype(float)
    assert len(select_diverse(vectors, scores, budget=10).ids) == 10
    assert len(vectors.rows_read) == len(set(vectors.rows_read)) <= 4_096
    best = np.argsort(-scores)[: len(vectors.rows_read)]
    assert set(vectors.rows_read) == set(best.tolist())


# -- explaining


def test_every_candidate_can_be_explained():
    vectors = np.array([[1, 0], [1, 0.01], [0, 1], [-1, 0], [0, 0]], np.float32)
    scores = np.array([9.0, 8.0, 7.0, 1.0, 10.0])
    selection = select_diverse(vectors, scores, budget=2, ids=["first", "copy", "other", "late", "empty"])
    assert selection.explain("first") == "first has rank 1 (score 9) and was selected first."
    assert "is a near-duplicate of first, which ranks higher (similarity 1.0000)" in selection.explain("copy")
    assert "was selected; the most similar one above it is first (similarity 0.0000)" in selection.explain("other")
    assert selection.explain("late") == "late was not compared: the budget was full before its turn."
    assert selection.explain("empty") == "empty was rejected: zero_vector."
    assert selection.over_budget.to_list() == ["late"]
    with pytest.raises(InputError, match="no candidate nobody"):
        selection.explain("nobody")


@settings(deadline=None, max_examples=40)
@given(pools(), BUDGETS, THRESHOLDS)
def test_every_candidate_has_one_fate(pool, budget, threshold):
    vectors, scores, ids = pool
    selection = select_diverse(vectors, scores, budget=budget, threshold=threshold, ids=ids)
    fates = [*selection.decisions["id"], *selection.rejected["id"], *selection.over_budget]
    assert sorted(fates) == sorted(ids)


# -- bad usage


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vectors": np.ones((3, 2))}, "float64"),
        ({"vectors": np.ones((3, 2), np.int64)}, "int64"),
        ({"vectors": np.ones(3, np.float32)}, r"\(3,\)"),
        ({"vectors": np.ones((4, 2), np.float32)}, "4 vectors, 3 scores"),
        ({"scores": np.ones(2)}, "3 vectors, 2 scores"),
        ({"scores": np.ones((3, 2))}, "scores"),
        ({"ids": ["a", "b"]}, "2 ids"),
        ({"ids": ["a", "b", "a"]}, "not unique"),
        ({"budget": 0}, "budget is 0"),
        ({"threshold": 1.2}, "threshold is 1.2"),
        ({"threshold": float("nan")}, "threshold is nan"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arguments_that_do_not_fit_together_are_bad_usage(change, says):
    given_ = {"vectors": np.eye(3, 2, dtype=np.float32), "scores": np.ones(3), "ids": ["a", "b", "c"], **change}
    with pytest.raises(InputError, match=says):
        select_diverse(given_.pop("vectors"), given_.pop("scores"), **given_)


# -- golden values


@pytest.fixture(scope="module")
def golden():
    settings_ = pl.read_parquet(GOLDEN / "expected.parquet").select("threshold", "budget", "ids").rows()
    return pl.read_parquet(GOLDEN / "pool.parquet"), {(threshold, budget): ids for threshold, budget, ids in settings_}


@pytest.mark.realdata
@pytest.mark.skipif(not GOLDEN.exists(), reason=f"the golden selections are not at {GOLDEN}")
@pytest.mark.parametrize("budget", [500, 2_000, 6_600])
@pytest.mark.parametrize("threshold", [0.95, 0.9, 0.8, 0.7, 0.6])
def test_what_is_selected_is_what_the_original_selects(golden, threshold, budget):
    pool, expected = golden
    vectors, scores, ids = pool["vector"].to_numpy(), pool["score"].to_numpy(), pool["id"].to_list()
    selection = select_diverse(vectors, scores, budget=budget, threshold=threshold, ids=ids)
    assert len(expected) == 15
    assert selection.ids == expected[threshold, budget]
