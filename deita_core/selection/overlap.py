"""Finds the texts that overlap a held-out set: runs of words in common, as benchmarks are told from training data."""

import re
from collections.abc import Iterable, Iterator, Sequence

WORD = re.compile(r"\w+")


def normalized_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation and white space."""
    return WORD.findall(text.lower())


def find_overlaps(texts: Iterable[str], held_out: Sequence[str], words: int = 13) -> list[int | None]:
    """For each text the position of the first held-out text with which it overlaps, or None.

    Two texts overlap if they have `words` consecutive words in common. A text of fewer words overlaps only an equal
    one, and a text without words none. Words are compared in lower case, without punctuation. `texts` may be a stream:
    memory is about 300 bytes for each word of the held-out set.
    """
    owners: dict[str, int] = {}
    # Of any `words` consecutive words, this many stand at a multiple of their number, so few others are looked up.
    step = (words + 1) // 2
    parts = set[str]()
    for position, text in enumerate(held_out):
        found = normalized_words(text)
        for run in _runs(found, words):
            owners.setdefault(run, position)
        parts.update(_runs(found, step))
    return [_first_owner(normalized_words(text), owners, parts, words, step) for text in texts]


def _first_owner(found: list[str], owners: dict[str, int], parts: set[str], words: int, step: int) -> int | None:
    if len(found) >= words:
        aligned = (" ".join(found[start : start + step]) for start in range(0, len(found) - step + 1, step))
        if parts.isdisjoint(aligned):
            return None
    return min((owners[run] for run in _runs(found, words) if run in owners), default=None)


def _runs(found: list[str], words: int) -> Iterator[str]:
    """Every `words` consecutive words, joined by spaces; all words of a text that has fewer, if any."""
    for start in range(max(len(found) - words + 1, min(len(found), 1))):
        yield " ".join(found[start : start + words])
