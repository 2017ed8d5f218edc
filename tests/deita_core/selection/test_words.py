import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.selection.words import normalized_words, read_words, text_blocks

HAN = "\u3400-\u4dbf\u4e00-\u9fff"
# Letters of several scripts, what stands between words, and what is invisible.
LETTERS = st.text(alphabet="abAB1,2 3_*-\n\t\u00a0\u3000Ａé\u0301ßΣς你好ไทயி한\u200b\u00ad\u2060#$\\n😀", max_size=30)


def plain(text):
    """The words, one character at a time, for texts without commands and grouped digits."""
    words, inside = [], False
    for letter in unicodedata.normalize("NFKC", text).lower():
        kind = unicodedata.category(letter)
        if kind == "Cf" and letter != "\u200b":
            continue
        whole = re.match(f"[{HAN}\u0e00-\u0eff\u3040-\u30ff]", letter)
        if kind[0] not in "LMN":
            inside = False
        elif whole:
            words.append(letter)
            inside = False
        elif inside:
            words[-1] += letter
        else:
            words.append(letter)
            inside = True
    return words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The QUICK, brown -- fox's", "the quick brown fox s"),
        ("## **Task**\n> _one_ `two`|three", "task one two three"),
        ("no\u00a0break\u3000and\u2009thin\tspace\u200bhere", "no break and thin space here"),
        ("Ｆｕｌｌ ｗｉｄｔｈ ⅷ x²", "full width viii x2"),
        ("“don’t” 'don't'", "don t don t"),
        ("so\u00adft\u2060ly \ufeffwritten", "softly written"),
        ("12,345 and 1,234,567 but 1,2 and 3, 400", "12345 and 1234567 but 1 2 and 3 400"),
        (r"\frac{1}{2}\cdot\sqrt{x} \text{ if } \(y\)", "1 2 x if y"),
        (r"one\nTwo\n\nThree \t4", "one two three 4"),
        ("café cafe\u0301", "café café"),
        ("请解释2024年的GDP增长", "请 解 释 2024 年 的 gdp 增 长"),
        ("ラーメンを食べる", "ラ ー メ ン を 食 べ る"),
        ("한국어 문장", "한국어 문장"),
        ("हिन्दी में", "हिन्दी में"),
        ("", ""),
        ("?! -- \n", ""),
    ],
)
def test_words_are_those_of_the_normalised_text(text, words):
    assert normalized_words(text) == words.split()


def test_each_character_of_thai_is_a_word():
    assert normalized_words("ไทย") == ["ไ", "ท", "ย"]


@given(st.lists(LETTERS, max_size=6))
def test_words_are_those_found_one_character_at_a_time(texts):
    texts = [text for text in texts if "\\" not in text]
    read = read_words(texts)
    found = [[] for _ in texts]
    for word, owner in zip(read.spelled(0, len(read.owners)), read.owners, strict=True):
        found[owner].append(word)
    assert found == [plain(re.sub(r"(?<=\d),(?=\d{3})", "", text)) for text in texts]


@given(st.lists(LETTERS, min_size=1, max_size=6), st.integers(1, 5))
def test_runs_have_equal_hashes_exactly_if_their_words_are_equal(texts, length):
    read = read_words(texts)
    firsts = read.one_text(np.arange(len(read.owners)), length)
    runs = [tuple(read.spelled(first, first + length)) for first in firsts]
    hashes = read.hashes(length, firsts).tolist()
    assert len(set(runs)) == len(set(hashes)) == len(set(zip(runs, hashes, strict=True)))
    owned = [owner for owner, words in enumerate(map(normalized_words, texts)) for _ in range(len(words) - length + 1)]
    assert read.owners[firsts].tolist() == owned


def test_a_hash_does_not_depend_on_where_a_run_stands():
    texts = ["zero " * 50_000 + "one two", "one two", "onet wo"]
    read = read_words(texts)
    last = read.hashes(2)[[50_000, 50_002, 50_004]]
    assert last[0] == last[1] != last[2]


def test_texts_of_exactly_so_many_words_are_found():
    read = read_words(["a b", "", "a", "c d", "e f g"])
    assert [read.spelled(first, first + 2) for first in read.whole(2)] == [["a", "b"], ["c", "d"]]


@given(st.lists(st.text(max_size=5), max_size=20))
def test_blocks_hold_all_texts_in_order(texts):
    assert [text for block in text_blocks(iter(texts)) for text in block] == texts


def test_blocks_end_after_so_many_characters():
    assert [len(block) for block in text_blocks(["x" * 400_000] * 7)] == [3, 3, 1]
