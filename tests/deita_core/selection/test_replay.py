from bisect import bisect_left

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deita_core.errors import InputError
from deita_core.selection import DiversitySelector, replay, selector
from deita_core.selection.carried import out_of_order

NOBODY = pl.DataFrame(schema={"id": pl.String, "selected": pl.Boolean, "nearest": pl.String, "similarity": pl.Float64})
THRESHOLDS = st.sampled_from([1.0, 0.999, 0.95, 0.9, 0.8, 0.6, 0.5, 0.0, -1.0])
BUDGETS = st.one_of(st.none(), st.integers(1, 25))


class Pool:
    """A pool that changes: vectors and scores by id, and how often its vectors were asked for."""

    def __init__(self, dim, dtype=np.float32):
        self.dim, self.dtype, self.vectors, self.scores, self.asked = dim, dtype, {}, {}, []

    def add(self, vector, score, name=None):
        name = name or f"id-{len(self.scores):05d}"
        self.vectors[name], self.scores[name] = np.asarray(vector, self.dtype), float(score)

    def remove(self, name):
        del self.vectors[name], self.scores[name]

    @property
    def ids(self):
        return sorted(self.scores, key=lambda name: (-self.scores[name], name))

    def vectors_of(self, ids):
        self.asked += list(ids)
        return np.array([self.vectors[name] for name in ids], self.dtype).reshape(len(ids), self.dim)

    def scratch(self, budget, threshold):
        chosen = DiversitySelector(budget, threshold, self.dim)
        decisions = chosen.offer(self.ids, self.vectors_of(self.ids))
        self.asked.clear()
        return decisions, chosen.rejected

    def replay(self, before, budget, threshold, changed=()):
        before = before.select(NOBODY.columns)
        return replay.replay(
            self.ids, before, self.vectors_of, budget=budget, threshold=threshold, dim=self.dim, changed=changed
        )


def assert_as_from_scratch(pool, found, budget, threshold):
    decisions, rejected = pool.scratch(budget, threshold)
    assert found.decisions.schema == decisions.schema
    assert found.decisions.equals(decisions)
    assert found.rejected.equals(rejected)


def clustered(count, kinds, dim=16, noise=0.2, seed=0):
    """Vectors around a few centres, in a random order of scores."""
    rng = np.random.default_rng(seed)
    pool, centres = Pool(dim), rng.normal(size=(kinds, dim))
    for row in range(count):
        pool.add(centres[rng.integers(kinds)] + noise * rng.normal(size=dim), rng.uniform(), f"id-{row:05d}")
    return pool


# -- the decisions are those of a walk from scratch


@st.composite
def walks(draw):
    """A random pool and how it changes: a seed, the vectors' kind, and for each snapshot budget and threshold."""
    seed, dim = draw(st.integers(0, 2**32)), draw(st.integers(1, 6))
    dtype = draw(st.sampled_from([np.float32, np.float32, np.float16]))
    snapshots = draw(st.lists(st.tuples(BUDGETS, THRESHOLDS, st.integers(0, 12)), min_size=2, max_size=5))
    if draw(st.booleans()):
        snapshots = [(snapshots[0][0], snapshots[0][1], change) for *_, change in snapshots]
    return seed, dim, dtype, draw(st.integers(0, 80)), snapshots


def some_vector(rng, bases):
    """Near one of a few points of a grid, or just on it: exact copies, multiples, ties, and a few without direction."""
    base = bases[rng.integers(len(bases))]
    kind = rng.uniform()
    if kind < 0.04:
        return base * rng.choice([0, np.nan, np.inf])
    if kind < 0.5:
        return base * rng.choice([0.5, 1, 2, 64])
    return base + rng.choice([1e-7, 1e-4, 0.1, 0.5]) * rng.normal(size=len(base))


def change(pool, rng, bases, additions, everything):
    """Add, remove, score anew and encode anew; returns the ids with another vector."""
    for row in range(additions):
        pool.add(some_vector(rng, bases), rng.integers(40), f"{rng.integers(10**6):06d}-{row}")
    encoded = []
    for name in list(pool.scores) * everything:
        fate = rng.uniform()
        if fate < 0.05:
            pool.remove(name)
        elif fate < 0.1:
            pool.scores[name] = float(rng.integers(40))
        elif fate < 0.12:
            pool.vectors[name] = np.asarray(some_vector(rng, bases), pool.dtype)
            encoded.append(name)
    return encoded


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
@settings(deadline=None, max_examples=150)
@given(
    walks(), st.sampled_from([(1, 1), (3, 2), (7, 3), (16_384, 1), (16_384, 1_024)]), st.sampled_from([1, 3]), st.data()
)
def test_every_snapshot_of_a_changing_pool_is_decided_as_from_scratch_to_the_last_bit(walk, sizes, attempts, data):
    seed, dim, dtype, first, snapshots = walk
    rng = np.random.default_rng(seed)
    bases = rng.integers(-3, 4, size=(data.draw(st.integers(1, 10)), dim)).astype(np.float64)
    pool, before = Pool(dim, dtype), NOBODY
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "BLOCK", sizes[0])
        patch.setattr(replay, "WHOLE", sizes[1])
        patch.setattr(replay, "SHORTEST", sizes[1])
        patch.setattr(replay, "ATTEMPTS", attempts)
        patch.setattr(selector, "TILE", data.draw(st.sampled_from([2, 2_048])))
        for number, (budget, threshold, additions) in enumerate(snapshots):
            encoded = change(pool, rng, bases, additions if number else first, everything=number > 0)
            found = pool.replay(before, budget, threshold, set(encoded) & set(before["id"]))
            assert_as_from_scratch(pool, found, budget, threshold)
            before = found.decisions


@pytest.mark.parametrize("threshold", [0.9, 0.7])
@pytest.mark.parametrize("budget", [None, 150])
def test_a_longer_pool_is_decided_as_from_scratch_after_additions_removals_and_new_scores(budget, threshold):
    rng, pool = np.random.default_rng(4), clustered(3_000, 250)
    before, _ = pool.scratch(budget, threshold)
    for name in list(pool.scores)[::100]:
        pool.remove(name)
    for name in list(pool.scores)[50::100]:
        pool.scores[name] = rng.uniform()
    for row in range(40):
        pool.add(pool.vectors["id-00001"] + rng.normal(size=16), rng.uniform(), f"new-{row}")
    found = pool.replay(before, budget, threshold)
    assert_as_from_scratch(pool, found, budget, threshold)
    assert found.work.examined < len(before) / 4


@pytest.mark.parametrize(("budget", "threshold"), [(None, 0.6), (None, 0.95), (20, 0.9), (400, 0.9), (None, 1.0)])
def test_another_budget_or_threshold_is_decided_as_from_scratch(budget, threshold):
    pool = clustered(2_000, 300)
    before, _ = pool.scratch(100, 0.9)
    assert_as_from_scratch(pool, pool.replay(before, budget, threshold), budget, threshold)
    before, _ = pool.scratch(None, 0.9)
    assert_as_from_scratch(pool, pool.replay(before, budget, threshold), budget, threshold)


def test_without_a_walk_before_everything_is_compared():
    pool = clustered(500, 40)
    found = pool.replay(NOBODY, None, 0.9)
    assert_as_from_scratch(pool, found, None, 0.9)
    assert found.work.examined == found.work.walked == 500


def test_of_nobody_nothing_is_decided():
    before, _ = clustered(20, 5).scratch(None, 0.9)
    found = Pool(16).replay(before, 5, 0.9)
    assert_as_from_scratch(Pool(16), found, 5, 0.9)


def test_of_equally_near_ones_the_first_in_the_new_order_is_named():
    pool = Pool(2)
    for name, vector, score in [("a", [0, 1], 9), ("b", [1, 0], 8), ("between", [1, 1], 7)]:
        pool.add(vector, score, name)
    before, _ = pool.scratch(None, 0.7)
    assert before["duplicate_of"][2] == "a"
    pool.scores["a"] = 7.5
    after = pool.replay(before, None, 0.7).decisions
    assert after["duplicate_of"][2] == "b"
    pool.add([2, 0], 10, "as b")
    found = pool.replay(after, None, 0.7).decisions
    assert found.select("id", "duplicate_of").rows() == [
        ("as b", None),
        ("b", "as b"),
        ("a", None),
        ("between", "as b"),
    ]


def test_what_was_blocked_by_a_removed_one_is_judged_anew():
    pool = Pool(2)
    for name, vector, score in [("first", [1, 0], 9), ("copy", [1, 0], 8), ("of both", [1, 0.01], 7)]:
        pool.add(vector, score, name)
    before, _ = pool.scratch(None, 0.9)
    pool.remove("first")
    found = pool.replay(before, None, 0.9)
    assert found.decisions["selected"].to_list() == [True, False]
    assert found.decisions["duplicate_of"].to_list() == [None, "copy"]


def test_a_blocker_at_an_obtuse_angle_rules_nothing_out():
    pool = Pool(2)
    pool.add([1, 0], 9, "east")
    pool.add([-0.3, 1], 7, "north, a little west")
    before, _ = pool.scratch(None, -1.0)
    pool.add([-1, 0], 8, "west")
    found = pool.replay(before, None, -1.0)
    assert found.decisions["nearest"].to_list() == [None, "east", "west"]
    assert_as_from_scratch(pool, found, None, -1.0)


# -- the work grows with the change


def counted(count):
    """Work of a fixed change of a pool of `count`, and how many pairs a walk from scratch compares."""
    pool = clustered(count, count // 4, dim=24)
    before, _ = pool.scratch(None, 0.9)
    fresh, rng = clustered(20, count // 4, dim=24, seed=5), np.random.default_rng(1)
    for name in rng.permutation(before["id"].to_numpy())[:20]:
        pool.remove(name)
    for name in rng.permutation(np.array(pool.ids))[:20]:
        pool.scores[name] = rng.uniform()
    for name in fresh.ids:
        pool.add(fresh.vectors[name], fresh.scores[name], f"new-{name}")
    work = pool.replay(before, None, 0.9).work
    decisions, _ = pool.scratch(None, 0.9)
    return work, int((decisions["selected"].cum_sum()).sum())


def test_the_work_grows_with_the_change_and_not_with_the_pool():
    (small, _), (large, from_scratch) = counted(1_500), counted(6_000)
    assert large.walked > 3.9 * small.walked
    assert 60 <= large.examined < 1.5 * small.examined < 600
    assert large.compared < from_scratch / 10


def test_those_that_a_fallen_one_blocked_go_to_its_better_without_a_look_at_all_the_others(monkeypatch):
    monkeypatch.setattr(replay, "BLOCK", 256)
    pool = clustered(4_000, 400, dim=24)
    before, _ = pool.scratch(None, 0.9)
    [(leader, blocked)] = before["duplicate_of"].drop_nulls().value_counts(sort=True).head(1).rows()
    pool.add(pool.vectors[leader], 2, "better")
    found = pool.replay(before, None, 0.9)
    assert_as_from_scratch(pool, found, None, 0.9)
    assert blocked > 20 and found.work.examined > blocked
    # All kept with the better one, more than once; those it blocks now with that one alone.
    assert found.work.compared < 6 * before["selected"].sum()


@pytest.mark.parametrize("budget", [None, 50])
def test_where_nothing_has_changed_no_vector_is_read(budget):
    pool = clustered(600, 120)
    before, _ = pool.scratch(budget, 0.9)
    found = pool.replay(before, budget, 0.9)
    assert pool.asked == []
    assert (found.work.examined, found.work.compared) == (0, 0)
    assert_as_from_scratch(pool, found, budget, 0.9)


@pytest.mark.parametrize("budget", [1, 20, 50])
def test_a_smaller_budget_reads_no_vector(budget):
    pool = clustered(600, 120)
    before, _ = pool.scratch(None, 0.9)
    found = pool.replay(before, budget, 0.9)
    assert pool.asked == []
    assert_as_from_scratch(pool, found, budget, 0.9)


def test_no_vector_is_read_twice_for_the_kept_and_few_for_the_blocked():
    pool = clustered(4_000, 400)
    before, _ = pool.scratch(None, 0.9)
    pool.add(np.ones(16), 0.5, "new")
    found = pool.replay(before, None, 0.9)
    assert_as_from_scratch(pool, pool.replay(before, None, 0.9), None, 0.9)
    found = pool.replay(before, None, 0.9)
    assert len(pool.asked) <= found.decisions["selected"].sum() + found.work.examined


def test_a_row_without_direction_is_rejected_in_every_snapshot():
    pool = clustered(50, 5)
    pool.add(np.zeros(16), 0.5, "zero")
    pool.add(np.full(16, np.nan), 0.4, "nan")
    found = pool.replay(NOBODY, None, 0.9)
    again = pool.replay(found.decisions, None, 0.9)
    assert again.rejected.rows() == [("zero", "zero_vector"), ("nan", "vector_not_finite")]
    assert again.decisions.equals(found.decisions)


def test_settings_and_vectors_that_do_not_fit_are_bad_usage():
    pool = clustered(5, 2)
    with pytest.raises(InputError, match="budget is 0"):
        pool.replay(NOBODY, 0, 0.9)
    with pytest.raises(InputError, match="it is a cosine"):
        pool.replay(NOBODY, None, 1.5)
    pool.dim = 4
    with pytest.raises(ValueError, match="reshape"):
        pool.replay(NOBODY, None, 0.9)
    with pytest.raises(InputError, match="5 ids of 3 dimensions"):
        replay.replay(["abcde"[i] for i in range(5)], NOBODY, lambda ids: np.ones((5, 4)), budget=1, threshold=0, dim=3)


# -- what has moved


def longest_increasing(values):
    ends = []
    for value in values:
        at = bisect_left(ends, value)
        ends[at : at + 1] = [value]
    return len(ends)


@settings(deadline=None, max_examples=200)
@given(st.permutations(range(25)), st.sets(st.integers(0, 24)))
def test_without_the_moved_the_order_is_the_same_and_fewer_would_not_do(order, gone):
    now = np.array([i for i in order if i not in gone], np.int64)
    stay = now[~out_of_order(now)].tolist()
    assert stay == sorted(stay)
    assert len(stay) == longest_increasing(now.tolist())


@given(st.integers(0, 40), st.integers(0, 40))
def test_where_one_has_moved_just_that_one_is_named(place, to):
    now = list(range(41))
    now.insert(to, now.pop(place))
    moved = np.array(now)[out_of_order(np.array(now))].tolist()
    assert len(moved) == (place != to)
    assert abs(place - to) < 2 or moved == [place]


def test_of_nothing_nothing_has_moved():
    assert len(out_of_order(np.empty(0, np.int64))) == 0


def test_a_long_pool_in_reverse_is_sorted_out_at_once():
    assert out_of_order(np.arange(50_000)[::-1]).sum() == 49_999
