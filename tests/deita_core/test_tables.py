import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deita_core.export.tables import PAIR_FATES, PAIRS
from deita_core.tables import (
    CHAINS,
    DECISIONS,
    PLANS,
    RANKINGS,
    REJECTS,
    REMOVALS,
    SAMPLES,
    SNAPSHOTS,
    SOURCES,
    InvalidTableError,
    scores_table,
    vectors_table,
)

SCORES = scores_table("quality-1")
RAW_SCORES = scores_table("raw-quality-1")
JUDGED_SCORES = scores_table("judged-quality-1")
VECTORS = vectors_table("minilm-1", 3)
A, B, C, D = (letter * 32 for letter in "abcd")

MESSAGES = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
OUTLINES = [
    {"role": "user", "text_id": A, "n_chars": 4, "blank": False, "trained": True},
    {"role": "assistant", "text_id": B, "n_chars": 3, "blank": False, "trained": True},
]
SEED = {"chain": A, "axis": "quality", "seed_id": B, "step": 0, "attempt": 0, "operation": "seed", "text": "So."}
SEED |= {"status": "ok", "reason": None, "detail": ""}
VARIANT = {"ranking": A, "chain": B, "judge": C, "repeat": 0, "detail": ""}
SCORED = {**VARIANT, "status": "ok", "reason": None}
UNSCORED = {**VARIANT, "ranking": C, "score": None, "status": "unreadable", "reason": "no_answer"}
DECIDED = {"run_id": "r", "reason": None, "rank": None, "score": 9.5, "complexity": 3.1, "quality": 3.1, "n_scored": 1}
DECIDED |= {"duplicate_of": None, "similarity": None}
PAIR = {"instruction": A, "chosen_score": 5.5, "rejected_score": 2.0, "margin": 3.5, "similarity": -0.1}
ROWS = {
    SAMPLES.name: [
        {"id": id_, "messages": MESSAGES, "message_index": OUTLINES, "multimodal": False, "n_turns": 1, "n_chars": 7}
        for id_ in (A, B)
    ],
    SOURCES.name: [
        {"key": f"{A}:{n}", "file_id": A, "file": "pool.jsonl", "line": n}
        | {"sample_id": B, "layout": "alpaca", "fields": '{"instruction":"Why?"}'}
        for n in (1, 2)
    ],
    REJECTS.name: [
        {"key": f"{A}:{n}", "file_id": A, "file": "pool.jsonl", "line": n, "reason": "no_answer", "detail": "is empty"}
        for n in (1, 2)
    ],
    SCORES.name: [
        {"id": A, "turn": 0, "score": 1.0, "status": "ok"},
        {"id": A, "turn": 1, "score": 6.0, "status": "truncated"},
        {"id": B, "turn": 0, "score": None, "status": "unreadable"},
    ],
    RAW_SCORES.name: [
        {"id": A, "turn": 0, "raw": -71.5, "status": "ok"},
        {"id": A, "turn": 1, "raw": 0.0, "status": "truncated"},
        {"id": B, "turn": 0, "raw": None, "status": "unreadable"},
    ],
    JUDGED_SCORES.name: [
        {"id": A, "turn": 0, "score": 3.0, "status": "ok", "spread": None, "votes": 1},
        {"id": A, "turn": 1, "score": 3.5, "status": "truncated", "spread": 5.0, "votes": 2},
        {"id": B, "turn": 0, "score": None, "status": "unreadable", "spread": None, "votes": 0},
        {"id": B, "turn": 1, "score": None, "status": "unreadable", "spread": 0.0, "votes": 2},
    ],
    CHAINS.name: [
        SEED,
        SEED | {"step": 1, "operation": "depth", "text": "", "status": "failed", "reason": "empty"},
        SEED | {"step": 1, "attempt": 1, "operation": "detail", "text": "So, on page 5."},
        SEED | {"chain": B, "text": "Thus."},
        SEED
        | {"chain": B, "step": 1, "operation": "depth", "text": None, "status": "failed", "reason": "no_answer"}
        | {"detail": "x" * 300},
        SEED | {"step": 2, "operation": "helpfulness", "text": "So, on page 5, as you asked."},
    ],
    RANKINGS.name: [
        UNSCORED | {"step": 0, "shown": 1, "detail": "status 500, 8 times"},
        SCORED | {"step": 0, "shown": 2, "score": 1},
        SCORED | {"step": 1, "shown": 1, "score": 6},
    ],
    PLANS.name: [{"key": key, "plan": "encode:x", "shard": 0, "ids": [A, B], "owners": ["", ""]} for key in "xy"],
    DECISIONS.name: [
        DECIDED
        | {"rank": 1, "id": A, "fate": "near_duplicate", "reason": "near", "duplicate_of": B, "similarity": 0.9},
        DECIDED | {"id": B, "fate": "rejected", "reason": "unread", "score": None, "complexity": None},
        DECIDED | {"rank": 3, "id": C, "fate": "selected"},
    ],
    SNAPSHOTS.name: [
        {"number": n, "run_id": str(n), "finished": "2026-01-01", "folder": "out", "report": "{}"} for n in (1, 2)
    ],
    REMOVALS.name: [
        {"id": A, "status": status, "removed": "2026-01-01", "reason": ""} for status in ("started", "finished")
    ],
    PAIRS.name: [PAIR | {"chosen": A, "rejected": B}, PAIR | {"chosen": C, "rejected": D}],
    PAIR_FATES.name: [
        {"id": A, "instruction": C, "score": 3.0, "fate": "near_identical", "duplicate_of": B, "similarity": None},
        {"id": B, "instruction": C, "score": None, "fate": "no_score", "duplicate_of": None, "similarity": None},
    ],
    VECTORS.name: [
        {"text_id": A, "n_tokens": 4, "vector": [0.6, 0.8, 0.0]},
        {"text_id": B, "n_tokens": 1, "vector": [0.0, 0.0, -1.0]},
    ],
}
REFUSED = {
    SAMPLES.name: [
        {"id": A},
        {"id": "A" * 32},
        {"id": "a" * 31},
        {"id": A + "\n"},
        {"id": None},
        {"messages": None},
        {"message_index": None},
        {"multimodal": None},
        {"extra": "[]"},
        {"n_turns": 0},
        {"n_chars": 0},
    ],
    SOURCES.name: [
        {"key": f"{A}:1"},
        {"key": A},
        {"key": "pool.jsonl:2"},
        {"file_id": "pool"},
        {"file": ""},
        {"line": 0},
        {"sample_id": None},
        {"layout": "excel"},
        {"fields": "[]"},
        {"fields": None},
    ],
    REJECTS.name: [
        {"key": f"{A}:1"},
        {"file": ""},
        {"line": 0},
        {"line": None},
        {"reason": ""},
        {"reason": "no answer"},
        {"detail": ""},
        {"detail": "x" * 501},
    ],
    SCORES.name: [
        {"score": 2.0},
        {"status": "ok"},
        {"status": "truncated"},
        {"status": "ok", "score": float("nan")},
        {"status": "unreadable", "score": float("nan")},
        {"status": "ok", "score": float("inf")},
        {"status": "ok", "score": 0.99},
        {"status": "ok", "score": 6.01},
        {"status": "guessed", "score": 3.0},
        {"turn": -1},
        {"turn": None},
        {"id": "b"},
    ],
    RAW_SCORES.name: [
        {"raw": 2.0},
        {"status": "ok"},
        {"status": "ok", "raw": float("nan")},
        {"status": "unreadable", "raw": float("nan")},
        {"status": "ok", "raw": float("-inf")},
        {"turn": -1},
        {"id": "b"},
    ],
    JUDGED_SCORES.name: [
        {"status": "ok"},
        {"votes": 1},
        {"spread": None},
        {"spread": 5.5},
        {"status": "ok", "score": 3.0, "spread": None, "votes": 0},
        {"id": "b"},
    ],
    CHAINS.name: [
        {"chain": "c"},
        {"chain": None},
        {"chain": C},
        {"axis": "both"},
        {"seed_id": "b"},
        {"seed_id": None},
        {"step": -1},
        {"step": 0},
        {"step": 1},
        {"step": 3},
        {"step": None},
        {"attempt": -1},
        {"operation": "make it deeper"},
        {"operation": None},
        {"text": None},
        {"text": " \n"},
        {"status": "guessed"},
        {"status": "failed"},
        {"reason": "refusal"},
        {"status": "failed", "reason": "no answer"},
        {"status": "failed", "reason": ""},
        {"detail": None},
        {"detail": "x" * 301},
    ],
    RANKINGS.name: [
        {"ranking": "a"},
        {"chain": None},
        {"judge": "gpt"},
        {"step": -1},
        {"repeat": 2},
        {"shown": 0},
        {"shown": None},
        {"score": 0},
        {"score": 7},
        {"score": None},
        {"status": "guessed"},
        {"status": "unreadable"},
        {"status": "unreadable", "score": None},
        {"status": "unreadable", "reason": "unreadable"},
        {"status": "unreadable", "score": None, "reason": "no answer"},
        {"reason": "unreadable"},
        {"detail": "x" * 301},
    ],
    PLANS.name: [{"key": "x"}, {"key": ""}, {"plan": ""}, {"shard": -1}, {"ids": None}, {"owners": None}],
    DECISIONS.name: [
        {"run_id": ""},
        {"rank": 0},
        {"rank": None},
        {"id": "c"},
        {"fate": "kept"},
        {"fate": "near_duplicate", "reason": "near"},
        {"fate": "over_budget"},
        {"reason": "told"},
        {"duplicate_of": A},
        {"similarity": 1.1},
        {"similarity": -1.1},
        {"n_scored": 0},
    ],
    SNAPSHOTS.name: [{"number": 1}, {"number": 0}, {"run_id": "1"}, {"run_id": ""}, {"folder": ""}, {"report": "[]"}],
    PAIRS.name: [
        {"instruction": None},
        {"chosen": A},
        {"rejected": B},
        {"chosen_score": 2.0},
        {"margin": 0.0, "rejected_score": 5.5},
        {"margin": -3.5, "chosen_score": 2.0, "rejected_score": 5.5},
        {"margin": 1.0},
        {"similarity": None},
        {"similarity": 1.1},
    ],
    PAIR_FATES.name: [
        {"id": A},
        {"score": 0.5},
        {"fate": "selected"},
        {"fate": "near_identical"},
        {"duplicate_of": A},
    ],
    REMOVALS.name: [{"id": "b"}, {"status": "done"}, {"removed": ""}, {"reason": "x" * 301}, {"reason": None}],
    VECTORS.name: [
        {"text_id": A},
        {"text_id": "b"},
        {"n_tokens": 0},
        {"vector": None},
        {"vector": [0.0, 0.0, 0.0]},
        {"vector": [0.0, 0.0, 1.01]},
        {"vector": [0.0, float("nan"), 1.0]},
        {"vector": [0.0, float("inf"), 0.0]},
    ],
}
TABLES = [
    SAMPLES,
    SOURCES,
    REJECTS,
    SCORES,
    RAW_SCORES,
    JUDGED_SCORES,
    CHAINS,
    RANKINGS,
    PLANS,
    DECISIONS,
    SNAPSHOTS,
    REMOVALS,
    PAIRS,
    PAIR_FATES,
    VECTORS,
]


def name_of(value):
    return getattr(value, "name", None)


def frame(table, rows=None):
    return pl.DataFrame(rows or ROWS[table.name], schema=table.empty().schema)


def with_last(table, change):
    """The table's good rows, the last of them changed."""
    *others, last = ROWS[table.name]
    return frame(table, [*others, {**last, **change}])


@pytest.mark.parametrize("table", TABLES, ids=name_of)
def test_a_table_takes_what_it_is_for(table):
    assert table.validate(frame(table)).equals(frame(table))
    assert table.validate(table.empty()).is_empty()


@pytest.mark.parametrize(
    ("table", "change"),
    [(table, change) for table in TABLES for change in REFUSED[table.name]],
    ids=lambda value: name_of(value) or str(value)[:60],
)
def test_a_table_refuses_a_row_that_is_not_what_it_says(table, change):
    with pytest.raises(InvalidTableError, match=rf"^table {table.name} refused \d+ values: "):
        table.validate(with_last(table, change))


@pytest.mark.parametrize("table", TABLES, ids=name_of)
def test_a_table_has_no_column_more_and_none_less(table):
    good = frame(table)
    with pytest.raises(InvalidTableError):
        table.validate(good.with_columns(note=pl.lit("x")))
    for name in good.columns:
        with pytest.raises(InvalidTableError):
            table.validate(good.drop(name))


@pytest.mark.parametrize("table", TABLES, ids=name_of)
def test_a_table_has_its_columns_in_order(table):
    with pytest.raises(InvalidTableError):
        table.validate(frame(table).select(reversed(table.empty().columns)))


@pytest.mark.parametrize(
    ("table", "column", "kind"),
    [
        (SAMPLES, "n_turns", pl.Int64),
        (SAMPLES, "n_chars", pl.Int32),
        (SCORES, "score", pl.Float32),
        (SCORES, "turn", pl.Int64),
        (CHAINS, "step", pl.Int64),
        (RANKINGS, "score", pl.Float64),
        (RANKINGS, "shown", pl.UInt32),
        (DECISIONS, "rank", pl.Int32),
        (VECTORS, "vector", pl.List(pl.Float32)),
        (VECTORS, "vector", pl.Array(pl.Float64, 3)),
    ],
    ids=lambda value: name_of(value) or str(value),
)
def test_a_column_has_its_type_and_no_other(table, column, kind):
    with pytest.raises(InvalidTableError):
        table.validate(frame(table).with_columns(pl.col(column).cast(kind)))


def test_a_failed_attempt_leaves_no_gap_in_a_chain():
    """Attempts that failed may stand anywhere; those that worked are counted through, chain by chain."""
    failed = SEED | {"step": 5, "operation": "depth", "text": None, "status": "failed", "reason": "refusal"}
    CHAINS.validate(frame(CHAINS, [failed, *ROWS[CHAINS.name][::-1], failed | {"attempt": 1}]))


def test_one_bad_chain_among_many_is_refused():
    many = [SEED | {"chain": f"{n:032x}", "step": step} for n in range(200) for step in range(3)]
    CHAINS.validate(frame(CHAINS, many))
    for gap in (0, 1):
        with pytest.raises(InvalidTableError):
            CHAINS.validate(frame(CHAINS, [row for row in many if (row["chain"], row["step"]) != (f"{7:032x}", gap)]))


def test_messages_are_roles_and_contents():
    bare = frame(SAMPLES).with_columns(messages=pl.lit(["Why?", "So."]))
    with pytest.raises(InvalidTableError):
        SAMPLES.validate(bare)


def test_vectors_of_another_length_are_another_encoders():
    with pytest.raises(InvalidTableError):
        vectors_table("minilm-1", 4).validate(frame(VECTORS))


@settings(deadline=None, max_examples=25)
@given(hnp.arrays(np.float32, (4, 3), elements=st.floats(-1, 1, width=32)), st.floats(1.002, 100))
def test_a_vector_is_of_length_one_within_rounding(vectors, factor):
    lengths = np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    assume((lengths > 1e-30).all())
    unit = (vectors / lengths).astype(np.float32)
    rows = {"text_id": [f"{i:032x}" for i in range(4)], "n_tokens": [1] * 4}
    VECTORS.validate(pl.DataFrame({**rows, "vector": unit}, schema=VECTORS.empty().schema))
    unit[2] *= factor
    with pytest.raises(InvalidTableError, match=r"vector: .*\(row 2\)"):
        VECTORS.validate(pl.DataFrame({**rows, "vector": unit}, schema=VECTORS.empty().schema))


@pytest.mark.parametrize("table", TABLES, ids=name_of)
def test_a_refusal_never_quotes_whole_values(table):
    schema = table.empty().schema
    private = "private words " * 1_000
    change = {
        name: private if kind == pl.String else -1 for name, kind in schema.items() if kind in (pl.String, pl.Int32)
    }
    with pytest.raises(InvalidTableError) as refusal:
        table.validate(with_last(table, change))
    assert private[:200] not in str(refusal.value)
    assert len(str(refusal.value)) < 800


def test_a_refusal_counts_every_failure_and_shows_a_few():
    with pytest.raises(InvalidTableError) as refusal:
        SCORES.validate(frame(SCORES, [{"id": "b", "turn": n, "score": 2.0, "status": "ok"} for n in range(300)]))
    assert "refused 300 values" in str(refusal.value)
    assert str(refusal.value).count("(row ") == 5


def test_every_encoder_and_every_scorer_has_a_table_of_its_own():
    assert vectors_table("minilm-1", 3).name != vectors_table("minilm-2", 3).name
    assert scores_table("quality-1").name != scores_table("quality-2").name
