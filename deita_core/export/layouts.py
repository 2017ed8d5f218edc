"""Writes a conversation as a row of a layout, with all that a trainer sees of it, or refuses."""

import json
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from typing import Any

from deita_core.conversation import CALLS, JOINT, ROW_FIELDS, TOOLS, Conversation, Message, canonical
from deita_core.errors import InputError
from deita_core.literals import Format

SHAREGPT_ROLES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
OTHERS = "use --format same, messages or sharegpt"


# Columns of all layouts; every other one is a field of its own, which only `same` gives back.
OF_CONVERSATIONS = frozenset(
    {"messages", "conversations", "conversation", "items", "dialog", "dialogue", "body", "response", "text", "history"}
    | {"instruction", "input", "output", "prompt", "question", "problem", "query", "answer", "solution", "completion"}
    | {
        "context",
        "rationale",
        "system_prompt",
        "chosen",
        "rejected",
        "preferred_output",
        "non_preferred_output",
        "label",
    }
    | set(ROW_FIELDS)
)


def fields_left_out(rows: Iterable[str]) -> tuple[int, list[str]]:
    """Of rows as JSON: how many have fields that only `same` gives back, and their names, most frequent first."""
    names = [[name for name in json.loads(row) if name.lower() not in OF_CONVERSATIONS] for row in rows]
    return sum(map(bool, names)), [name for name, _ in Counter(chain.from_iterable(names)).most_common()]


def in_layout(sample: Conversation, format_: Format, fields: dict[str, Any]) -> dict[str, Any]:
    """A conversation as a row of a layout; `same` is the unchanged input row.

    Read again, a row of `messages` or `sharegpt` is the same conversation with the same id. Raises InputError for a
    conversation that the layout cannot hold.
    """
    match format_:
        case "messages":
            return {"messages": [_message(m) for m in sample.messages], **sample.fields}
        case "sharegpt":
            # In this layout tools are a JSON text, and so is a call.
            beside = {name: canonical(v) if name in TOOLS else v for name, v in sample.fields.items()}
            return {"conversations": [_sharegpt(m) for m in sample.messages], **beside}
        case "alpaca":
            return _alpaca(sample)
    return fields


def _message(message: Message) -> dict[str, Any]:
    return {"role": message.role, "content": message.content, **message.fields}


def _sharegpt(message: Message) -> dict[str, Any]:
    fields = message.fields
    calls = [name for name in CALLS if name in fields]
    if message.role == "assistant" and len(calls) == 1 and fields.get("content", "") is None:
        call, rest = fields[calls[0]], {name: v for name, v in fields.items() if name not in ("content", *calls)}
        # A list is read as tool_calls, an object as function_call.
        if isinstance(call, list if calls[0] == "tool_calls" else dict) and "role" not in rest:
            return {"from": "function_call", "value": canonical(call), **rest}
    role = fields.pop("role", SHAREGPT_ROLES[message.role])
    return {"from": role, "value": fields.pop("content", message.content), **fields}


def _alpaca(sample: Conversation) -> dict[str, Any]:
    """The last turn as instruction and output, the earlier turns as history."""
    if any(m.role == "tool" for m in sample.messages):
        raise InputError(f"Sample {sample.id} has tool messages, which the alpaca layout cannot hold; {OTHERS}.")
    beyond = [name for m in sample.messages for name in m.fields] + list(sample.fields)
    if beyond:
        raise InputError(f"Sample {sample.id} has {beyond[0]}, which the alpaca layout cannot hold; {OTHERS}.")
    in_turns = {i for turn in sample.turns for i in (*turn.user, *turn.assistant)}
    lost = [
        m.role for i, m in enumerate(sample.messages) if i not in in_turns and m.role != "system" and not m.is_blank
    ]
    if lost:
        raise InputError(
            f"Sample {sample.id} has a {lost[0]} message that belongs to no turn, which the alpaca layout cannot hold; "
            f"{OTHERS}."
        )
    *earlier, last = [[_said(sample, turn.user), _said(sample, turn.assistant)] for turn in sample.turns]
    row: dict[str, Any] = {"instruction": last[0], "input": "", "output": last[1]}
    if system := [m.content for m in sample.messages if m.role == "system" and not m.is_blank]:
        row["system"] = "\n\n".join(system)
    if earlier:
        row["history"] = earlier
    return row


def _said(sample: Conversation, positions: tuple[int, ...]) -> str:
    """The whole content of messages, also the reasoning at its start."""
    return JOINT.join(sample.messages[i].content for i in positions)
