"""Scores of turns of one axis, from values that one or several scorers have left in the store."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.scorers import ScorerFiles
from deita_core.stages.turn_scores import turn_scores, value_columns
from deita_core.store import Store
from deita_core.tables import scores_table

IDS = [letter * 32 for letter in "abcdef"]
ON_SCALE = ScorerFiles(name="s", axis="quality", path=None, fingerprint="1" * 32)
REWARDS = ScorerFiles(name="r", axis="quality", path=None, fingerprint="2" * 32, raw=True)
OTHER = ScorerFiles(name="o", axis="quality", path=None, fingerprint="3" * 32, raw=True)


def write(store, scorer, values, status="ok"):
    """A turn of each sample with these values; None is unreadable."""
    name = "raw" if scorer.raw else "score"
    rows = [
        {"id": id_, "turn": 0, name: value, "status": "unreadable" if value is None else status}
        for id_, value in zip(IDS, values, strict=False)
    ]
    table = scores_table(scorer.slug)
    store.write(table, pl.DataFrame(rows, schema=table.empty().schema))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_one_scorer_on_the_scale_gives_its_scores(store):
    write(store, ON_SCALE, [2.5, None, 6.0])
    found = turn_scores(store, [ON_SCALE], IDS).sort("id")
    assert found.columns == ["id", "turn", "quality", "quality_status"]
    assert found["quality"].to_list() == [2.5, None, 6]
    assert value_columns([ON_SCALE]) == []


def test_one_scorer_with_a_scale_of_its_own_gives_quantiles_beside_its_values(store):
    write(store, REWARDS, [-3.0, None, 40.0, 0.0])
    found = turn_scores(store, [REWARDS], IDS).sort("id")
    assert found["quality"].to_list() == [1, None, 6, 3.5]
    assert found["quality_raw"].to_list() == [-3, None, 40, 0]
    assert found["quality_status"].to_list() == ["ok", "unreadable", "ok", "ok"]


def test_only_turns_of_the_pool_have_a_part_in_the_quantiles(store):
    write(store, REWARDS, [-3.0, 5.0, 40.0, 0.0])
    assert turn_scores(store, [REWARDS], IDS[:2]).sort("id")["quality"].to_list() == [1, 6]


def test_several_scorers_weigh_the_same_whatever_their_scales(store):
    write(store, ON_SCALE, [1.1, 1.2, 1.3])
    write(store, REWARDS, [900.0, -5.0, -6.0])
    found = turn_scores(store, [ON_SCALE, REWARDS], IDS).sort("id")
    # Ranks from 0: 0 1 2 and 2 1 0.
    assert found["quality"].to_list() == [3.5, 3.5, 3.5]
    assert found["quality_raw_1"].to_list() == [1.1, 1.2, 1.3]
    assert found["quality_raw_2"].to_list() == [900, -5, -6]


def test_a_turn_that_one_of_several_cannot_read_is_unread_and_a_shortened_one_is_told_of(store):
    write(store, ON_SCALE, [2.0, None, 3.0, 4.0])
    write(store, REWARDS, [1.0, 2.0, 3.0], status="truncated")
    found = turn_scores(store, [ON_SCALE, REWARDS], IDS).sort("id")
    assert found["quality_status"].to_list() == ["truncated", "unreadable", "truncated", "unreadable"]
    assert found["quality"].is_null().to_list() == [False, True, False, True]


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(-9, 9), st.integers(-9, 9)), min_size=2, max_size=6))
def test_the_order_is_that_of_mean_ranks(tmp_path_factory, rows):
    store = Store(tmp_path_factory.mktemp("ranks") / "store")
    columns = [[float(value) for value in column] for column in zip(*rows, strict=True)]
    for scorer, values in zip((ON_SCALE, REWARDS, OTHER), columns, strict=True):
        write(store, scorer, values)
    found = turn_scores(store, [ON_SCALE, REWARDS, OTHER], IDS).sort("id")["quality"].to_list()
    ranks = [
        sum(sum(other < own for other in column) + sum(other <= own for other in column) for own, column in pairs)
        for pairs in ([(row[k], [other[k] for other in rows]) for k in range(3)] for row in rows)
    ]
    for score, rank in zip(found, ranks, strict=True):
        for other, other_rank in zip(found, ranks, strict=True):
            if rank < other_rank:
                assert score < other
            if rank == other_rank:
                assert score == pytest.approx(other, abs=1e-12)
