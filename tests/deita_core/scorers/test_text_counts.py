"""What is counted in texts; test_features.py holds every count to its definition."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.scorers import text_counts
from deita_core.scorers.text_counts import count_pairs, count_texts


def counted(text, *names):
    counts = count_texts([text])
    return tuple(int(getattr(counts, name)[0]) for name in names)


def assert_words(text, words):
    expected = len(words), len(set(words)), sum(map(len, words))
    assert counted(text, "words", "distinct_words", "word_characters") == expected


@given(st.text(alphabet="天空是蓝色的你好世界", max_size=60))
def test_every_chinese_character_is_a_word(text):
    assert_words(text, list(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, World! x2", ["hello", "world", "x2"]),
        ("GPU和CPU有什么区别？", ["gpu", "和", "cpu", "有", "什", "么", "区", "别"]),
        ("ひらがなカナ", list("ひらがなカナ")),
        ("한국", ["한", "국"]),
        ("Größe café ñandú", ["größe", "café", "ñandú"]),
        ("Привет, мир, ПРИВЕТ", ["привет", "мир", "привет"]),
        ("ΟΔΟΣ οδος", ["οδος", "οδος"]),
        ("İ", ["i\u0307"]),
        ("... !?", []),
        ("", []),
    ],
)
def test_words_are_found_in_any_script(text, words):
    assert_words(text, words)


@pytest.mark.parametrize(
    ("text", "count"), [("नमस्ते दुनिया", 2), ("தமிழ் மொழி", 2), ("cafe\u0301 olé", 2), ("בְּרֵאשִׁית בָּרָא", 2)]
)
def test_a_word_with_combining_signs_is_one_word(text, count):
    assert counted(text, "words") == (count,)


@pytest.mark.parametrize(
    ("text", "runs"),
    [("", 0), ("a b c", 0), ("a b c d", 1), ("a b c d a b c d", 4), ("a A a a a", 1), ("a b\nc d e", 2)],
)
def test_runs_of_four_words_are_counted_once(text, runs):
    assert counted(text, "distinct_runs") == (runs,)


@pytest.mark.parametrize(
    ("text", "lines", "list_items", "headings", "sentences"),
    [
        ("", 0, 0, 0, 0),
        ("\n \r\n\u2028", 0, 0, 0, 0),
        ("a\r\nb\n\n c", 3, 0, 0, 3),
        ("# Title\n #no\n##", 3, 0, 2, 3),
        ("- a\n * b\n•\tc\n-d\n-\n- ", 6, 4, 0, 6),
        ("1. a\n 22) b\n3.c\n4 . d\n٥. e\n²) f\n6.", 7, 3, 0, 11),
        ("One. Two! Three?! 四。", 1, 0, 0, 4),
    ],
)
def test_blank_lines_and_sentences_do_not_count(text, lines, list_items, headings, sentences):
    assert counted(text, "lines", "list_items", "headings", "sentences") == (lines, list_items, headings, sentences)


def test_an_instruction_shares_its_distinct_words_with_its_own_answer():
    counts = count_pairs(["To be or not", "to be", ""], ["not to be, to BE", "other words", "to be"])
    assert counts.shared_words.tolist() == [3, 0, 0]
    assert counts.asked_distinct_words.tolist() == [4, 2, 0]
    assert counts.asked_characters.tolist() == [12, 5, 0]
    assert counts.distinct_words.tolist() == [3, 2, 2]


def test_no_texts_have_no_counts():
    assert all(len(count) == 0 for count in vars(count_pairs([], [])).values())


def test_rows_of_a_chunk_are_no_more_than_fit_and_at_least_one(monkeypatch):
    monkeypatch.setattr(text_counts, "CHARACTERS_PER_CHUNK", 10)
    chunks = list(text_counts._chunks([4, 6, 1, 30, 10, 9, 2]))
    assert [(chunk.start, chunk.stop) for chunk in chunks] == [(0, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7)]


def test_threads_that_count_at_once_do_not_disturb_each_other(monkeypatch):
    monkeypatch.setattr(text_counts, "CHARACTERS_PER_CHUNK", 500)
    texts = [f"Line {i}. " * (i % 50) + "好 " * (i % 7) for i in range(300)]
    expected = vars(count_texts(texts))
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(count_texts, [texts] * 8):
            assert all(np.array_equal(expected[name], count) for name, count in vars(found).items())


def test_an_unpaired_surrogate_is_refused():
    with pytest.raises(UnicodeEncodeError):
        count_texts(["fine", "a\ud800"])
