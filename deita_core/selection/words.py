"""Splits texts into normalised words, many texts at a time, and hashes runs of consecutive words."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import pairwise
from unicodedata import category, normalize

import numpy as np

# Characters of the texts that are split at a time.
CHARS = 1 << 20
# Ends a text; no character of any text.
END = "\U0010ffff"
# The name of a command of LaTeX is no word, and neither is the letter of an escape such as \n that stands in a text.
COMMAND = re.compile(r"\\(?:[nrt](?![a-z])|[A-Za-z]+)")
# Scripts without spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han.
SPACELESS = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF)),
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)),
)
CODES = 0x110000
# What a character is: not known yet, between words, nothing at all, part of a word, a word by itself.
UNKNOWN, BETWEEN, NOTHING, PART, WHOLE = range(5)
# Of the polynomial that is a hash. Odd, so that it has an inverse modulo 2**64.
BASE = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Words:
    """The words of several texts.

    `codes` (c,): the code points of all words, without anything between. `starts` (w + 1,): where each word starts in
    them, and their end. `owners` (w,): the position of the text that each word is of.
    """

    codes: np.ndarray
    starts: np.ndarray
    owners: np.ndarray

    def spelled(self, first: int, last: int) -> list[str]:
        """The words from `first` to before `last`."""
        cuts = self.starts[first : last + 1]
        text = self.codes[cuts[0] : cuts[-1]].tobytes().decode("utf-32-le", "surrogatepass")
        cuts = (cuts - cuts[0]).tolist()
        return [text[start:end] for start, end in pairwise(cuts)]

    def one_text(self, firsts: np.ndarray, length: int) -> np.ndarray:
        """Those of the words `firsts` (ascending) with which a run of `length` words of one text begins."""
        firsts = firsts[: np.searchsorted(firsts, len(self.owners) - length, side="right")]
        return firsts[self.owners[firsts] == self.owners[firsts + length - 1]]

    def whole(self, length: int) -> np.ndarray:
        """The first word of each text of exactly `length` words."""
        counts = np.bincount(self.owners)
        return (np.cumsum(counts) - counts)[counts == length]

    def hashes(self, length: int, firsts: np.ndarray | None = None) -> np.ndarray:
        """A hash (r,) uint64 of each run of `length` words that begins with a word of `firsts` (r,), or with any word.

        Equal runs have equal hashes. Two others have the same one with a probability of about 2**-60.
        """
        sums, inverses = self._sums
        if firsts is None:
            count = max(len(sums) - length, 0)
            return (sums[length:] - sums[:count]) * inverses[:count]
        return (sums[firsts + length] - sums[firsts]) * inverses[firsts]

    @cached_property
    def _sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Up to the start of each word, and their end, the sum of value * BASE**place of `codes`; and BASE**-place.

        Both (w + 1,), modulo 2**64.
        """
        values = _values()[self.codes]
        # The same letters cut into other words are another run.
        values[self.starts[:-1]] ^= np.uint64(BASE)
        values *= _powers(BASE, len(values).bit_length())[: len(values)]
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values)])
        return sums[self.starts], _powers(pow(BASE, -1, 1 << 64), len(sums).bit_length())[self.starts]


def normalized_words(text: str) -> list[str]:
    """The words of a text in lower case and in Unicode's form NFKC, without punctuation, white space and symbols.

    Each character of a script without spaces is a word. Commands of LaTeX and commas between digits are left out.
    """
    words = read_words([text])
    return words.spelled(0, len(words.owners))


def read_words(texts: Iterable[str]) -> Words:
    """The words of some texts, as `normalized_words` gives them."""
    plain = (text if text.isascii() else normalize("NFKC", text.replace(END, " ")) for text in texts)
    joined = "".join(f"{text}{END}" for text in plain)
    if "\\" in joined:
        joined = COMMAND.sub(" ", joined)
    codes = np.frombuffer(joined.lower().encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _kinds_of(codes)
    kinds[_grouping(codes)] = NOTHING
    if (kinds == NOTHING).any():
        codes, kinds = codes[kinds != NOTHING], kinds[kinds != NOTHING]
    inside, whole = kinds >= PART, kinds == WHOLE
    begins = inside.copy()
    begins[1:] &= ~inside[:-1] | whole[1:] | whole[:-1]
    before = np.searchsorted(np.flatnonzero(begins), np.flatnonzero(codes == ord(END)))
    owners = np.repeat(np.arange(len(before)), np.diff(before, prepend=0))
    starts = np.flatnonzero(begins[inside])
    return Words(codes[inside], np.append(starts, np.count_nonzero(inside)), owners)


def is_spaceless(word: str) -> bool:
    """Whether a word is of a script that has no spaces between words."""
    return ord(word[0]) >= SPACELESS[0][0] and any(first <= ord(word[0]) <= last for first, last in SPACELESS)


def text_blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    """A stream of texts in blocks of about CHARS characters."""
    block, chars = list[str](), 0
    for text in texts:
        block.append(text)
        chars += len(text)
        if chars >= CHARS:
            yield block
            block, chars = [], 0
    if block:
        yield block


def _grouping(codes: np.ndarray) -> np.ndarray:
    """Where a comma stands between a digit and three digits, as in 1,000."""
    commas = np.flatnonzero(codes == ord(","))
    # Every text ends with END.
    commas = commas[(commas > 0) & (commas + 3 < len(codes))]
    digits = [(codes[commas + offset] >= ord("0")) & (codes[commas + offset] <= ord("9")) for offset in (-1, 1, 2, 3)]
    return commas[np.logical_and.reduce(digits)]


def _kinds_of(codes: np.ndarray) -> np.ndarray:
    """What each character is."""
    table = _kinds()
    kinds = table[codes]
    # Few characters are ever seen, so that only those are looked at, each once.
    if (unknown := np.unique(codes[kinds == UNKNOWN])).size:
        for code in unknown.tolist():
            table[code] = _kind(code)
        kinds = table[codes]
    return kinds


def _kind(code: int) -> int:
    what = category(chr(code))
    if is_spaceless(chr(code)) and what[0] in "LMN":
        return WHOLE
    # A zero-width space stands between words; other marks of format, such as a soft hyphen, are invisible.
    if what == "Cf" and code != 0x200B:
        return NOTHING
    return PART if what[0] in "LMN" else BETWEEN


@cache
def _kinds() -> np.ndarray:
    return np.full(CODES, UNKNOWN, np.uint8)


@cache
def _values() -> np.ndarray:
    """A random number for each code point."""
    return np.random.default_rng(0).integers(1 << 64, size=CODES, dtype=np.uint64)


# Blocks of texts are of one size, so that two are used again and again.
@lru_cache(maxsize=2)
def _powers(base: int, bits: int) -> np.ndarray:
    """The first 2**bits powers of a number, modulo 2**64."""
    powers = np.full(1 << bits, base, np.uint64)
    powers[:1] = 1
    return np.multiply.accumulate(powers)
