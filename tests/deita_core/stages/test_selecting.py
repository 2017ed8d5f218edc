import math

import numpy as np
import polars as pl
import pytest

from deita_core.conversation import text_id
from deita_core.errors import StoreError
from deita_core.selection import select_diverse
from deita_core.stages import candidates
from deita_core.stages.ranking import rank_pool
from deita_core.stages.selecting import decisions_of, select, with_nearest_selected
from deita_core.tables import DECISIONS, scores_table
from tests.support.pool_by_hand import COMPLEXITY, DIM, QUALITY, VECTORS, Pool, at, job


@pytest.fixture
def pool(tmp_path):
    return Pool(tmp_path / "store")


def fate_names(rows):
    return {name: row["fate"] for name, row in rows.items()}


def check_counts(chosen, rows):
    """The counts are those of the fates, and each sample has one."""
    found = [row["fate"] for row in rows.values()]
    assert chosen.samples == len(found)
    assert {
        "selected": chosen.selected,
        "near_duplicate": chosen.near_duplicate,
        "over_budget": chosen.over_budget,
        "rejected": chosen.rejected,
    } == {fate: found.count(fate) for fate in ("selected", "near_duplicate", "over_budget", "rejected")}


def cancelling(pool, name, score):
    """A conversation whose messages point in opposite directions, so that it has none."""
    messages = [("user", f"{name}?", [1, 0, 0, 0]), ("assistant", f"{name}!", [-1, 0, 0, 0])]
    return pool.talk(name, messages, [score])


# -- fates


def test_every_sample_has_one_fate_and_a_reason(pool):
    pool.add("best", at(0), (5, 5))
    pool.add("like the best", at(5), (5, 4))
    cancelling(pool, "pointless", (4, 4))
    pool.add("second", at(90), (3, 3))
    pool.add("late", at(45), (2, 2))
    pool.add("unread", at(60), (None, 6))
    chosen, rows = pool.select(budget=2)
    assert fate_names(rows) == {
        "best": "selected",
        "like the best": "near_duplicate",
        "pointless": "rejected",
        "second": "selected",
        "late": "over_budget",
        "unread": "rejected",
    }
    check_counts(chosen, rows)
    assert {name: row["reason"] for name, row in rows.items()} == {
        "best": None,
        "like the best": f"near-duplicate of {rows['best']['id']} (cosine 0.9962), which ranks higher",
        "pointless": "its vector is zero",
        "second": None,
        "late": "the budget was full before its turn",
        "unread": "a turn has no readable score",
    }


def test_a_near_duplicate_names_what_it_duplicates_and_their_similarity(pool):
    pool.add("across", at(0), (5, 5))
    pool.add("up", at(90), (5, 4))
    pool.add("nearly up", at(80), (4, 4))
    _, rows = pool.select()
    assert rows["nearly up"]["duplicate_of"] == rows["nearly up"]["nearest"] == "up"
    assert rows["nearly up"]["similarity"] == pytest.approx(math.cos(math.radians(10)), abs=1e-6)
    assert rows["up"]["nearest"] == "across"
    assert rows["up"]["duplicate_of"] is None
    assert (rows["across"]["nearest"], rows["across"]["similarity"]) == (None, None)


def test_every_sample_with_a_score_has_its_rank(pool):
    for name, degrees, score in (("a", 0, 6), ("b", 5, 5), ("c", 90, 4), ("d", 180, 3)):
        pool.add(name, at(degrees), (score, 1))
    _, rows = pool.select(budget=2)
    assert {name: row["rank"] for name, row in rows.items()} == {"a": 1, "b": 2, "c": 3, "d": 4}
    assert {name: row["score"] for name, row in rows.items()} == {"a": 6, "b": 5, "c": 4, "d": 3}


def test_fates_come_in_rank_order_and_the_unscored_last(pool):
    pool.add("unread", at(0), (2, None))
    pool.add("low", at(0), (1, 2))
    pool.add("high", at(90), (6, 6))
    assert list(pool.select()[1]) == ["high", "low", "unread"]


def test_ties_in_score_go_to_the_smaller_id(pool):
    ids = [pool.add(name, at(10 * i)) for i, name in enumerate("abcdefgh")]
    _, rows = pool.select(budget=1)
    assert [row["id"] for row in rows.values()] == sorted(ids)
    assert [row["fate"] for row in rows.values()] == ["selected"] + ["over_budget"] * 7


@pytest.mark.parametrize("budget", [None, 3])
def test_a_vector_without_a_direction_is_rejected_even_as_the_last_one_scanned(pool, budget):
    pool.add("good", at(0), (5, 5))
    pool.add("other", at(90), (4, 4))
    cancelling(pool, "pointless", (1, 1))
    chosen, rows = pool.select(budget=budget)
    assert fate_names(rows) == {"good": "selected", "other": "selected", "pointless": "rejected"}
    check_counts(chosen, rows)


def test_a_vector_without_a_direction_beyond_the_full_budget_is_over_budget(pool):
    pool.add("good", at(0), (5, 5))
    cancelling(pool, "pointless", (4, 4))
    pool.add("late", at(90), (3, 3))
    chosen, rows = pool.select(budget=1)
    assert fate_names(rows) == {"good": "selected", "pointless": "over_budget", "late": "over_budget"}
    check_counts(chosen, rows)


def test_a_pool_of_vectors_without_a_direction_is_rejected_whole(pool):
    cancelling(pool, "one", (5, 5))
    cancelling(pool, "two", (4, 4))
    chosen, rows = pool.select(budget=1)
    assert fate_names(rows) == {"one": "rejected", "two": "rejected"}
    check_counts(chosen, rows)


def test_a_pool_without_readable_scores_selects_nothing(pool):
    pool.add("one", at(0), (None, 5))
    pool.add("two", at(90), (5, None))
    chosen, rows = pool.select(budget=1)
    assert chosen.selected == 0
    assert fate_names(rows) == {"one": "rejected", "two": "rejected"}
    check_counts(chosen, rows)


def test_a_sample_that_was_never_scored_is_rejected(pool):
    pool.add("scored", at(0))
    lost = pool.add("lost", at(90))
    pool.store.delete(scores_table(QUALITY.slug), f"id = '{lost}'")
    chosen, rows = pool.select()
    assert rows["lost"]["fate"] == "rejected"
    assert rows["lost"]["reason"] == "a turn has no readable score"
    check_counts(chosen, rows)


def test_a_sample_without_vectors_is_an_error_that_says_what_to_do(pool):
    pool.add("whole", at(0))
    pool.add("lost", at(90))
    pool.store.delete(VECTORS, f"text_id = '{text_id('lost!')}'")
    with pytest.raises(StoreError, match="lacks 1 vectors; run the command again"):
        pool.select()


def test_samples_of_other_files_are_no_candidates(pool):
    pool.add("mine", at(0), (2, 2))
    pool.add("theirs", at(0), (6, 6), file_id="0" * 32)
    chosen, rows = pool.select()
    assert fate_names(rows) == {"mine": "selected"}
    check_counts(chosen, rows)


# -- scores and turns


def three_turns(pool, name, *scores, system=None, n_tokens=10):
    messages = [("system", system, [0, 0, 0, 1])] if system else []
    for number in range(len(scores)):
        messages += [("user", f"{name}{number}?", at(0)), ("assistant", f"{name}{number}!", at(0))]
    return pool.talk(name, messages, scores, n_tokens=n_tokens)


@pytest.fixture(scope="module")
def long_talk(tmp_path_factory):
    pool = Pool(tmp_path_factory.mktemp("talk") / "store")
    three_turns(pool, "talk", (2, 3), (4, 5), (1, 6))
    return pool


@pytest.mark.parametrize(
    ("turns", "training_tokens", "score", "n_scored"),
    [
        ("sum", 1, 2 * 3 + 4 * 5 + 1 * 6, 3),
        ("mean", 1, (2 * 3 + 4 * 5 + 1 * 6) / 3, 3),
        ("max", 1, 20, 3),
        ("fit", 60, 2 * 3 + 4 * 5 + 1 * 6, 3),
        ("fit", 59, 2 * 3 + 4 * 5, 2),
        ("fit", 40, 2 * 3 + 4 * 5, 2),
        ("fit", 39, 2 * 3, 1),
        ("fit", 1, 2 * 3, 1),
    ],
)
def test_the_turns_that_count_are_those_of_the_rule(long_talk, turns, training_tokens, score, n_scored):
    talk = rank_pool(long_talk.store, job(turns=turns, training_tokens=training_tokens)).candidates.row(0, named=True)
    assert talk["score"] == pytest.approx(score, rel=1e-12)
    assert talk["n_scored"] == n_scored


def test_the_system_message_takes_up_room_in_training(pool):
    three_turns(pool, "talk", (2, 3), (4, 5), system="Be brief.")
    assert pool.select(turns="fit", training_tokens=49)[1]["talk"]["n_scored"] == 1
    assert pool.select(turns="fit", training_tokens=50)[1]["talk"]["n_scored"] == 2


def test_an_unread_turn_rejects_the_sample_unless_training_never_sees_it(pool):
    three_turns(pool, "talk", (2, 3), (None, 5))
    for turns, fate in (("sum", "rejected"), ("mean", "rejected"), ("max", "rejected"), ("fit", "selected")):
        assert pool.select(turns=turns, training_tokens=30)[1]["talk"]["fate"] == fate


def test_blank_and_unanswered_messages_leave_the_turns_where_they_are(pool):
    messages = [
        ("assistant", "Welcome!", at(0)),
        ("user", " ", at(0)),
        ("user", "one?", at(0)),
        ("assistant", "one!", at(0)),
        ("user", "two?", at(0)),
        ("assistant", "two!", at(0)),
        ("user", "three?", at(0)),
    ]
    pool.talk("talk", messages, [(2, 2), (3, 3)])
    assert pool.select(turns="fit", training_tokens=30)[1]["talk"]["score"] == 4
    assert pool.select(turns="fit", training_tokens=50)[1]["talk"]["score"] == 13


def test_the_order_in_which_scores_were_written_changes_no_bit_of_a_score(tmp_path):
    draw = np.random.default_rng(5)
    scores = draw.uniform(1, 6, size=(30, 9, 2)).tolist()
    found = []
    for trial in range(2):
        pool = Pool(tmp_path / str(trial))
        for number, turns in enumerate(scores):
            three_turns(pool, f"talk {number} ", *turns)
        for scorer in (COMPLEXITY, QUALITY):
            table = scores_table(scorer.slug)
            rows = pool.store.read(table).sample(fraction=1, shuffle=True, seed=trial)
            pool.store.delete(table, "turn >= 0")
            for part in rows.iter_slices(100):
                pool.store.write(table, part)
        found.append(rank_pool(pool.store, job()).candidates.select("id", "score", "complexity", "quality"))
    assert found[0].equals(found[1])


# -- the scan


def crowd(pool, count=60):
    draw = np.random.default_rng(11)
    centres = draw.normal(size=(6, DIM))
    names = [f"{number:02d}" for number in range(count)]
    vectors = centres[draw.integers(0, 6, count)] + 0.4 * draw.normal(size=(count, DIM))
    scores = draw.integers(1, 7, size=(count, 2)).astype(float)
    ids = [pool.add(name, vector, tuple(score)) for name, vector, score in zip(names, vectors, scores, strict=True)]
    return ids, vectors, scores.prod(axis=1)


@pytest.mark.parametrize("budget", [5, None])
def test_a_store_is_scanned_like_an_array(pool, budget):
    ids, vectors, scores = crowd(pool)
    expected = select_diverse(vectors.astype(np.float32), scores, budget=budget, threshold=0.8, ids=ids)
    pool.select(budget=budget, threshold=0.8)
    the_job = job(budget=budget, threshold=0.8)
    decided = with_nearest_selected(pool.store, the_job, decisions_of(pool.store, the_job))
    written = decided.filter(pl.col("fate").is_in(["selected", "near_duplicate"]))
    columns = ["id", "rank", "selected", "duplicate_of", "nearest"]
    assert (
        written.with_columns(selected=pl.col("fate") == "selected")
        .select(columns)
        .equals(expected.decisions.select(columns))
    )
    np.testing.assert_allclose(
        written["similarity"].fill_null(0), expected.decisions["similarity"].fill_null(0), atol=1e-6
    )


@pytest.mark.parametrize("block", [1, 7])
def test_the_block_size_changes_no_bit_of_a_decision(pool, monkeypatch, block):
    crowd(pool)
    pool.select(budget=12, threshold=0.8)
    whole = pool.store.read(DECISIONS).sort("rank")
    monkeypatch.setattr(candidates, "BLOCK", block)
    pool.select(budget=12, threshold=0.8)
    assert pool.store.read(DECISIONS).sort("rank").equals(whole)


def test_selecting_again_replaces_the_decisions_of_the_same_run(pool):
    for number in range(6):
        pool.add(str(number), at(60 * number), (number + 1, 1))
    pool.select(budget=5)
    chosen, rows = pool.select(budget=2)
    assert pool.store.count(DECISIONS) == 6
    assert pool.store.count(DECISIONS, "fate = 'selected'") == 2
    check_counts(chosen, rows)


def test_another_runs_decisions_are_left_alone(pool):
    pool.add("a", at(0))
    select(pool.store, job().model_copy(update={"run_id": "earlier"}))
    pool.select()
    assert sorted(pool.store.read(DECISIONS)["run_id"]) == ["earlier", "run"]


def test_vectors_beyond_the_full_budget_need_not_exist(pool, monkeypatch):
    monkeypatch.setattr(candidates, "BLOCK", 2)
    for number in range(6):
        pool.add(str(number), at(60 * number), (6 - number, 1))
    pool.store.delete(VECTORS, f"text_id = '{text_id('5!')}'")
    chosen, rows = pool.select(budget=2)
    assert chosen.selected == 2
    assert rows["5"]["fate"] == "over_budget"


# -- the threshold


@pytest.mark.parametrize("budget", [10, 40])
def test_auto_finds_the_threshold_that_just_fills_the_budget(pool, budget):
    crowd(pool)
    chosen, rows = pool.select(budget=budget, threshold="auto")
    check_counts(chosen, rows)
    assert chosen.selected == budget
    assert 0 < chosen.threshold < 1
    assert pool.select(budget=budget, threshold=chosen.threshold)[0] == chosen
    assert pool.select(budget=budget, threshold=round(chosen.threshold - 0.001, 3))[0].selected < budget


def test_auto_takes_all_there_is_where_the_pool_is_smaller_than_the_budget(pool):
    ids, _, _ = crowd(pool, 20)
    chosen, rows = pool.select(budget=50, threshold="auto")
    assert chosen.threshold == 1
    assert chosen.selected == len(ids)
    check_counts(chosen, rows)


def test_auto_without_a_budget_takes_all_there_is(pool):
    ids, _, _ = crowd(pool, 20)
    assert pool.select(threshold="auto")[0].selected == len(ids)


def test_auto_fills_a_budget_from_samples_all_alike(pool):
    for number in range(8):
        pool.add(str(number), [0.3, 0.5, 0.1, 0.7])
    chosen, _ = pool.select(budget=5, threshold="auto")
    assert chosen.selected == 5


def test_fewer_than_the_budget_is_a_result(pool):
    pool.add("a", at(0), (5, 5))
    pool.add("b", at(1), (4, 4))
    chosen, rows = pool.select(budget=2)
    assert (chosen.selected, chosen.near_duplicate) == (1, 1)
    check_counts(chosen, rows)
