"""Chains: a seed and its variant after each round of evolution (paper, section 2.2)."""

import random
from dataclasses import dataclass
from typing import Any

from deita_core.conversation import Conversation, content_id
from deita_core.evolution.checks import instruction_problem, response_problem
from deita_core.evolution.prompts import (
    OPERATIONS,
    Messages,
    evolve_instruction,
    evolve_response,
)
from deita_core.evolution.replies import rewritten
from deita_core.literals import Axis
from deita_core.llm.client import LLM, Answer, PermanentRequestError

# Failures that a later run retries; all other results are final.
PASSING_REASONS = ("no_answer",)
# Finish reasons that make an answer unusable.
_ENDINGS = {"length": "cut_off", "content_filter": "content_filter"}


@dataclass(frozen=True)
class Seed:
    """The start of a chain: the first turn of a sample."""

    id: str
    instruction: str
    response: str
    system: str | None = None

    def text(self, axis: Axis) -> str:
        """Return the text that is evolved on an axis."""
        return self.instruction if axis == "complexity" else self.response


def seed_of(conversation: Conversation) -> Seed:
    """Return a conversation's seed: its first turn, and the system messages before it."""
    first = conversation.turns[0]
    before = [m.content for m in conversation.messages[: first.user[0]] if m.role == "system" and not m.is_blank]
    return Seed(conversation.id, first.instruction, first.response, "\n\n".join(before) or None)


def chain_id(evolution: str, seed_id: str) -> str:
    """Return the id of a seed's chain; `evolution` identifies everything else that the chain depends on."""
    return content_id(f"{evolution}:{seed_id}".encode())


def drawn_operations(axis: Axis, seed: int, seed_id: str, step: int) -> list[str]:
    """Return a round's operations in the order to try them; the order does not depend on scheduling."""
    operations = sorted(OPERATIONS[axis])
    random.Random(f"{seed}:{axis}:{seed_id}:{step}").shuffle(operations)  # noqa: S311
    return operations


async def evolve_chain(
    llm: LLM, axis: Axis, evolution: str, seed: Seed, *, rounds: int, tries: int, draw: int
) -> list[dict[str, Any]]:
    """Evolve a seed over `rounds` rounds; returns rows of the chains table, one per attempt.

    A round whose text is unusable is retried with another operation, up to `tries` in total. If all fail, the round is
    recorded as failed and the chain ends. Raises LLMError if the endpoint no longer answers.
    """
    chain, text = chain_id(evolution, seed.id), seed.text(axis)
    fixed = {"chain": chain, "axis": axis, "seed_id": seed.id}
    rows = [{**fixed, **_attempt(0, 0, "seed", text)}]
    for step in range(1, rounds + 1):
        found = None
        for attempt, operation in enumerate(drawn_operations(axis, draw, seed.id, step)[:tries]):
            row = await _try_operation(llm, axis, seed, text, step, attempt, operation)
            rows.append({**fixed, **row})
            if row["status"] == "ok":
                found = row["text"]
            if found is not None or row["reason"] in PASSING_REASONS:
                break
        if found is None:
            break
        text = found
    return rows


async def _try_operation(
    llm: LLM, axis: Axis, seed: Seed, text: str, step: int, attempt: int, operation: str
) -> dict[str, Any]:
    try:
        answer = await llm.ask(chain_prompt(axis, operation, seed, text))
    except PermanentRequestError as unanswered:
        return _attempt(step, attempt, operation, None, unanswered.reason, unanswered.detail)
    after = rewritten(answer.text)
    return _attempt(step, attempt, operation, after, _trouble(axis, seed, text, after, answer))


def chain_prompt(axis: Axis, operation: str, seed: Seed, text: str) -> Messages:
    """Return the prompt that applies an operation to a chain's latest text."""
    if axis == "complexity":
        return evolve_instruction(operation, text, seed.system)
    return evolve_response(operation, seed.instruction, text, seed.system)


def _trouble(axis: Axis, seed: Seed, before: str, after: str, answer: Answer) -> str | None:
    if ending := _ENDINGS.get(answer.finish):
        return ending
    if axis == "complexity":
        return instruction_problem(before, after, seed.response)
    return response_problem(seed.instruction, before, after)


def _attempt(
    step: int, attempt: int, operation: str, text: str | None, reason: str | None = None, detail: str = ""
) -> dict[str, Any]:
    return {
        "step": step,
        "attempt": attempt,
        "operation": operation,
        "text": text,
        "status": "ok" if reason is None else "failed",
        "reason": reason,
        "detail": detail[:300],
    }
