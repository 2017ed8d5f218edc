"""The share of repeated runs of words against a plain loop, and in several scripts."""

import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.selection.repetition import RUN, repetition


def shares(*owners):
    rows = [(owner, text) for owner, texts in enumerate(owners) for text in texts]
    frame = pl.DataFrame(rows, schema={"owner": pl.Int64, "text": pl.String}, orient="row")
    return repetition(frame)["repetition"].to_list()


def plain_share(texts):
    """By the definition, for ASCII letters only."""
    runs = repeated = 0
    for text in texts:
        words, had = re.findall("[a-z]+", text.lower()), set()
        for start in range(len(words) - 3):
            run = tuple(words[start : start + 4])
            runs, repeated = runs + 1, repeated + (run in had)
            had.add(run)
    return repeated / runs if runs else 0.0


@given(st.lists(st.lists(st.text("ab c.", max_size=60), min_size=1, max_size=3), max_size=5))
def test_the_share_is_that_of_a_plain_loop(owners):
    assert shares(*owners) == pytest.approx([plain_share(texts) for texts in owners])


def test_a_loop_of_words_is_almost_all_repeated_and_a_sentence_not_at_all():
    loop = "I do not know. " * 50
    sentence = "Put the egg into boiling water for eight minutes and cool it under the tap"
    assert shares([loop], [sentence]) == [pytest.approx(1 - 4 / 197), 0.0]


def test_case_and_punctuation_make_no_difference():
    assert shares(["one, two: THREE four! (one two) Three... four"]) == [pytest.approx(1 / 5)]


def test_runs_end_with_their_text_and_are_repeated_only_within_it():
    assert shares(["a b c d", "a b c d"], ["a b c", "d a b c"]) == [0.0, 0.0]


def test_the_share_is_over_the_runs_of_all_texts_of_an_owner():
    # One run of five is repeated in the first text, none of two in the second.
    assert shares(["a b c d a b c d", "e f g h i"]) == [pytest.approx(1 / 7)]


@pytest.mark.parametrize("texts", [[], [""], ["one two three"], ["!?", "..."]])
def test_texts_without_a_run_repeat_nothing(texts):
    assert shares(texts, ["a b c d"]) == ([0.0, 0.0] if texts else [0.0])


@pytest.mark.parametrize(
    ("text", "share"),
    [
        # Letters: 8 of them, 5 runs, one of them twice.
        ("你好世界，你好世界", 1 / 5),
        ("ありがとありがと", 1 / 5),
        # Whole words, with their vowel signs and accents.
        ("कैसे हो तुम लोग कैसे हो तुम लोग", 1 / 5),
        ("déjà vu tout ça déjà vu tout ça", 1 / 5),
        ("안녕 나의 오랜 친구 안녕 나의 오랜 친구", 1 / 5),
    ],
)
def test_words_are_those_of_the_script(text, share):
    assert shares([text]) == [pytest.approx(share)]


def test_a_run_has_four_words():
    assert RUN == 4
    assert shares(["x y z x y z"]) == [0.0]
    assert shares(["x y z w x y z w"]) == [pytest.approx(1 / 5)]


def test_owners_keep_their_order():
    frame = pl.DataFrame({"owner": ["b", "a", "b"], "text": ["x " * 9, "one", ""]})
    assert repetition(frame).rows() == [("b", pytest.approx(5 / 6)), ("a", 0.0)]
