"""Counts of the words, lines, sentences and characters of many texts at once.

A chunk of texts is one array of code points, and each count is a few numpy operations on the whole of it. Chunks are
counted in threads: numpy, Arrow and zlib leave the interpreter free while they work.
"""

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, TypeVar

import numpy as np
import pyarrow as pa

from deita_core.scorers.characters import (
    BRACKET,
    BULLET,
    CAPITAL,
    CJK,
    DECIMAL,
    DIGIT,
    EXCLAMATION,
    IN_WORD,
    LINE_END,
    NOT_ASCII,
    NUMBER_END,
    PAUSE,
    QUESTION,
    SENTENCE_END,
    SPACE,
    SYMBOL,
    character_table,
    code_points,
)

# The arrays of so many characters stay in a processor's cache. A longer text is a chunk of its own.
CHARACTERS_PER_CHUNK = 2**18
THREADS = min(8, os.cpu_count() or 1)

_COMPLETE = tuple(".!?。！？…)`\"'”’」』}]*|>~")
_COUNTED_AS = {
    "not_ascii": NOT_ASCII,
    "digits": DIGIT,
    "capitals": CAPITAL,
    "pauses": PAUSE,
    "questions": QUESTION,
    "exclamations": EXCLAMATION,
    "brackets": BRACKET,
    "symbols": SYMBOL,
}


@dataclass(frozen=True)
class TextCounts:
    """Counts of n texts, each (n,) int64."""

    characters: np.ndarray
    not_ascii: np.ndarray
    digits: np.ndarray
    capitals: np.ndarray
    pauses: np.ndarray
    questions: np.ndarray
    exclamations: np.ndarray
    brackets: np.ndarray
    symbols: np.ndarray
    words: np.ndarray
    word_characters: np.ndarray
    distinct_words: np.ndarray
    distinct_runs: np.ndarray  # of four words
    lines: np.ndarray  # that are not blank
    list_items: np.ndarray
    headings: np.ndarray
    sentences: np.ndarray  # that are not blank
    bold_marks: np.ndarray
    code_fences: np.ndarray  # 1 if there is any
    complete: np.ndarray  # 1 if the last character ends a sentence, a quotation or a block
    bytes: np.ndarray
    compressed_bytes: np.ndarray


@dataclass(frozen=True)
class PairCounts(TextCounts):
    """Counts of n answers, and of what they share with their instructions, each (n,) int64."""

    asked_characters: np.ndarray
    asked_distinct_words: np.ndarray
    shared_words: np.ndarray


Counts = TypeVar("Counts", bound=TextCounts)


def count_texts(texts: Sequence[str]) -> TextCounts:
    """Return the counts of each text. Raises UnicodeEncodeError for a text with an unpaired surrogate."""

    def count(rows: slice) -> TextCounts:
        return TextCounts(**_counts(texts[rows], _find_words(texts[rows])))

    return _in_chunks(count, [len(text) + 1 for text in texts])


def count_pairs(instructions: Sequence[str], responses: Sequence[str]) -> PairCounts:
    """Return the counts of each response and its instruction. Raises UnicodeEncodeError as `count_texts`."""

    def count(rows: slice) -> PairCounts:
        asked, answers = instructions[rows], responses[rows]
        words_of_answers, words_of_asked = _find_words([*answers, *asked]).split(len(answers))
        return PairCounts(
            **_counts(answers, words_of_answers),
            asked_characters=_each(len, asked),
            asked_distinct_words=words_of_asked.per_text(words_of_asked.distinct),
            shared_words=words_of_answers.shared_with(words_of_asked),
        )

    sizes = [len(asked) + len(answer) + 2 for asked, answer in zip(instructions, responses, strict=True)]
    return _in_chunks(count, sizes)


def _in_chunks(count: Callable[[slice], Counts], sizes: Sequence[int]) -> Counts:
    """Count chunks of rows of these sizes in characters, and join the counts."""
    character_table()  # made once, before the threads ask for it
    with ThreadPoolExecutor(THREADS) as threads:
        parts = list(threads.map(count, _chunks(sizes)))
    return type(parts[0])(*map(np.concatenate, zip(*(vars(part).values() for part in parts), strict=True)))


def _chunks(sizes: Sequence[int]) -> Iterator[slice]:
    """Yield neighbouring rows that together have at most CHARACTERS_PER_CHUNK, or one row that has more."""
    first = total = 0
    for row, size in enumerate(sizes):
        if total + size > CHARACTERS_PER_CHUNK and row > first:
            yield slice(first, row)
            first, total = row, 0
        total += size
    yield slice(first, len(sizes))


@dataclass(frozen=True)
class _Words:
    """The words of n texts: of each its text and a number (m,) below `vocabulary` that equal words share."""

    text: np.ndarray
    number: np.ndarray
    vocabulary: int
    characters: np.ndarray  # (n,) of all words of a text

    @cached_property
    def distinct(self) -> np.ndarray:
        """Each text's distinct words, as text * vocabulary + number."""
        return _distinct(self.text * self.vocabulary + self.number)

    def per_text(self, distinct: np.ndarray) -> np.ndarray:
        """Return how many of these distinct words each text has (n,)."""
        return self._count(distinct // self.vocabulary)

    def shared_with(self, others: Self) -> np.ndarray:
        """Return how many distinct words each text shares with the other words' text (n,)."""
        either = _distinct(np.concatenate([self.distinct, others.distinct]))
        return self.per_text(self.distinct) + self.per_text(others.distinct) - self.per_text(either)

    def distinct_runs(self) -> np.ndarray:
        """Return how many distinct runs of four words each text has (n,)."""
        # Two pairs of words are a run. Exact: numbers, not hashes, and below 2**63, because a chunk has at most 2**18
        # texts and 2**19 pairs, or a single row.
        pairs, n_pairs = _numbered(_integers(self.number[:-1] * self.vocabulary + self.number[1:]))
        runs = (self.text[:-3] * n_pairs + pairs[:-2]) * n_pairs + pairs[2:]
        runs = _distinct(runs[self.text[:-3] == self.text[3:]])
        return self._count(runs // max(1, n_pairs**2))

    def words(self) -> np.ndarray:
        """Return how many words each text has (n,)."""
        return self._count(self.text)

    def split(self, n: int) -> tuple[Self, Self]:
        """Return the words of the first n texts and those of the others."""
        at = int(np.searchsorted(self.text, n))
        return (
            replace(self, text=self.text[:at], number=self.number[:at], characters=self.characters[:n]),
            replace(self, text=self.text[at:] - n, number=self.number[at:], characters=self.characters[n:]),
        )

    def _count(self, texts: np.ndarray) -> np.ndarray:
        return np.bincount(texts, minlength=len(self.characters))


def _find_words(texts: Sequence[str]) -> _Words:
    lowered = [text.lower() for text in texts]
    codes = code_points(lowered)
    kinds = character_table().take(codes)
    in_run = (kinds & IN_WORD) != 0
    begins = in_run.copy()
    begins[1:] &= ~in_run[:-1]
    begins |= (kinds & CJK) != 0
    letters = np.flatnonzero((kinds & (IN_WORD | CJK)) != 0)
    offsets = np.append(np.flatnonzero(begins.take(letters)), len(letters))
    number, vocabulary = _numbered(_strings(codes.take(letters), offsets))
    before = np.append(0, np.searchsorted(np.flatnonzero(begins), _ends(lowered)))  # words before each text's end
    text = np.repeat(np.arange(len(texts)), np.diff(before))
    return _Words(text, number, max(1, vocabulary), np.diff(offsets[before]))


def _counts(texts: Sequence[str], words: _Words) -> dict[str, np.ndarray]:
    """Return the fields of TextCounts."""
    codes, ends = code_points(texts), _ends(texts)
    kinds = character_table().take(codes)
    encoded = [text.encode() for text in texts]
    return {
        **_count_characters(kinds, ends),
        **_count_lines(codes, kinds, ends),
        "words": words.words(),
        "word_characters": words.characters,
        "distinct_words": words.per_text(words.distinct),
        "distinct_runs": words.distinct_runs(),
        "characters": _each(len, texts),
        "bold_marks": _each(lambda text: text.count("**"), texts),
        "code_fences": _each(lambda text: "```" in text, texts),
        "complete": _each(lambda text: text.rstrip().endswith(_COMPLETE), texts),
        "bytes": _each(len, encoded),
        "compressed_bytes": _each(lambda data: len(zlib.compress(data, 6)), encoded),
    }


def _count_characters(kinds: np.ndarray, ends: np.ndarray) -> dict[str, np.ndarray]:
    counted = np.flatnonzero((kinds & sum(_COUNTED_AS.values())) != 0)
    found = kinds[counted]
    return {name: _per_text(counted[(found & bit) != 0], ends) for name, bit in _COUNTED_AS.items()}


def _count_lines(codes: np.ndarray, kinds: np.ndarray, ends: np.ndarray) -> dict[str, np.ndarray]:
    """Count lines and sentences that are not blank, and the lines that are headings and list items."""
    is_printed = (kinds & SPACE) == 0
    printed = np.append(0, np.cumsum(is_printed))  # printed characters before each position

    def parts(separator: int) -> tuple[np.ndarray, np.ndarray]:
        """Begins and ends of the parts between separators, without blank ones."""
        stops = np.flatnonzero((kinds & separator) != 0)
        begins = np.append(0, stops + 1)[:-1]
        filled = printed[begins] < printed[stops]
        return begins[filled], stops[filled]

    lines, _ = parts(LINE_END)
    _, sentences = parts(SENTENCE_END)
    first_printed = np.flatnonzero(is_printed)[printed[lines]]
    return {
        "lines": _per_text(lines, ends),
        "list_items": _per_text(_list_items(kinds, first_printed), ends),
        "headings": _per_text(lines[codes[lines] == ord("#")], ends),
        "sentences": _per_text(sentences, ends),
    }


def _list_items(kinds: np.ndarray, first_printed: np.ndarray) -> np.ndarray:
    """Return where the bullet or number ends that a line begins with, if a space follows in the same line."""
    is_decimal = (kinds & DECIMAL) != 0
    after_digits = np.flatnonzero(is_decimal[:-1] & ~is_decimal[1:]) + 1
    numbered = is_decimal[first_printed]
    marks = first_printed.copy()
    marks[numbered] = after_digits[np.searchsorted(after_digits, marks[numbered])]
    marks = marks[(kinds[marks] & np.where(numbered, NUMBER_END, BULLET)) != 0]
    return marks[(kinds[marks + 1] & (SPACE | LINE_END)) == SPACE]


def _ends(texts: Sequence[str]) -> np.ndarray:
    """Return the positions (n,) behind each text and its line feed in the texts' code points."""
    return np.cumsum(_each(len, texts) + 1)


def _per_text(positions: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return how many of these ascending positions lie in each text (n,)."""
    return np.diff(np.searchsorted(positions, ends), prepend=0)


def _each(value: Callable[[Any], int], items: Sequence[Any]) -> np.ndarray:
    return np.fromiter(map(value, items), dtype=np.int64, count=len(items))


def _distinct(numbers: np.ndarray) -> np.ndarray:
    return np.from_dlpack(_integers(numbers).unique())


def _numbered(values: pa.Array) -> tuple[np.ndarray, int]:
    """Return a number (n,) for each value, the same for equal values, and how many distinct values there are."""
    encoded = values.dictionary_encode()
    return np.from_dlpack(encoded.indices).astype(np.int64), len(encoded.dictionary)


# Not `pyarrow.array` and `to_numpy`, which import pandas where it is installed.
def _integers(numbers: np.ndarray) -> pa.Array:
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers)])


def _strings(letters: np.ndarray, offsets: np.ndarray) -> pa.Array:
    """Return the letters between the offsets as strings of bytes."""
    buffers = [None, pa.py_buffer(offsets * letters.itemsize), pa.py_buffer(letters)]
    return pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)
