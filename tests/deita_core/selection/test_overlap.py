import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.selection.overlap import RunIndex, find_overlaps, normalized_words, runs_of, telling_runs

NUMBERS = [f"w{i}" for i in range(40)]


def text(*numbers):
    return " ".join(NUMBERS[i] for i in numbers)


def naive(texts, held_out, words):
    """Every run of every text against every run of every held-out text, as lists of words: all that overlap."""

    def runs(found):
        return [found[i : i + words] for i in range(len(found) - words + 1)]

    def overlap(a, b):
        if len(a) < words or len(b) < words:
            return bool(a) and a == b
        return any(run in runs(b) for run in runs(a))

    others = list(map(normalized_words, held_out))
    return [{i for i, other in enumerate(others) if overlap(each, other)} for each in map(normalized_words, texts)]


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


def test_the_held_out_text_with_most_words_in_common_is_named():
    held_out = [text(*range(14)), text(*range(20, 36))]
    found = RunIndex(runs_of(held_out, [7, 9])).find([text(39, *range(14), 38, *range(20, 36), 37)])
    assert found.select("text", "row", "start", "words").row(0) == (0, 9, 16, 16)
    assert found["quote"].to_list() == [text(*range(20, 36))]


def test_a_quotation_is_at_most_80_characters_without_spaces_between_characters_that_are_words():
    index = RunIndex(
        runs_of(
            ["word " * 30 + "x" * 100, "请把下面这句话翻译成英文并且解释 API 的意思", "y" * 200 + " 1 2 3 4"], [0, 1, 2]
        )
    )
    found = index.find(["word " * 30, "**请把下面这句话翻译成英文，并且解释API的意思**", "Y" * 200 + " 1, 2, 3, 4"])
    quotes = dict(found.select("text", "quote").iter_rows())
    assert quotes[0].startswith("word word") and quotes[0].endswith(" …") and len(quotes[0]) <= 80
    assert quotes[1] == "请把下面这句话翻译成英文并且解释 api 的意思"
    assert quotes[2] == "y" * 78 + " …"


def test_texts_may_be_a_stream_and_both_may_be_empty():
    assert find_overlaps((each for each in ["a b", "c"]), ["c"], words=1) == [None, 0]
    assert find_overlaps([], ["a"]) == [] and find_overlaps(["a"], []) == [None]


WORDS = st.lists(st.sampled_from(["a", "B", "b", "c", "Ærø", "x_1"]), max_size=25)
TEXT = st.builds(lambda words, gap: gap.join(words), WORDS, st.sampled_from([" ", ", ", "\n"]))


@given(st.lists(TEXT, max_size=6), st.lists(TEXT, max_size=5), st.integers(1, 14))
def test_it_finds_what_a_comparison_of_all_runs_finds(texts, held_out, words):
    found = find_overlaps(texts, held_out, words)
    for one, overlapping in zip(found, naive(texts, held_out, words), strict=True):
        assert one in overlapping if overlapping else one is None


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


def contained(texts, held_out, shortest):
    """The first of 13 words or more in common, or all words of a shorter text: where each text overlaps any other."""

    def overlap(said, held):
        if len(held) < shortest:
            return bool(held) and said == held
        runs = [held[i : i + 13] for i in range(max(len(held) - 12, 1))]
        return any(said[i : i + len(run)] == run for run in runs for i in range(len(said) - len(run) + 1))

    others = list(map(normalized_words, held_out))
    return [{i for i, other in enumerate(others) if overlap(each, other)} for each in map(normalized_words, texts)]


FEW = st.builds(" ".join, st.lists(st.sampled_from(["a", "b", "c"]), max_size=8))
MANY = st.builds(" ".join, st.lists(st.sampled_from(["a", "b"]), max_size=40))


@given(st.lists(MANY | FEW, max_size=6), st.lists(MANY | FEW, max_size=5), st.integers(1, 13))
def test_a_short_text_is_found_inside_others_if_it_has_enough_words(texts, held_out, shortest):
    index = RunIndex(runs_of(held_out, range(len(held_out)), shortest=shortest), shortest=shortest)
    found = index.find(texts)
    expected = contained(texts, held_out, shortest)
    assert found["text"].sort().to_list() == [i for i, overlapping in enumerate(expected) if overlapping]
    for i, row, start, words, quote in found.iter_rows():
        assert row in expected[i]
        said = normalized_words(texts[i])
        assert quote.removesuffix(" …") == " ".join(said[start : start + words])[: len(quote.removesuffix(" …"))]
        least = min(13, len(normalized_words(held_out[row])))
        assert start + words <= len(said) and words >= least
        run = " ".join(said[start : start + least])
        assert f" {run} " in f" {' '.join(normalized_words(held_out[row]))} "


def test_what_many_rows_share_can_be_left_out():
    shared = "choose the right one of these four answers and write only its letter please"
    held_out = [f"{shared}: {text(i, i + 1, i + 2)}" for i in range(20)]
    runs = runs_of(held_out, range(20))
    others = telling_runs(runs, 10)
    asked = [f"{shared}: who was it?", held_out[3]]
    assert RunIndex(runs).find(asked)["text"].sort().to_list() == [0, 1]
    assert RunIndex(others).find(asked)["text"].to_list() == [1]


def test_a_run_of_few_different_words_can_be_left_out_and_a_short_text_stays():
    held_out = ["1 0 " * 20, "0 1 2 3 " * 5, "0 1 2 3 4 " * 5, "no no no no", "no no no no no"]
    runs = runs_of(held_out, range(5))
    assert RunIndex(runs).find(held_out)["text"].sort().to_list() == [0, 1, 2, 3, 4]
    assert RunIndex(telling_runs(runs, 5)).find(held_out)["text"].sort().to_list() == [2, 3, 4]


def test_an_index_takes_at_most_20_bytes_for_a_run():
    draw = random.Random(1)
    for count in (500, 1_030, 1_500):
        runs = runs_of([" ".join(f"w{draw.randrange(10**9)}" for _ in range(count))], [0])
        assert len(runs) == count - 12 and RunIndex(runs).nbytes <= 20 * len(runs) + 8
