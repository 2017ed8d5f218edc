import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.report.figures import (
    LISTED,
    STEP,
    Share,
    compose,
    funnel,
    histogram,
    line_ranges,
    random_at_equal_tokens,
    rejections,
    rewards,
    threshold_figures,
)

FATES = ("selected", "near_duplicate", "over_budget", "rejected")


def decided(*rows):
    """Rows of decisions: fate, copies."""
    return pl.DataFrame(rows, schema={"fate": pl.String, "copies": pl.Int32}, orient="row")


@given(st.lists(st.tuples(st.sampled_from(FATES), st.none() | st.integers(1, 5))))
def test_every_row_read_is_in_one_step_of_the_funnel(rows):
    read, *others = funnel(decided(*rows))
    assert read.rows == sum(copies or 1 for _, copies in rows)
    assert sum(step.rows for step in others) == read.rows
    assert {step.name for step in others} == {*FATES, "merged"}


@given(st.lists(st.integers(1, 60), min_size=1))
def test_lines_are_told_as_ranges_that_hold_them_and_no_others(lines):
    told = line_ranges(pl.Series(lines))
    held = set()
    for part in told.split(", "):
        first, _, last = part.partition("-")
        held |= set(range(int(first), int(last or first) + 1))
    assert held == set(lines)


@st.composite
def sized(draw):
    """Samples with tokens and a fate."""
    rows = draw(st.lists(st.tuples(st.sampled_from(FATES), st.integers(1, 500)), min_size=1, max_size=60))
    ids = draw(st.lists(st.integers(0, 2**128 - 1), min_size=len(rows), max_size=len(rows), unique=True))
    return pl.DataFrame(
        {"id": [f"{i:032x}" for i in ids], "fate": [f for f, _ in rows], "tokens": [t for _, t in rows]}
    )


@given(sized())
def test_random_rows_have_the_tokens_of_the_selected_but_for_one_row(samples):
    wanted = samples.filter(pl.col("fate") == "selected")["tokens"].sum()
    drawn = random_at_equal_tokens(samples)
    assert drawn["tokens"].sum() >= wanted
    assert drawn["tokens"].head(max(0, len(drawn) - 1)).sum() < wanted or not wanted
    assert "rejected" not in set(drawn["fate"])
    assert set(random_at_equal_tokens(samples.reverse())["id"]) == set(drawn["id"])


@given(st.lists(st.floats(-1, 1)), st.lists(st.floats(-1, 1)))
def test_a_histogram_counts_every_value_once(first, second):
    found = histogram("x", pl.Series(first, dtype=pl.Float64), pl.Series(second, dtype=pl.Float64), None)
    assert (sum(found.first), sum(found.second)) == (len(first), len(second))
    assert found.low < found.high


def test_the_cut_is_the_lowest_score_selected_and_length_correlates_by_rank():
    samples = pl.DataFrame(
        {
            "fate": ["selected", "selected", "over_budget", "rejected"],
            "score": [9.0, 4.0, 3.0, None],
            "complexity": [3.0, 2.0, 1.5, None],
            "quality": [3.0, 2.0, 2.0, None],
            "n_chars": [5_000, 40, 30, 7],
            "n_turns": [1, 1, 1, 1],
        }
    )
    found = rewards(samples)
    assert found.cut == 4.0
    assert found.with_length == pytest.approx(1.0)
    assert found.with_turns is None
    assert sum(count for _, _, count in found.by_length.cells) == 3


def test_a_step_of_the_threshold_counts_the_rows_between():
    near = [0.9 + STEP / 2, 0.9 + 2 * STEP, 0.99]
    far = [None, 0.2, 0.9 - STEP / 2]
    samples = pl.DataFrame({"fate": ["near_duplicate"] * 3 + ["selected"] * 3, "similarity": near + far})
    found = threshold_figures(samples, 0.9)
    assert (found.near_duplicates, found.compared, found.looser, found.tighter) == (3, 5, 1, 1)


def test_rejects_are_grouped_by_reason_and_file():
    decisions = pl.DataFrame(
        {
            "fate": ["rejected"] * 4 + ["selected"],
            "reason": ["broken_json: here", "broken_json: there", "no vector", "broken_json: x", None],
            "file": ["a", "a", "b", "b", "a"],
            "line": [3, 4, 1, 9, 1],
        }
    )
    first, second = rejections(decisions)
    assert (first.reason, first.rows, first.example) == ("broken_json", 3, "broken_json: here")
    assert [(file.file, file.rows, file.lines) for file in first.files] == [("a", 2, "3-4"), ("b", 1, "9")]
    assert (second.reason, second.example) == ("no vector", "no vector")


def test_rows_that_a_filter_left_out_are_grouped_by_the_filter():
    reasons = ["its score 3.2 is below 4", "its score 1.9 is below 4", "its language is fr, not en", "row 3 of a.jsonl"]
    decisions = pl.DataFrame(
        {
            "fate": ["filtered"] * 3 + ["contaminated"],
            "reason": reasons,
            "file": ["a"] * 4,
            "line": [1, 2, 3, 4],
        }
    )
    assert [(found.reason, found.rows) for found in rejections(decisions)] == [
        ("filtered: its score … is below 4", 2),
        ("contaminated", 1),
        ("filtered: its language is fr, not en", 1),
    ]


def composed(languages, selected):
    """The composition of rows of one token, the first of which are selected; languages None: not looked for."""
    rows = len(languages or selected * "x")
    fates = ["selected"] * selected + ["over_budget"] * (rows - selected)
    samples = pl.DataFrame({"id": [f"{i:032x}" for i in range(rows)], "fate": fates}).with_columns(
        pl.lit(1).alias(name) for name in ("tokens", "n_chars", "n_turns", "complexity", "quality")
    )
    samples = samples.with_columns(file=pl.lit("a"))
    drawn = samples.select("fate", weight=pl.lit(1.0), script=pl.lit("Latin"), cluster=pl.lit("one"))
    known = samples if languages is None else samples.with_columns(language=pl.Series(languages, dtype=pl.String))
    return compose(known, drawn)


def test_languages_are_shares_of_all_rows_where_they_were_looked_for():
    found = composed(["en", "de", None, "en"], selected=2).languages
    assert found == [
        Share("en", 0.5, 0.5, 0.5),
        Share("de", 0.25, 0.5, 0.5),
        Share("not known", 0.25, 0, 0),
    ]
    assert composed(None, selected=2).languages == []


def test_rare_languages_are_summed_up():
    codes = [f"l{i:02}" for i in range(LISTED + 3)]
    *listed, rest = composed([*codes, *codes[:LISTED]], selected=1).languages
    assert [share.name for share in listed] == codes[:LISTED]
    assert (rest.name, rest.pool) == ("3 more languages", pytest.approx(3 / (2 * LISTED + 3)))


def test_a_pool_of_which_nothing_was_scored_has_figures_without_numbers():
    columns = {"score": pl.Float64, "complexity": pl.Float64, "quality": pl.Float64}
    samples = pl.DataFrame(schema={"fate": pl.String, "n_chars": pl.Int64, "n_turns": pl.Int32, **columns})
    found = rewards(samples)
    assert (found.cut, found.with_length, found.by_length.cells) == (None, None, [])
