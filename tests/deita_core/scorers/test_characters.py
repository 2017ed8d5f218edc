import re

import numpy as np
import pytest
import regex

from deita_core.scorers import characters
from deita_core.scorers.characters import character_table, code_points

ALL = [chr(code) for code in range(0x110000)]

# A CJK character is a word by itself; others are words together.
WORDS = regex.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[[\p{L}\p{N}\p{M}_]--[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]]+",
    regex.V1,
)
DEFINITIONS = {
    "DIGIT": str.isdigit,
    "CAPITAL": str.isupper,
    "NOT_ASCII": lambda c: not c.isascii(),
    "PAUSE": set(",;:、，；：").__contains__,
    "QUESTION": set("?？").__contains__,
    "EXCLAMATION": set("!！").__contains__,
    "BRACKET": set("()[]{}").__contains__,
    "SYMBOL": set("=+*/^<>\\").__contains__,
    "SPACE": lambda c: not c.strip(),
    "DECIMAL": re.compile(r"\d").match,
    "LINE_END": lambda c: len(f"a{c}b".splitlines()) == 2,
    "SENTENCE_END": re.compile(r"[.!?。！？\n]").match,
    "BULLET": re.compile("[-*•]").match,
    "NUMBER_END": re.compile("[.)]").match,
    "IN_WORD": lambda c: WORDS.findall(c + c) == [c + c],
    "CJK": lambda c: WORDS.findall(c + c) == [c, c],
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_code_point_is_what_python_says_of_it(name):
    expected = np.fromiter(map(bool, map(DEFINITIONS[name], ALL)), bool, len(ALL))
    found = (character_table() & getattr(characters, name)) != 0
    differing = np.flatnonzero(found != expected)
    assert not len(differing), f"{len(differing)} code points, the first of them {differing[0]:#x}"


def test_spaces_are_those_of_regular_expressions():
    """A list item's mark is followed by one of these."""
    space = re.compile(r"\s")
    assert all((space.match(c) is not None) == c.isspace() for c in ALL)


def test_every_text_is_followed_by_a_line_feed():
    assert code_points(["a😀", "", "\n"]).tolist() == [ord("a"), ord("😀"), 10, 10, 10, 10]
    assert code_points([]).tolist() == []


def test_a_line_feed_ends_a_line_and_a_sentence_and_counts_for_nothing():
    ends = characters.SPACE | characters.LINE_END | characters.SENTENCE_END
    assert character_table()[10] == ends


def test_an_unpaired_surrogate_is_refused():
    with pytest.raises(UnicodeEncodeError):
        code_points(["a\ud800"])
