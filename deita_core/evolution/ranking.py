"""Ranking: one prompt shows all variants of a chain, and the model scores each of them (paper, section 2.2)."""

import json
import random
import re
from collections.abc import Iterator, Sequence
from math import factorial, isfinite
from typing import Any

from deita_core.conversation import content_id
from deita_core.evolution.prompts import FORM_EXAMPLE, rank_variants
from deita_core.evolution.replies import headed_answer, visible
from deita_core.literals import Axis
from deita_core.llm.client import LLM, PermanentRequestError

LEVELS = range(1, 7)
TRIES = 3
# The form that the prompt asks for.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "scores": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"index": {"type": "integer"}, "score": {"type": "integer", "enum": list(LEVELS)}},
                "required": ["index", "score"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["scores"],
    "additionalProperties": False,
}
# A number, a separator, and a score: not 1/6 (which is one score) and not 1.5.
_LINE = re.compile(
    r"^\W{0,9}(?:text|index|variant|no\.?|number)?\W{0,9}(\d{1,3})(?:\s*[\]).:|=*–-]{1,4}\s+|\s*[\]:|=*]{1,4}|\s+)"
    r"(?:score\W{0,3})?\*{0,2}(\d+)(?!\d|[.,/]\d)\W{0,9}$",
    re.IGNORECASE,
)
LONGEST_LINE = 80
# A reply has one JSON value, or one per line; more brackets than this are not JSON.
MOST_OPENINGS = 200
_OPENING = re.compile(r"[{\[]")


class UnreadableError(ValueError):
    """A reply without exactly one valid score for each variant."""


def ranking_id(ranking: str, chain: str, repeat: int) -> str:
    """Return the id of one ranking of a chain; `ranking` identifies judge and settings, `repeat` is 1 in an audit."""
    return content_id(f"{ranking}:{chain}:{repeat}".encode())


def shown_order(draw: int, chain: str, repeat: int, attempt: int, n: int) -> list[int]:
    """Return the steps in the order to show them, shuffled because judges have a position bias.

    Each attempt and the audit get a different order, as long as unused orders exist.
    """
    shuffled = random.Random(f"{draw}:{chain}")  # noqa: S311
    wanted = (repeat * TRIES + attempt) % factorial(n)
    orders: list[list[int]] = []
    while len(orders) <= wanted:
        order = shuffled.sample(range(n), n)
        if order not in orders:
            orders.append(order)
    return orders[wanted]


async def rank_chain(
    llm: LLM,
    axis: Axis,
    ranking: str,
    chain: str,
    texts: Sequence[str],
    instruction: str | None,
    *,
    draw: int,
    repeat: int = 0,
) -> list[dict[str, Any]]:
    """Score a chain's variants; returns rows of the rankings table, one per step.

    An unreadable reply is requested again in another order. If all are unreadable, every row has the status unreadable,
    a reason and no score. Raises LLMError if the endpoint no longer answers.
    """
    order: list[int] = []
    reason = detail = ""
    for attempt in range(TRIES):
        order = shown_order(draw, chain, repeat, attempt, len(texts))
        messages = rank_variants(axis, [texts[step] for step in order], instruction)
        try:
            judge = llm.settings.judge
            answer = await llm.ask(messages, model=judge, temperature=0.0, nth=attempt, schema=SCHEMA)
            unread = "cut_off" if answer.finish == "length" else "unreadable"
            if answer.finish == "content_filter":
                reason, detail = "content_filter", "the endpoint's filter held the reply back"
                continue
            scores = parse_scores(answer.text, len(texts))
            return _rows(ranking, chain, repeat, order, scores)
        except PermanentRequestError as unanswered:
            reason, detail = unanswered.reason, unanswered.detail
            break
        except UnreadableError as unreadable:
            reason, detail = unread, str(unreadable)
    return _rows(ranking, chain, repeat, order, None, reason, detail)


def parse_scores(reply: str, n: int) -> list[int]:
    """Return the scores of texts 1 to n, matched by the index that the reply gives with each.

    If the reply has headings, its last answer counts. Raises UnreadableError if an index is missing, repeated or
    unknown, a score is not a whole number from 1 to 6, or the reply contains different answers.
    """
    shown = headed_answer(visible(reply))
    values = list(json_values(shown))
    # One object per line forms a single answer.
    parts = [value for value in values if isinstance(value, dict) and "index" in value]
    found = [list(_pairs(value)) for value in [*(v for v in values if v not in parts), parts]]
    if not any(found):
        found.append(
            [(m[1], m[2]) for line in shown.splitlines() if len(line) <= LONGEST_LINE and (m := _LINE.match(line))]
        )
    if n > len(FORM_EXAMPLE):
        found = [pairs for pairs in found if pairs != FORM_EXAMPLE]
    answers = {tuple(_checked(pairs, n)) for pairs in found if pairs}
    if len(answers) != 1:
        raise UnreadableError("the reply holds no scores" if not answers else "the reply holds several answers")
    return list(answers.pop())


def _checked(pairs: Sequence[tuple[Any, Any]], n: int) -> list[int]:
    scores: dict[int, int] = {}
    for index, score in pairs:
        number, level = whole_number(index), whole_number(score)
        if number is None or not 1 <= number <= n:
            raise UnreadableError(f"there is no text {str(index)[:20]}")
        if number in scores:
            raise UnreadableError(f"text {number} has two scores")
        if level is None or level not in LEVELS:
            raise UnreadableError(f"the score of text {number} is {str(score)[:20]}, and not one of 1 to 6")
        scores[number] = level
    if missing := [number for number in range(1, n + 1) if number not in scores]:
        raise UnreadableError(f"text {missing[0]} has no score")
    return [scores[number] for number in range(1, n + 1)]


def whole_number(value: Any) -> int | None:
    """Return a whole number, also if quoted or with .0; None for anything else, including true and false."""
    if isinstance(value, str) and (number := re.fullmatch(r"\s*\[?(\d{1,9})(?:\.0+)?\]?\s*", value)):
        return int(number[1])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if isfinite(value) and value == int(value) else None


def json_values(text: str) -> Iterator[Any]:
    """Yield every outermost JSON object or array in a text, whatever surrounds it."""
    return (value for value, _, _ in placed_json(text))


def placed_json(text: str) -> Iterator[tuple[Any, int, int]]:
    """As `json_values`, with the positions where each value begins and ends."""
    decoder, at = json.JSONDecoder(object_pairs_hook=_object), 0
    for _ in range(MOST_OPENINGS):
        if not (start := _OPENING.search(text, at)):
            return
        try:
            value, at = decoder.raw_decode(text, start.start())
            yield value, start.start(), at
        except UnreadableError:
            raise
        except (ValueError, RecursionError):
            at = start.start() + 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; raises UnreadableError for a repeated name, because a parser would drop the first value."""
    if len(found := dict(pairs)) < len(pairs):
        raise UnreadableError("one name stands twice in the reply")
    return found


def _pairs(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the (index, score) pairs in a JSON value, in any form that models use."""
    if isinstance(value, dict) and "index" in value and "score" in value:
        yield value["index"], value["score"]
    elif isinstance(value, dict) and value and all(whole_number(key) is not None for key in value):
        yield from value.items()
    elif isinstance(value, dict):
        for inner in value.values():
            if isinstance(inner, dict | list):
                yield from _pairs(inner)
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, dict):
                yield from _pairs(inner)


def _rows(
    ranking: str,
    chain: str,
    repeat: int,
    order: Sequence[int],
    scores: Sequence[int] | None,
    reason: str | None = None,
    detail: str = "",
) -> list[dict[str, Any]]:
    id_ = ranking_id(ranking, chain, repeat)
    rows = [
        {
            "ranking": id_,
            "step": step,
            "chain": chain,
            "judge": ranking,
            "repeat": repeat,
            "shown": place,
            "score": None if scores is None else scores[place - 1],
            "status": "unreadable" if scores is None else "ok",
            "reason": reason,
            "detail": detail[:300],
        }
        for place, step in enumerate(order, start=1)
    ]
    return sorted(rows, key=lambda row: int(row["step"]))
