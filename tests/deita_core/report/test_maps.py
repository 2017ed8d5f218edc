import numpy as np
import polars as pl
import pytest

from deita_core.report.maps import SIDE, cluster_names, make_map


def vectors(count, seed=0, dim=16):
    found = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def mapped(rows, anchors=None):
    ids = [f"{i:032x}" for i in range(len(rows))]
    return make_map(ids, rows if anchors is None else anchors, [(ids, rows)])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 2, 3, 9, 10, 40])
def test_a_pool_of_any_size_has_a_map(count):
    found = mapped(vectors(count))
    assert len(found) == count
    assert found.null_count().sum_horizontal().item() == 0
    assert found["x"].is_between(0, SIDE).all() and found["y"].is_between(0, SIDE).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [2, 30])
def test_rows_that_do_not_differ_are_at_one_point(count):
    found = mapped(np.repeat(vectors(1), count, axis=0))
    assert found.select("x", "y", "cluster").n_unique() == 1


def test_no_rows_have_an_empty_map():
    assert mapped(vectors(0)).is_empty()


def test_rows_of_one_kind_are_nearer_to_each_other_than_to_those_of_another():
    centres = vectors(2, seed=1)
    rows = np.concatenate([centre + 0.05 * vectors(60, seed=2 + i) for i, centre in enumerate(centres)])
    found = mapped(rows.astype(np.float32))
    places = found.select("x", "y").to_numpy().astype(float)
    middle = [places[:60].mean(0), places[60:].mean(0)]
    for i, place in enumerate(places):
        assert np.linalg.norm(place - middle[i // 60]) < np.linalg.norm(place - middle[1 - i // 60])
    assert not set(found["cluster"][:60]) & set(found["cluster"][60:])


def test_a_row_that_is_no_anchor_is_placed_where_its_equal_is():
    anchors = vectors(50)
    rows = np.concatenate([anchors, anchors[7:8]])
    found = mapped(rows, anchors)
    here, there = (np.array(found.select("x", "y").row(i), float) for i in (7, 50))
    assert np.abs(here - there).max() <= 1


def test_the_same_rows_have_the_same_map():
    assert mapped(vectors(60)).equals(mapped(vectors(60)))


def test_clusters_are_named_by_words_that_are_theirs():
    begins = [f"please sort the list number {i}" for i in range(30)] + [
        f"please bake the bread kind {i}" for i in range(30)
    ]
    rows = pl.DataFrame(
        {"id": [f"{i:032x}" for i in range(60)], "cluster": [0] * 30 + [1] * 30, "begins": begins},
        schema_overrides={"cluster": pl.Int16},
    )
    names = cluster_names(rows)
    assert {"sort", "list"} <= set(names[0].split(", "))
    assert {"bake", "bread"} <= set(names[1].split(", "))
    assert "please" not in names[0] + names[1]
