"""Choices within budgets and quotas, on a store whose vectors and scores are written by hand."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deita_core.config.settings import SelectionSettings, fitting
from deita_core.errors import InputError
from deita_core.selection import select_clusters, select_coverage
from deita_core.selection.diversity.clusters import spherical_kmeans
from deita_core.stages.naming import named_samples
from deita_core.stages.token_counts import TokenizerFiles, token_counts
from tests.support.pool_by_hand import FILE, Pool, at

WORDS = TokenizerFiles(name="words", fingerprint="9" * 32)


@pytest.fixture
def pool(tmp_path):
    return Pool(tmp_path / "store")


def fates(rows):
    return {name: row["fate"] for name, row in rows.items()}


def counted(pool, tokens):
    """Write token counts by name."""
    ids = {name: id_ for id_, name in pool.name_of.items()}
    rows = [{"id": ids[name], "tokens": count, "answer_tokens": count // 2} for name, count in tokens.items()]
    pool.store.write(WORDS.table, pl.DataFrame(rows, schema=WORDS.table.empty().schema))


# -- quotas


def test_no_group_has_more_than_its_cap_and_the_reason_names_it(pool):
    for i, source in enumerate("aaaabb"):
        pool.add(f"{source}{i}", at(30 * i), (6.0 - i, 1.0), origin=source)
    chosen, rows = pool.select(budget=4, per="origin", cap=0.5)
    assert fates(rows) == {
        "a0": "selected", "a1": "selected", "a2": "over_quota", "a3": "over_quota", "b4": "selected", "b5": "selected"
    }  # fmt: skip
    assert "the origin a has its share of the budget, 2 rows" in rows["a2"]["reason"]
    assert (chosen.selected, chosen.over_quota, chosen.over_budget) == (4, 2, 0)


def test_floors_are_taken_first_and_block_their_near_duplicates(pool):
    pool.add("best", at(0), (5, 5), origin="a")
    pool.add("second", at(40), (5, 4), origin="a")
    pool.add("low", at(42), (1, 1), origin="b")
    chosen, rows = pool.select(budget=3, per="origin", floor=1)
    assert fates(rows) == {"best": "selected", "second": "near_duplicate", "low": "selected"}
    assert rows["second"]["duplicate_of"] == "low"
    assert "which was taken before it" in rows["second"]["reason"]
    assert chosen.lacking == {}


def test_a_floor_that_cannot_be_met_is_told_with_how_many_lack(pool):
    pool.add("one", at(0), origin="a")
    pool.add("like it", at(1), origin="a")
    pool.add("other", at(90), origin="b")
    chosen, rows = pool.select(budget=10, per="origin", floor=2)
    assert chosen.lacking == {"a": 1, "b": 1}
    assert sorted(fates(rows).values()) == ["near_duplicate", "selected", "selected"]


def test_shares_are_exact_and_the_other_groups_share_the_rest(pool):
    for i in range(12):
        pool.add(str(i), at(15 * i), (6 - 0.4 * i, 1.0), origin="abc"[i % 3])
    _, rows = pool.select(budget=6, threshold=1, quotas={"by": "origin", "shares": {"c": 0.5, "a": 1 / 3}})
    origins = ["abc"[int(name) % 3] for name, row in rows.items() if row["fate"] == "selected"]
    assert {origin: origins.count(origin) for origin in "abc"} == {"a": 2, "b": 1, "c": 3}
    with pytest.raises(InputError, match="No row has the origin 'z'"):
        pool.select(budget=6, quotas={"by": "origin", "shares": {"z": 0.5}})


def test_groups_are_those_of_the_first_row_in_the_pool(pool):
    pool.add("one", at(0), origin="a")
    pool.add("two", at(90), other="b")
    _, rows = pool.select(budget=2, per="source", cap=0.5)
    assert sorted(fates(rows).values()) == ["over_quota", "selected"]
    _, rows = pool.select(budget=2, per="origin", cap=0.5)
    assert set(fates(rows).values()) == {"selected"}
    with pytest.raises(InputError, match="No row of the pool has a field 'absent'"):
        pool.select(budget=2, per="absent", cap=0.5)


def test_clusters_are_groups_as_well(pool):
    for i in range(3):
        pool.add(f"near {i}", at(20 * i), (6.0 - i, 1))
    pool.add("far", at(180), (1, 1))
    _, rows = pool.select(budget=2, threshold=1, per="cluster", clusters=2, cap=0.5)
    assert fates(rows) == {
        "near 0": "selected", "near 1": "over_quota", "near 2": "over_quota", "far": "selected"
    }  # fmt: skip


# -- tokens


def test_the_budget_in_tokens_is_never_passed_and_smaller_rows_fill_it(pool):
    for i, name in enumerate("abcd"):
        pool.add(name, at(40 * i), (6.0 - i, 1))
    counted(pool, {"a": 50, "b": 60, "c": 40, "d": 10})
    chosen, rows = pool.select({"tokenizer": WORDS}, token_budget=101)
    assert fates(rows) == {"a": "selected", "b": "over_budget", "c": "selected", "d": "selected"}
    assert "its 60 tokens do not fit" in rows["b"]["reason"]
    assert chosen.tokens == 100


def test_a_row_counts_as_many_tokens_as_training_reads(pool):
    pool.add("long", at(0), (5, 5))
    counted(pool, {"long": 5_000})
    assert pool.select({"tokenizer": WORDS}, token_budget=100, training_tokens=100)[0].selected == 1
    assert pool.select({"tokenizer": WORDS}, token_budget=100, training_tokens=101)[0].selected == 0


def test_the_longest_answers_come_first(pool):
    for i, name in enumerate("abc"):
        pool.add(name, at(40 * i), (6.0 - i, 1))
    counted(pool, {"a": 10, "b": 30, "c": 20})
    _, rows = pool.select({"tokenizer": WORDS}, strategy="longest", budget=2)
    assert list(rows) == ["b", "c", "a"]
    assert rows["b"]["score"] == 15
    assert fates(rows) == {"b": "selected", "c": "selected", "a": "over_budget"}


# -- rows named by the user


def test_kept_rows_are_selected_and_block_their_near_duplicates(pool):
    pool.add("best", at(0), (5, 5))
    low = pool.add("low", at(5), (1, 1))
    pool.add("other", at(90), (2, 1))
    chosen, rows = pool.select({"keep": (low,)}, budget=2)
    assert fates(rows) == {"best": "near_duplicate", "other": "selected", "low": "selected"}
    assert chosen.selected == 2
    with pytest.raises(InputError, match="The 1 rows to keep"):
        counted(pool, {"best": 5, "low": 5, "other": 5})
        pool.select({"keep": (low,), "tokenizer": WORDS}, token_budget=4)


def test_dropped_rows_have_no_rank(pool):
    best = pool.add("best", at(0), (5, 5))
    pool.add("like it", at(1), (5, 4))
    _, rows = pool.select({"drop": (best,)}, budget=2)
    assert fates(rows) == {"like it": "selected", "best": "filtered"}
    assert rows["best"]["rank"] is None
    assert rows["like it"]["rank"] == 1
    with pytest.raises(InputError, match="cannot be selected"):
        pool.select({"drop": (best,), "keep": (best,)}, budget=2)


def test_rows_are_named_by_id_by_a_list_or_by_their_content(pool, tmp_path):
    one, two = pool.add("one", at(0)), pool.add("two", at(90))
    reading = SelectionSettings().reading
    (tmp_path / "ids.txt").write_text(f"{one}\n\n{two}\n")
    talk = [{"role": "user", "content": "two?"}, {"role": "assistant", "content": "two!"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": talk}) + "\n")
    (tmp_path / "with_ids.jsonl").write_text(json.dumps({"id": one, "messages": talk}) + "\n")

    def named(*names):
        return named_samples(pool.store, "keep", [str(name) for name in names], reading, [FILE])

    assert named(one, tmp_path / "ids.txt") == (one, two)
    assert named(tmp_path / "rows.jsonl") == (two,)
    assert named(tmp_path / "with_ids.jsonl") == (one,)
    with pytest.raises(InputError, match=r"The id f+, named by keep, is not in the pool"):
        named("f" * 32)
    (tmp_path / "ids.txt").write_text("one\n")
    with pytest.raises(InputError, match=r"ids.txt:1 is no id"):
        named(tmp_path / "ids.txt")
    (tmp_path / "strange.jsonl").write_text(json.dumps({"messages": [*talk, *talk]}) + "\n")
    with pytest.raises(InputError, match=r"strange.jsonl:1, named by keep, is not in the pool"):
        named(tmp_path / "strange.jsonl")


# -- orders and diversities


def random_pool(pool, n=60):
    rng = np.random.default_rng(3)
    vectors, scores = rng.normal(size=(n, 4)), rng.uniform(1, 6, (n, 2))
    ids = [
        pool.add(f"row {i}", v.tolist(), tuple(s.tolist()))
        for i, (v, s) in enumerate(zip(vectors, scores, strict=True))
    ]
    units = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return ids, units, scores.prod(axis=1)


def selected_ids(pool, rows):
    ids = {name: id_ for id_, name in pool.name_of.items()}
    return {ids[name] for name, row in rows.items() if row["fate"] == "selected"}


@pytest.mark.parametrize("draw", ["score", "best"])
def test_kmq_selects_what_the_function_for_notebooks_selects(pool, draw):
    ids, units, scores = random_pool(pool)
    _, rows = pool.select(strategy="kmq", budget=20, clusters=5, cluster_draw=draw, seed=4)
    order = np.argsort(ids)
    found = spherical_kmeans(units[order], 5, seed=4)
    labels = np.empty(len(ids), np.int64)
    labels[order] = found.labels
    expected = select_clusters(labels, scores, budget=20, seed=4 if draw == "score" else None, ids=ids)
    assert selected_ids(pool, rows) == set(expected.ids)
    assert {row["reason"] for row in rows.values()} == {None, "others fill its cluster's share of the budget"}


def test_mig_selects_what_the_function_for_notebooks_selects_for_tags(pool):
    rng = np.random.default_rng(5)
    labels = [rng.choice(12, rng.integers(1, 4), replace=False).tolist() for _ in range(50)]
    scores = rng.uniform(1, 6, (50, 2))
    ids = [
        pool.add(f"row {i}", rng.normal(size=4).tolist(), tuple(scores[i].tolist()), topics=[f"t{x:02d}" for x in of])
        for i, of in enumerate(labels)
    ]
    _, rows = pool.select(strategy="mig", budget=15, tags_field="topics")
    expected = select_coverage(labels, scores.prod(axis=1), budget=15, ids=ids)
    assert selected_ids(pool, rows) == set(expected.ids)


def test_mig_labels_rows_with_clusters_if_they_have_no_tags(pool):
    random_pool(pool)
    chosen, _ = pool.select(strategy="mig", budget=10, clusters=6)
    assert chosen.selected == 10


@pytest.mark.parametrize("strategy", ["kmq", "mig", "random"])
def test_every_strategy_keeps_to_the_quotas_and_fills_the_budget(pool, strategy):
    rng = np.random.default_rng(6)
    for i in range(40):
        pool.add(str(i), rng.normal(size=4).tolist(), tuple(rng.uniform(1, 6, 2).tolist()), origin="aab"[i % 3])
    _, rows = pool.select(strategy=strategy, budget=20, clusters=3, per="origin", cap=0.5, floor=2)
    origins = ["aab"[int(name) % 3] for name, row in rows.items() if row["fate"] == "selected"]
    assert origins.count("a") == origins.count("b") == 10


def test_a_row_without_a_direction_belongs_to_no_cluster(pool):
    random_pool(pool, 20)
    messages = [("user", "a?", [1, 0, 0, 0]), ("assistant", "a!", [-1, 0, 0, 0])]
    pool.talk("nowhere", messages, [(6.0, 6.0)])
    _, rows = pool.select(strategy="kmq", budget=10, clusters=3)
    assert (rows["nowhere"]["fate"], rows["nowhere"]["reason"]) == ("rejected", "its vector is zero")


def test_a_random_order_depends_on_the_seed_and_not_on_the_scores_or_the_rest_of_the_pool(pool):
    random_pool(pool, 30)
    _, first = pool.select(strategy="random", budget=10, seed=1)
    order = list(first)
    pool.add("unread", at(10), (None, None))
    pool.add("one more", at(20), (6.0, 6.0))
    _, later = pool.select(strategy="random", budget=10, seed=1)
    assert [name for name in later if name in first] == order
    assert later["unread"]["fate"] in ("selected", "over_budget")
    assert list(pool.select(strategy="random", budget=10, seed=2)[1]) != list(later)


def test_one_axis_alone_can_rank(pool):
    pool.add("complex", at(0), (5, 1))
    pool.add("good", at(90), (1, 5))
    assert list(pool.select(rank="complexity")[1]) == ["complex", "good"]
    assert list(pool.select(rank="quality")[1]) == ["good", "complex"]


# -- the scan within limits


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_the_scan_equals_one_comparison_at_a_time(tmp_path_factory, data):
    n = data.draw(st.integers(1, 14))
    pool = Pool(tmp_path_factory.mktemp("scan") / "store")
    angles = data.draw(st.lists(st.integers(0, 17), min_size=n, max_size=n))
    origins = data.draw(st.lists(st.sampled_from("abc"), min_size=n, max_size=n))
    sizes = data.draw(st.lists(st.integers(1, 30), min_size=n, max_size=n))
    ids = [pool.add(str(i), at(10 * angles[i]), (6 - 0.3 * i, 1), origin=origins[i]) for i in range(n)]
    counted(pool, {str(i): size for i, size in enumerate(sizes)})
    budget, cap, floor = (
        data.draw(st.integers(2, 8)),
        data.draw(st.sampled_from([0.5, 1.0])),
        data.draw(st.integers(1, 1)),
    )
    tokens = data.draw(st.integers(20, 120))
    kept = data.draw(st.sets(st.integers(0, n - 1), max_size=1).filter(lambda k: sum(sizes[i] for i in k) <= tokens))
    inputs = {"tokenizer": WORDS, "keep": tuple(ids[i] for i in kept)}
    _, rows = pool.select(
        inputs, budget=budget, token_budget=tokens, per="origin", cap=cap, floor=floor, threshold=0.97
    )
    chosen = []

    def try_all(candidates, admits):
        for i in candidates:
            full = len(chosen) >= budget or sum(sizes[j] for j in chosen) >= 0.99 * tokens
            if i in chosen or full or not admits(i):
                continue
            if all(np.cos(np.radians(10 * (angles[i] - angles[j]))) <= 0.97 for j in chosen):
                fits = sum(sizes[j] for j in chosen) + sizes[i] <= tokens
                if fits and sum(origins[j] == origins[i] for j in chosen) + 1 <= np.floor(cap * budget):
                    chosen.append(i)

    chosen.extend(sorted(kept))
    lacks = lambda i: sum(origins[j] == origins[i] for j in chosen) < floor  # noqa: E731
    try_all(range(n), lacks)
    try_all(range(n), lambda i: True)
    assert {int(name) for name, row in rows.items() if row["fate"] == "selected"} == set(chosen)


# -- settings that contradict each other


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"threshold": "auto", "budget": 5, "token_budget": 5}, "Threshold auto"),
        ({"per": "layout"}, "give a cap or a floor"),
        ({"cap": 0.5}, "give a budget"),
        ({"strategy": "kmq"}, "divides a budget"),
        ({"strategy": "deita", "like": "examples.jsonl"}, "reads no examples"),
        ({"quotas": {"shares": {"a": 0.5}}, "cap": 0.5, "budget": 5}, "exact shares"),
        ({"refine": "x", "budget": 5, "rank": "random"}, "rank by evol or quality"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given, says):
    with pytest.raises(InputError, match=says):
        fitting(SelectionSettings(**given))


def test_a_strategy_names_a_rank_and_a_diversity_which_can_be_given_beside_it():
    assert (SelectionSettings(strategy="mig").rank, SelectionSettings(strategy="mig").diversity) == ("evol", "coverage")
    liked = SelectionSettings(like="examples.jsonl")
    assert (liked.rank, liked.diversity) == ("target", "threshold")
    mixed = SelectionSettings(strategy="random", diversity="threshold")
    assert (mixed.rank, mixed.diversity) == ("random", "threshold")


def test_tokens_of_samples_are_read_in_their_order_and_lacking_ones_are_an_error(pool):
    ids = pl.Series([pool.add("a", at(0)), pool.add("b", at(90))])
    counted(pool, {"a": 3, "b": 4})
    assert token_counts(pool.store, WORDS, ids.reverse())["tokens"].to_list() == [4, 3]
    with pytest.raises(Exception, match="lacks the tokens of 1 samples"):
        token_counts(pool.store, WORDS, pl.Series(["0" * 32]))
