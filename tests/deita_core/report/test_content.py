import base64
import json
import zlib

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.report.content import (
    LISTED_CHARS,
    OTHER_CHARS,
    ROOM,
    beginnings,
    draw,
    find_lists,
    held_texts,
    marked,
    packed,
    scripts_of,
)

SCHEMA = {"id": pl.String, "fate": pl.String, "rank": pl.Int64}


def pool(fates):
    """Samples in rank order, by their fates."""
    ranked = sorted(fates, key=lambda fate: fate == "rejected")
    rows = [(f"{i * 7919 % 99991:032x}", f, None if f == "rejected" else i + 1) for i, f in enumerate(ranked)]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def said(*texts):
    """One message of a user for each row."""
    owners = list(range(len(texts)))
    return pl.DataFrame({"owner": owners, "role": ["user"] * len(texts), "text": list(texts)})


FATES = st.lists(st.sampled_from(["selected", "over_budget", "near_duplicate", "rejected"]), max_size=50)


@given(FATES, st.integers(0, 60), st.integers(0, 5))
def test_the_rows_drawn_stand_for_the_whole_pool_and_hold_all_selected_ones(fates, most, listed):
    samples = pool(fates)
    names = samples["id"].head(listed).to_list()
    drawn = draw(samples, names, most)
    must = set(samples.filter(pl.col("fate") == "selected")["id"]) | set(names)
    assert must <= set(drawn["id"])
    assert len(drawn) == max(len(must), min(most, len(samples)))
    if len(drawn) > len(must):
        assert drawn["weight"].sum() == pytest.approx(len(samples))
    assert drawn["rank"].drop_nulls().is_sorted()


@given(st.text(max_size=300), st.text(max_size=300))
def test_marked_parts_are_the_texts_and_what_is_unmarked_is_common(one, other):
    left, right = marked(one, other)
    assert "".join(text for _, text in left) == one
    assert "".join(text for _, text in right) == other
    assert "".join(t for differs, t in left if not differs) == "".join(t for differs, t in right if not differs)


def test_what_differs_between_two_texts_is_marked():
    left, right = marked("the old cat sleeps", "the cat sleeps well")
    assert [text.strip() for differs, text in left if differs] == ["old"]
    assert [text.strip() for differs, text in right if differs] == ["well"]


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Plain words", "Latin"),
        ("Füße über Élan", "Latin"),
        ("今天天气很好 OK", "Han"),
        ("今日はいい天気ですね", "Japanese"),
        ("Привет, world, как дела", "Cyrillic"),
        ("123 + 4?", "none"),
        ("🙂🙂", "none"),
    ],
)
def test_the_writing_system_is_that_of_most_letters(text, script):
    assert scripts_of(pl.Series(["plain", text, "1"])).to_list() == ["Latin", script, "none"]


def test_a_beginning_is_one_line_of_the_first_message_of_a_user():
    messages = pl.DataFrame(
        {"owner": [0, 0, 0, 1], "role": ["system", "user", "user", "assistant"], "text": ["s", " a\n\tb ", "c", "d"]}
    )
    assert beginnings(messages).select("owner", "begins").rows() == [(0, "a b")]


def test_long_texts_are_cut_and_say_how_much_is_missing():
    drawn = pl.DataFrame({"id": ["a", "b"], "fate": ["selected", "selected"]})
    million = "x" * 1_000_000
    texts = held_texts(drawn, said(million, million), ["a"], ROOM)
    for position, chars in ((0, LISTED_CHARS), (1, OTHER_CHARS)):
        [[role, text]] = texts[position]
        assert role == "user"
        assert text == "x" * chars + f" … [{1_000_000 - chars} more characters]"


def test_selected_rows_have_their_texts_before_others_when_there_is_little_room():
    drawn = pl.DataFrame({"id": list("abcd"), "fate": ["over_budget", "selected", "over_budget", "selected"]})
    texts = held_texts(drawn, said("aaaa", "bbbb", "cccc", "dddd"), [], 60)
    assert set(texts) == {1, 3}
    assert set(held_texts(drawn, said("aaaa", "bbbb", "cccc", "dddd"), [], ROOM)) == {0, 1, 2, 3}


def test_the_lists_are_the_ends_of_the_ranking_and_the_pairs_those_around_the_threshold():
    fates = ["selected"] * 15 + ["near_duplicate"] * 15 + ["over_budget"] * 15
    n = len(fates)
    samples = pl.DataFrame(
        {
            "id": [f"{i:032x}" for i in range(n)],
            "fate": fates,
            "rank": range(1, n + 1),
            "score": [float(n - i) for i in range(n)],
            "complexity": [float(n - i) for i in range(n)],
            "quality": [float(i) for i in range(n)],
            "nearest": [None, *["0" * 32] * 29, *[None] * 15],
            "similarity": [
                None,
                *[0.5 + i / 100 for i in range(14)],
                *[0.91 + i / 200 for i in range(15)],
                *[None] * 15,
            ],
        }
    )
    found, ids = find_lists(samples), samples["id"].to_list()
    assert found.rows["best"] == ids[:10]
    assert found.rows["selected_last"] == ids[5:15]
    assert found.rows["first_left_out"] == ids[30:40]
    assert found.rows["worst"] == ids[:-11:-1]
    assert found.rows["complex_but_poor"][0] == ids[0]
    assert found.rows["good_but_simple"][0] == ids[-1]
    assert [id_ for id_, _, _ in found.pairs["above"]] == ids[15:25]
    assert [id_ for id_, _, _ in found.pairs["below"]] == ids[14:4:-1]


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_packed_content_holds_no_markup_and_comes_back(value):
    text = packed({"x": value})
    assert not set(text) & set("<>&\"'")
    assert json.loads(zlib.decompress(base64.b64decode(text))) == {"x": value}
