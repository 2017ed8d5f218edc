import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.scorers.features import complexity_features, quality_features, text_shape, words_of

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


def unit_rows(n, dim=8, seed=0):
    rows = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


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
def test_the_shape_of_any_text_is_finite_and_of_one_size(text):
    shape = text_shape(text)
    assert np.isfinite(shape).all()
    assert len(shape) == len(text_shape(""))


@given(UNICODE, UNICODE)
def test_features_of_any_pair_are_finite(instruction, response):
    features, _ = quality_features([instruction], [response], unit_rows(1), unit_rows(1, seed=1))
    assert np.isfinite(features).all()


@pytest.mark.parametrize(
    "text", ["\0", "\n" * 5_000, "!" * 5_000, "a" * 100_000, "\u200b\u200b", "👩‍👩‍👧" * 50, "٣٤٥", "𠀀𠀁"]
)
def test_odd_texts_have_finite_features(text):
    assert np.isfinite(text_shape(text)).all()


def test_only_the_first_features_are_not_vectors():
    vectors = unit_rows(2)
    features, plain = complexity_features(TEXTS[:2], vectors)
    assert np.array_equal(features[:, plain:].astype(np.float32), vectors)


@given(st.text(alphabet="天空是蓝色的你好世界", max_size=60))
def test_every_chinese_character_is_a_word(text):
    assert words_of(text) == list(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, World! x2", ["hello", "world", "x2"]),
        ("GPU和CPU有什么区别？", ["gpu", "和", "cpu", "有", "什", "么", "区", "别"]),
        ("ひらがなカナ", list("ひらがなカナ")),
        ("한국", ["한", "국"]),
        ("Größe café ñandú", ["größe", "café", "ñandú"]),
        ("Привет, мир", ["привет", "мир"]),
        ("... !?", []),
        ("", []),
    ],
)
def test_words_are_found_in_any_script(text, words):
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("text", "count"), [("नमस्ते दुनिया", 2), ("தமிழ் மொழி", 2), ("cafe\u0301 olé", 2), ("בְּרֵאשִׁית בָּרָא", 2)]
)
def test_a_word_with_combining_signs_is_one_word(text, count):
    assert len(words_of(text)) == count


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
    assert not np.allclose(text_shape(repeated), text_shape(different), atol=0.2)
