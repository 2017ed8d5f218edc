"""Reads a judge's replies. A reply without exactly one valid verdict is unreadable; nothing stands in for it."""

from typing import Any, Literal

from deita_core.evaluation.prompts import CHOICES, SCORES
from deita_core.evolution.ranking import UnreadableError, json_values, whole_number
from deita_core.evolution.replies import headed_answer, visible

Choice = Literal["A", "B", "tie"]
_SPELLED = {choice.lower(): choice for choice in CHOICES}


def read_score(reply: str) -> int:
    """The score from 1 to 10 in a reply; raises UnreadableError with the reason."""
    value = _only_value(reply, "score")
    score = whole_number(value)
    if score is None or score not in SCORES:
        raise UnreadableError(f"the score is {str(value)[:20]}, and not a whole number from 1 to 10")
    return score


def read_choice(reply: str) -> Choice:
    """The choice in a reply: "A", "B" or "tie"; raises UnreadableError with the reason."""
    value = _only_value(reply, "better")
    choice = _SPELLED.get(str(value).strip().lower())
    if choice is None:
        raise UnreadableError(f"the choice is {str(value)[:20]}, and not A, B or tie")
    return choice  # type: ignore[return-value]


def _only_value(reply: str, name: str) -> Any:
    """The value under a name in the JSON objects of a reply, if they all give the same one."""
    objects = [value for value in json_values(headed_answer(visible(reply))) if isinstance(value, dict)]
    found = [value[name] for value in objects if name in value]
    if not found:
        raise UnreadableError(f"the reply holds no {name}")
    if any(value != found[0] for value in found):
        raise UnreadableError(f"the reply holds several values of {name}")
    return found[0]
