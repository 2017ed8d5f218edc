"""Constraints in an instruction that code can check on an answer, so that a better answer does not violate them."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import orjson

_NUMBERS = {
    word: n
    for n, word in enumerate(("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), start=1)
}
_N = rf"(\d{{1,9}}|{'|'.join(_NUMBERS)}|a single)"
_SENTENCE = re.compile(r"[^.!?。！？]*[^\W\d_][^.!?。！？]*(?:[.!?。！？]+|$)")
_ITEM = re.compile(r"^\s*(?:[-*•–]|\d+[.)])\s+\S", re.MULTILINE)


@dataclass(frozen=True)
class Demand:
    """A named constraint: its wording in an instruction, and whether an answer meets it for the number found there."""

    name: str
    pattern: re.Pattern[str]
    met: Callable[[str, int], bool]


def _words(text: str) -> int:
    return len(text.split())


def _sentences(text: str) -> int:
    return len(_SENTENCE.findall(text))


def _items(text: str) -> int:
    return len(_ITEM.findall(text))


def _is_json(text: str) -> bool:
    inside = re.sub(r"^```\w*\s*|\s*```$", "", text.strip())
    try:
        orjson.loads(inside)
    except orjson.JSONDecodeError:
        return False
    return True


def _wording(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


DEMANDS = (
    Demand(
        "most words",
        _wording(rf"(?:at most|no more than|under|below|fewer than|less than|within|a maximum of|up to) {_N} words?"),
        lambda text, n: _words(text) <= n,
    ),
    Demand("words or fewer", _wording(rf"{_N} words? (?:or (?:less|fewer)|at most|max)"), lambda t, n: _words(t) <= n),
    Demand("one word", _wording(r"\b(?:in|with|using) (one|a single) word\b"), lambda text, n: _words(text) <= n),
    Demand(
        "sentences",
        _wording(rf"\b(?:in|with|using|exactly|at most|no more than) (?:exactly |at most )?{_N}(?: \w+)? sentences?\b"),
        lambda text, n: _sentences(text) <= n,
    ),
    Demand(
        "characters", _wording(r"(\d{1,9}) ?(?:个)?字(?:以内|之内|以下)"), lambda t, n: len(re.sub(r"\s", "", t)) <= n
    ),
    Demand("one sentence", _wording(r"(一)句话"), lambda text, n: _sentences(text) <= n),
    Demand(
        "items",
        _wording(
            rf"\b(?:give|list|name|write|provide|suggest|offer|share|describe|exactly|in|me) {_N} (?:\w+ )?"
            r"(?:bullet points?|bullets|items|points|steps|examples|tips|reasons|ways|ideas)\b"
        ),
        lambda text, n: _items(text) in (0, n),
    ),
    Demand("JSON", _wording(r"\b(?:as|in|valid|return|only) (?:\w+ )?(json)\b"), lambda text, _: _is_json(text)),
    Demand("code", _wording(r"\b(code|function|script|program|query|regex)\b"), lambda text, _: "```" in text),
    Demand(
        "yes or no",
        _wording(r"\b(yes or no|true or false)\b"),
        lambda text, _: bool(re.match(r"\W*(?:yes|no|true|false)\b", text, re.IGNORECASE)),
    ),
)


def lost_constraint(instruction: str, before: str, after: str) -> str | None:
    """Return the name of a constraint that the answer `before` met and `after` does not, or None.

    Constraints that `before` did not meet are not checked, so that a misread constraint does no harm.
    """
    for demand in DEMANDS:
        if found := demand.pattern.search(instruction):
            number = _number(found.group(1))
            if demand.met(before, number) and not demand.met(after, number):
                return demand.name
    return None


def _number(word: str) -> int:
    """Return a number written in digits or words; 1 for anything else."""
    return int(word) if word.isdecimal() else _NUMBERS.get(word.lower(), 1)
