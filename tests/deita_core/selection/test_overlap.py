import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.selection.overlap import find_overlaps, normalized_words

NUMBERS = [f"w{i}" for i in range(40)]


def text(*numbers):
    return " ".join(NUMBERS[i] for i in numbers)


def naive(texts, held_out, words):
    """Every run of every text against every run of every held-out text, as lists of words."""

    def runs(found):
        return [found[i : i + words] for i in range(len(found) - words + 1)]

    def overlap(a, b):
        if len(a) < words or len(b) < words:
            return bool(a) and a == b
        return any(run in runs(b) for run in runs(a))

    told = []
    for each in map(normalized_words, texts):
        others = [i for i, other in enumerate(map(normalized_words, held_out)) if overlap(each, other)]
        told.append(others[0] if others else None)
    return told


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_none():
    held_out = [text(*range(30))]
    assert find_overlaps([text(39, *range(4, 17), 38)], held_out) == [0]
    assert find_overlaps([text(39, *range(4, 16), 38)], held_out) == [None]


@pytest.mark.parametrize("before", range(15))
def test_a_run_is_found_wherever_it_stands(before):
    assert find_overlaps([" ".join(["x"] * before) + " " + text(*range(13))], [text(*range(13))]) == [0]


def test_case_punctuation_and_white_space_make_no_difference():
    said = "The quick, brown fox -- jumps over the lazy dog; then IT sleeps all day."
    assert find_overlaps([said.upper().replace(" ", "\n\n").replace(",", "")], [said]) == [0]


def test_a_short_text_overlaps_only_its_equal():
    held_out = ["Why is the sky blue?", text(*range(20))]
    asked = ["why is the sky BLUE", "Why is the sky blue today?", text(0, 1, 2), "", "?!"]
    assert find_overlaps(asked, [*held_out, "", "..."]) == [0, None, None, None, None]


def test_the_first_of_several_held_out_texts_is_named():
    held_out = [text(*range(20, 35)), text(*range(15)), text(*range(1, 16))]
    assert find_overlaps([text(*range(1, 15)), text(*range(3, 16))], held_out) == [1, 2]


def test_texts_may_be_a_stream_and_both_may_be_empty():
    assert find_overlaps((each for each in ["a b", "c"]), ["c"], words=1) == [None, 0]
    assert find_overlaps([], ["a"]) == [] and find_overlaps(["a"], []) == [None]


WORDS = st.lists(st.sampled_from(["a", "B", "b", "c", "Ærø", "x_1"]), max_size=25)
TEXT = st.builds(lambda words, gap: gap.join(words), WORDS, st.sampled_from([" ", ", ", "\n"]))


@given(st.lists(TEXT, max_size=6), st.lists(TEXT, max_size=5), st.integers(1, 14))
def test_it_finds_what_a_comparison_of_all_runs_finds(texts, held_out, words):
    assert find_overlaps(texts, held_out, words) == naive(texts, held_out, words)


def test_planted_runs_are_found_among_thousands_of_texts():
    draw = random.Random(0)
    vocabulary = [f"v{i}" for i in range(300)]
    held_out = [" ".join(draw.choices(vocabulary, k=80)) for _ in range(50)]
    texts = [" ".join(draw.choices(vocabulary, k=100)) for _ in range(3_000)]
    planted = {i: draw.randrange(50) for i in draw.sample(range(3_000), 200)}
    for i, other in planted.items():
        start = draw.randrange(67)
        run = held_out[other].split()[start : start + 13]
        at = draw.randrange(100)
        texts[i] = " ".join([*texts[i].split()[:at], *run, *texts[i].split()[at:]])
    assert {i: found for i, found in enumerate(find_overlaps(texts, held_out)) if found is not None} == planted
