"""What every character is: a digit, a capital, a space, part of a word.

Python and the `regex` module are asked once for each code point, so that arrays of code points are counted by the very
definitions of `str.isdigit`, `str.isspace`, `str.splitlines` and so on, whatever version of Unicode they know.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import regex

# The bits of `character_table`. The first eight are counted in texts, the others tell where words, lines and sentences
# begin and end.
DIGIT, CAPITAL, NOT_ASCII, PAUSE, QUESTION, EXCLAMATION, BRACKET, SYMBOL = (1 << bit for bit in range(8))
SPACE, DECIMAL, LINE_END, SENTENCE_END, BULLET, NUMBER_END, IN_WORD, CJK = (1 << bit for bit in range(8, 16))

_ASKED = {DIGIT: str.isdigit, CAPITAL: str.isupper, SPACE: str.isspace, DECIMAL: str.isdecimal}
_LISTED = {
    PAUSE: ",;:、，；：",
    QUESTION: "?？",
    EXCLAMATION: "!！",
    BRACKET: "()[]{}",
    SYMBOL: "=+*/^<>\\",
    LINE_END: "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029",  # as str.splitlines
    SENTENCE_END: ".!?。！？\n",
    BULLET: "-*•",
    NUMBER_END: ".)",
}
# A CJK character is a word; in other scripts, a run of letters, digits and combining marks.
_CJK = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_MATCHED = {
    CJK: regex.compile(f"[{_CJK}]+"),
    IN_WORD: regex.compile(rf"[[\p{{L}}\p{{N}}\p{{M}}_]--[{_CJK}]]+", regex.V1),
}
# Unicode assigns no characters in its other planes (4 to 13), or leaves them to private use (15 and 16).
_PLANES = (range(0x40000), range(0xE0000, 0xF0000))


@cache
def character_table() -> np.ndarray:
    """Return the bits of each code point (1114112,) uint16."""
    table = np.zeros(0x110000, dtype=np.uint16)
    for plane in _PLANES:
        characters, kinds = "".join(map(chr, plane)), table[plane.start : plane.stop]
        for bit, holds in _ASKED.items():
            kinds[np.fromiter(map(holds, characters), bool, len(plane))] |= bit
        for bit, pattern in _MATCHED.items():
            for run in pattern.finditer(characters):
                kinds[run.start() : run.end()] |= bit
    for bit, listed in _LISTED.items():
        table[[ord(character) for character in listed]] |= bit
    table[128:] |= NOT_ASCII
    table.setflags(write=False)
    return table


def code_points(texts: Sequence[str]) -> np.ndarray:
    """Return the code points (n,) uint32 of the texts one after the other, with a line feed after each of them.

    A line feed ends a line and a sentence, is part of no word and counts for nothing else.
    Raises UnicodeEncodeError for an unpaired surrogate.
    """
    return np.frombuffer("\n".join([*texts, ""]).encode("utf-32-le"), dtype="<u4")
