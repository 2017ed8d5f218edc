"""Features of texts, held to their definition text by text, to the last bit."""

import re
import sys
import unicodedata
import zlib
from itertools import pairwise

import numpy as np
import orjson
import polars as pl
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from deita_core.scorers import text_counts
from deita_core.scorers.features import complexity_features, instruction_features, pair_features, quality_features
from tests.support.paths import SHARED

POOL, MULTI_TURN = SHARED / "data/pool_real.parquet", SHARED / "data/multi_turn.jsonl"

TEXTS = [
    "How do I bake bread?",
    "",
    "   ",
    "请解释为什么天空是蓝色的。",
    "def f(x):\n    return x ** 2  # squared",
    "1. First\n2. Second\n- third\n**bold** `code`",
    "word " * 500,
    "¿Por qué? ¡Porque sí!",
]
UNICODE = st.text(max_size=300)
# Texts of parts that are counted or that separate: blank lines, list items, headings, final sigmas, a dotted capital I.
PARTS = [
    *"aZé9٣²Ⅷǅ好かカ한ー_\u0301\u200d😀.!?。！？,;:、，；：()[]{}=+*/^<>\\#-•`\"'”」…|~ \u3000\xa0\t\0İΣσς",
    *"\n\r\v\f\x1c\x1d\x1e\x1f\x85\u2028\u2029",
    *("\r\n", "\n\n", "\n - ", "\n* x", "\n12. ", "\n3) ", "\n٣. ", "\n²) ", "\n1.\n", "\n-"),
    *("# ", "**", "```", "ΟΔΟΣ", "ΑΣ.Α"),
    *("the ", "The ", "THE ", "one two three four five "),
]
LAID_OUT = st.lists(st.sampled_from(PARTS), max_size=60).map("".join)
ANY_TEXT = st.one_of(UNICODE, LAID_OUT)
CHUNKS = st.sampled_from([1, 40, 300, 2**18])


def unit_rows(n, dim=8, seed=0):
    rows = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# -- the definition


# A CJK character is a word; in other scripts, a run of letters, digits and combining marks.
WORD = regex.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[[\p{L}\p{N}\p{M}_]--[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]]+",
    regex.V1,
)
SENTENCE_END = re.compile(r"[.!?。！？\n]+")
LIST_ITEM = re.compile(r"\s*([-*•]|\d+[.)])\s")
COMPLETE = tuple(".!?。！？…)`\"'”’」』}]*|>~")
LENGTH_KNOTS = (3.5, 5.0, 6.0, 7.0)


def words_of(text):
    return WORD.findall(text.lower())


def shape_by_definition(text):
    words = words_of(text) or [""]
    lines = [line for line in text.splitlines() if line.strip()] or [""]
    sentences = [part for part in SENTENCE_END.split(text) if part.strip()] or [""]
    n_chars, n_words = max(1, len(text)), len(words)
    runs = [tuple(words[i : i + 4]) for i in range(n_words - 3)]
    return [
        *hinges(np.log1p(len(text)), LENGTH_KNOTS),
        float(np.log1p(n_words)),
        float(np.log(len(lines))),
        len(set(words)) / n_words**0.8,
        1 - len(set(runs)) / max(1, len(runs)),
        redundancy(text),
        sum(map(len, words)) / n_words,
        float(np.log1p(n_chars / len(sentences))),
        float(text.rstrip().endswith(COMPLETE)),
        sum(map(str.isdigit, text)) / n_chars,
        sum(bool(LIST_ITEM.match(line)) for line in lines) / len(lines),
        float("```" in text),
        float(np.log1p(text.count("**") + sum(line.startswith("#") for line in lines))),
        sum(text.count(c) for c in ",;:、，；：") / n_words,
        float(np.log1p(text.count("?") + text.count("？"))),
        (text.count("!") + text.count("！")) / len(sentences),
        sum(text.count(c) for c in "()[]{}") / n_words,
        sum(text.count(c) for c in "=+*/^<>\\") / n_chars,
        sum(map(str.isupper, text)) / n_chars,
        (len(text) - len(text.encode("ascii", "ignore"))) / n_chars,
    ]


def relation_by_definition(instruction, response):
    asked, answered = set(words_of(instruction)), set(words_of(response))
    shared = len(asked & answered)
    return [
        float(np.log1p(len(instruction))),
        float(np.log1p(len(response)) - np.log1p(len(instruction))),
        shared / max(1, len(answered)),
        shared / max(1, len(asked)),
    ]


def redundancy(text):
    data = text.encode()
    return len(zlib.compress(data, 6)) / max(20, len(data))


def hinges(value, knots):
    return [float(value), *(max(0.0, float(value) - knot) for knot in knots)]


def assert_same_bits(found, expected):
    found, expected = np.asarray(found), np.array(expected, dtype=np.float64)
    assert found.dtype == np.float64 and found.shape == expected.shape
    rows, columns = np.nonzero(found.view(np.int64) != expected.view(np.int64))
    assert not len(rows), (
        f"row {rows[0]}, feature {columns[0]}: {found[rows[0], columns[0]]!r}, not {expected[rows[0], columns[0]]!r}"
    )


def assert_as_defined(texts, answers):
    assert_same_bits(instruction_features(texts), [shape_by_definition(text) for text in texts])
    pairs = zip(texts, answers, strict=True)
    assert_same_bits(
        pair_features(texts, answers), [[*shape_by_definition(r), *relation_by_definition(i, r)] for i, r in pairs]
    )


# -- as defined


@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=6), CHUNKS)
def test_features_of_any_texts_are_those_of_the_definition_in_any_chunks(pairs, characters):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_counts, "CHARACTERS_PER_CHUNK", characters)
        assert_as_defined([asked for asked, _ in pairs], [answer for _, answer in pairs])


@given(st.lists(st.sampled_from(["to", "be", "or", "not", "好", "Be", ".", "\n"]), max_size=80).map(" ".join))
def test_repeated_runs_of_words_are_counted_as_defined(text):
    assert_as_defined([text, text + " be", ""], [text[::-1], text, text])


@pytest.mark.parametrize("between", ["", " ", "\n", ". ", "a", "\n1"])
def test_every_assigned_character_is_counted_as_defined(between):
    """Neighbours in blocks of 64, so that a word of a script is followed by another of it."""
    points = (chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    assigned = [c for c in points if unicodedata.category(c) not in ("Cn", "Co")]
    texts = [between.join(assigned[i : i + 64]) for i in range(0, len(assigned), 64)]
    assert_same_bits(instruction_features(texts), [shape_by_definition(text) for text in texts])


@pytest.mark.parametrize(
    "text",
    [
        "\0", "\n" * 5_000, " " * 5_000, "!" * 5_000, "a" * 300_000, "a b " * 100_000, "1" * 5_000 + ". ",
        "\u200b\u200b", "👩\u200d👩\u200d👧" * 50, "٣٤٥", "𠀀𠀁", "İ" * 50, "ΑΣ ΣΑ Σ",
        "- ", "-\n", "1.\u2028x", "\x1f- a", "\ufeff# a", "#\n##", "1.) a",
    ],
    ids=lambda text: ascii(text[:8]),
)  # fmt: skip
def test_odd_texts_are_counted_as_defined(text):
    assert_as_defined([text, "", text], ["", text, text + " "])


def test_a_cosine_bends_at_its_knots_as_defined():
    asked, answered = unit_rows(50, dim=3), unit_rows(50, dim=3, seed=1)
    features, plain = quality_features(["a"] * 50, ["b"] * 50, asked, answered)
    cosine = (asked.astype(np.float64) * answered).sum(axis=1)
    assert_same_bits(features[:, plain - 5 : plain], [hinges(value, (0.2, 0.4, 0.6, 0.8)) for value in cosine])


def turns(messages):
    """Each question with its answer of messages (role, content)."""
    return [(asked, answer) for (role, asked), (_, answer) in pairwise(messages) if role in ("user", "human")]


@pytest.mark.realdata
@pytest.mark.skipif(not POOL.exists(), reason=f"the real pool is not at {POOL}")
def test_features_of_real_turns_are_those_of_the_definition():
    samples = pl.read_parquet(POOL, n_rows=2_000)["messages"].to_list()
    pairs = [pair for sample in samples for pair in turns([(m["role"], m["content"]) for m in sample])]
    assert len(pairs) > 2_000
    assert_as_defined([asked for asked, _ in pairs], [answer for _, answer in pairs])


@pytest.mark.realdata
@pytest.mark.skipif(not MULTI_TURN.exists(), reason=f"the real conversations are not at {MULTI_TURN}")
def test_features_of_long_conversations_are_those_of_the_definition():
    with MULTI_TURN.open("rb") as lines:
        samples = [orjson.loads(line)["conversations"] for line, _ in zip(lines, range(500), strict=False)]
    pairs = [pair for sample in samples for pair in turns([(m["from"], m["value"]) for m in sample])]
    assert len(pairs) > 1_000
    assert_as_defined([asked for asked, _ in pairs], [answer for _, answer in pairs])


# -- of a row alone


@given(st.permutations(range(len(TEXTS))))
def test_complexity_features_are_those_of_the_text_whatever_the_order(order):
    vectors = unit_rows(len(TEXTS))
    straight, _ = complexity_features(TEXTS, vectors)
    shuffled, _ = complexity_features([TEXTS[i] for i in order], vectors[order])
    assert np.array_equal(straight[order], shuffled)


@given(st.permutations(range(len(TEXTS))))
def test_quality_features_are_those_of_the_pair_whatever_the_order(order):
    asked, answered, answers = unit_rows(len(TEXTS)), unit_rows(len(TEXTS), seed=1), TEXTS[::-1]
    straight, _ = quality_features(TEXTS, answers, asked, answered)
    shuffled, _ = quality_features(
        [TEXTS[i] for i in order], [answers[i] for i in order], asked[order], answered[order]
    )
    assert np.array_equal(straight[order], shuffled)


@pytest.mark.parametrize("row", range(len(TEXTS)))
def test_features_of_one_pair_are_those_it_has_among_others(row):
    asked, answered, answers = unit_rows(len(TEXTS)), unit_rows(len(TEXTS), seed=1), TEXTS[::-1]
    together, _ = quality_features(TEXTS, answers, asked, answered)
    alone, _ = quality_features(
        TEXTS[row : row + 1], answers[row : row + 1], asked[row : row + 1], answered[row : row + 1]
    )
    assert np.array_equal(together[row], alone[0])


@given(UNICODE)
def test_the_features_of_any_text_are_finite(text):
    shapes = instruction_features([text, ""])
    assert np.isfinite(shapes).all()


@given(UNICODE, UNICODE)
def test_features_of_any_pair_are_finite(instruction, response):
    features, _ = quality_features([instruction], [response], unit_rows(1), unit_rows(1, seed=1))
    assert np.isfinite(features).all()


def test_only_the_first_features_are_not_vectors():
    vectors = unit_rows(2)
    features, plain = complexity_features(TEXTS[:2], vectors)
    assert np.array_equal(features[:, plain:].astype(np.float32), vectors)


def test_a_repeated_sentence_has_another_shape_than_as_many_different_ones():
    repeated = "The bread rises slowly in the warm kitchen. " * 6
    different = " ".join(
        f"{subject} {verb} in the {place}."
        for subject, verb, place in [
            ("Bread", "rises slowly", "warm kitchen"),
            ("A fox", "sleeps all day", "tall grass"),
            ("Rain", "falls softly", "northern valley"),
            ("My aunt", "reads old letters", "attic room"),
            ("Engines", "hum all night", "harbour basin"),
            ("Students", "argue about ethics", "lecture hall"),
        ]
    )
    assert not np.allclose(*instruction_features([repeated, different]), atol=0.2)
