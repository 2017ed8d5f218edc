import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deita_core.stages.shards import MAX_SHARDS, Shard, plan_shards, read_shard
from deita_core.store import Store
from deita_core.tables import PLANS, scores_table

SCORES = scores_table("quality-1")
OTHER = scores_table("quality-2")
STAGE = "score"


def id_of(number):
    return f"{number:032x}"


def work(numbers, size=1):
    """Things to do, in order."""
    rows = {"id": [id_of(n) for n in numbers], "owner": [f"owner of {n}" for n in numbers], "size": size}
    return pl.DataFrame(rows, schema={"id": pl.String, "owner": pl.String, "size": pl.Int32})


def do(store, ids, table=SCORES):
    rows = [(id_, 0, 2.0, "ok") for id_ in ids]
    store.write(table, pl.DataFrame(rows, schema=table.empty().schema, orient="row"))


def plan(store, numbers, shard_size=10, table=SCORES, stage=STAGE):
    return plan_shards(store, stage, table, work(numbers), shard_size)


def ids_in(store, shard):
    return read_shard(store, shard)["id"].to_list()


def numbers_in(store, shards):
    return [int(id_, 16) for shard in shards for id_ in ids_in(store, shard)]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


# -- a first plan


def test_everything_to_do_is_in_exactly_one_shard_in_its_order(store):
    numbers = [(n * 7_919) % 5_000 for n in range(5_000)]
    do(store, [id_of(n) for n in range(0, 5_000, 3)])
    shards = plan(store, numbers, 100)
    assert numbers_in(store, shards) == [n for n in numbers if n % 3]
    assert len({shard.key for shard in shards}) == len(shards)


def test_a_shard_holds_its_rows_with_their_owners(store):
    first, _ = plan(store, [5, 3, 9], 2)
    assert read_shard(store, first).rows() == [(id_of(5), "owner of 5"), (id_of(3), "owner of 3")]
    assert first.rows == 2


def test_a_shard_is_about_as_large_as_asked(store):
    shards = plan(store, range(95), 10)
    assert [shard.rows for shard in shards] == [10] * 9 + [5]


def test_a_shard_is_measured_by_the_sizes_of_its_rows(store):
    todo = work([1, 2, 3, 4, 5], size=pl.Series([5, 5, 30, 1, 1]))
    shards = plan_shards(store, STAGE, SCORES, todo, 10)
    assert [numbers_in(store, [shard]) for shard in shards] == [[1, 2], [3], [4, 5]]


def test_what_comes_twice_is_done_once_for_the_first_that_has_it(store):
    todo = work([4, 2, 4, 7, 2]).with_columns(owner=pl.Series(["a", "b", "c", "d", "e"]))
    [shard] = plan_shards(store, STAGE, SCORES, todo, 10)
    assert read_shard(store, shard).rows() == [(id_of(4), "a"), (id_of(2), "b"), (id_of(7), "d")]


def test_what_is_missing_is_done_in_the_order_asked_for(store):
    todo = work([4, 2, 9, 7], size=pl.Series([3, 8, 3, 1]))
    do(store, [id_of(7)])
    shards = plan_shards(store, STAGE, SCORES, todo, 5, ("size", "id"))
    assert [numbers_in(store, [shard]) for shard in shards] == [[4, 9], [2]]


def test_nothing_to_do_is_no_shard(store):
    assert plan(store, []) == []
    do(store, [id_of(1)])
    assert plan(store, [1]) == []
    assert store.count(PLANS) == 0


def test_a_shard_that_is_not_planned_has_no_rows(store):
    assert read_shard(store, Shard(key="unknown", rows=3)).is_empty()


@settings(deadline=None, max_examples=12)
@given(
    st.lists(st.integers(1, 10_000), min_size=1, max_size=300),
    st.integers(1, 20_000),
    st.sets(st.integers(0, 299), max_size=40),
)
def test_however_large_the_pool_there_are_few_shards_and_each_id_is_in_one(tmp_path_factory, sizes, shard_size, done):
    store = Store(tmp_path_factory.mktemp("store"))
    do(store, [id_of(n) for n in done])
    shards = plan_shards(store, STAGE, SCORES, work(range(len(sizes)), size=pl.Series(sizes)), shard_size)
    todo = [n for n in range(len(sizes)) if n not in done]
    assert numbers_in(store, shards) == todo
    assert len(shards) <= MAX_SHARDS
    room = max(shard_size, -(-sum(sizes[n] for n in todo) // MAX_SHARDS))
    for shard in shards:
        *others, _ = numbers_in(store, [shard])
        assert sum(sizes[n] for n in others) < room


def test_a_pool_of_billions_of_characters_is_cut_like_any_other(store):
    shards = plan_shards(store, STAGE, SCORES, work(range(6), size=pl.Series([2**30] * 6)), 400_000)
    assert [numbers_in(store, [shard]) for shard in shards] == [[n] for n in range(6)]


# -- a plan that was broken off


def test_a_resumed_plan_is_the_same_cut_less_what_is_done(store):
    before = plan(store, range(50), 10)
    do(store, ids_in(store, before[1]))
    contents = [ids_in(store, shard) for shard in before]
    after = plan(store, range(50), 10)
    assert after == [before[0], *before[2:]]
    assert [ids_in(store, shard) for shard in after] == [contents[0], *contents[2:]]


@pytest.mark.parametrize("shard_size", [1, 7, 1_000])
def test_a_resumed_plan_does_not_depend_on_the_shard_size_of_the_resumed_run(store, shard_size):
    before = plan(store, range(50), 10)
    assert plan(store, range(50), shard_size) == before


def test_a_resumed_plan_does_not_depend_on_the_order_of_the_resumed_work(store):
    before = plan(store, range(50), 10)
    assert plan(store, list(reversed(range(50))), 10) == before


def test_a_plan_is_followed_by_another_process_of_the_same_store(store):
    assert plan(Store(store.uri), range(50), 10) == plan(store, range(50), 10)


def test_a_shard_with_all_rows_present_is_dropped_for_good(store):
    first, second = plan(store, range(20), 10)
    do(store, ids_in(store, first))
    assert plan(store, range(20), 10) == [second]
    assert store.read(PLANS, ["key"])["key"].to_list() == [second.key]
    do(store, ids_in(store, second))
    assert plan(store, range(20), 10) == []
    assert store.count(PLANS) == 0


def test_a_shard_with_some_rows_present_stays_whole(store):
    first, second = plan(store, range(20), 10)
    do(store, [id_of(3)])
    assert plan(store, range(20), 10) == [first, second]
    assert numbers_in(store, [first]) == list(range(10))


def test_what_is_new_since_is_cut_into_shards_of_its_own(store):
    before = plan(store, range(20), 10)
    after = plan(store, [*range(100, 115), *range(20)], 10)
    assert after[:2] == before
    assert numbers_in(store, after[2:]) == list(range(100, 115))


def test_a_shard_planned_done_and_undone_is_planned_again(store):
    before = plan(store, range(5), 10)
    do(store, ids_in(store, before[0]))
    assert plan(store, range(5), 10) == []
    store.delete(SCORES, "turn = 0")
    assert plan(store, range(5), 10) == before
    assert numbers_in(store, before) == list(range(5))


def test_another_pools_leftovers_are_not_done(store):
    leftovers = plan(store, range(20), 10)
    shards = plan(store, range(100, 105), 10)
    assert numbers_in(store, shards) == list(range(100, 105))
    assert plan(store, range(20), 10) == leftovers


def test_another_pools_leftovers_are_done_whole_where_they_hold_wanted_ids(store):
    leftovers = plan(store, range(30), 10)
    shards = plan(store, [12, 100], 10)
    assert shards[0] == leftovers[1]
    assert numbers_in(store, shards) == [*range(10, 20), 100]


def test_a_leftover_whose_wanted_ids_are_done_is_not_done(store):
    plan(store, range(30), 10)
    do(store, [id_of(12)])
    assert numbers_in(store, plan(store, [12, 100], 10)) == [100]


def test_each_stage_and_each_model_has_plans_of_its_own(store):
    mine = plan(store, range(20), 10)
    others = [plan(store, range(20), 10, OTHER), plan(store, range(20), 10, stage="encode")]
    keys = [shard.key for shards in (mine, *others) for shard in shards]
    assert len(set(keys)) == 6
    do(store, ids_in(store, mine[0]))
    assert plan(store, range(20), 10) == mine[1:]
    assert plan(store, range(20), 10, OTHER) == others[0]


@settings(deadline=None, max_examples=10)
@given(
    st.lists(st.tuples(st.sets(st.integers(0, 60), min_size=1), st.integers(1, 15), st.integers(0, 3)), max_size=4),
    st.sets(st.integers(0, 60), min_size=1),
)
def test_after_any_broken_runs_every_lacking_id_is_in_exactly_one_shard(tmp_path_factory, broken, wanted):
    store, done = Store(tmp_path_factory.mktemp("store")), set()
    for pool, shard_size, finished in broken:
        for shard in plan(store, sorted(pool), shard_size)[:finished]:
            done |= set(numbers_in(store, [shard]))
            do(store, ids_in(store, shard))
    planned = numbers_in(store, plan(store, sorted(wanted), 10))
    assert len(planned) == len(set(planned))
    assert set(planned) >= wanted - done
    assert not set(planned) & done
