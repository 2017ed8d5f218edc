"""Reads rows of plain texts, as nearly all are, in one pass; `layouts` defines the result and reads all other rows.

Every function gives up at the first thing that is not as expected: a role by an unusual name, reasoning, tools, images.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import orjson

from deita_core.conversation import ROW_FIELDS, TOOLS, Conversation, Message, content_id
from deita_core.literals import Layout, Role
from deita_core.reading.messages import (
    ANSWERS,
    CALL_ROLES,
    MAX_CHARS,
    NEEDED,
    OWN_NAMES,
    QUESTIONS,
    ROLE_KEYS,
    ROLE_OF,
    TEXT_KEYS,
    Names,
    with_context,
)
from deita_core.reading.rows import Row, Sample, check_depth, fields_json, members

ROLES: dict[str, Role] = {name: role for name, role in ROLE_OF.items() if name not in (*OWN_NAMES, *CALL_ROLES)}
SYSTEM = ("system", "system_prompt")
# Fields that add to a conversation, or change its meaning, if they are not empty.
ADDING = frozenset((*ROW_FIELDS, "history")) - {"system"}
ADDING_IN: dict[Layout, Names] = {"messages": ("body",), "prompt-response": ("rationale",)}
SCALARS = frozenset((str, int, float, bool, type(None)))


class Shape(NamedTuple):
    """The fields that a conversation is read from: a list of messages, or a question and an answer with `contexts`.

    `empty`: fields that must be empty, each with the values that are.
    """

    asked: str
    answered: str | None
    contexts: Names
    systems: Names
    empty: tuple[tuple[str, tuple], ...]


def plain_sample(row: Row, named: dict, layout: Layout) -> Sample | None:
    """The sample of a row, with this project's names in `named`; None if the row must be read by `layouts`.

    Raises BadRow as `layouts` does.
    """
    shape = _shape(tuple(named), layout)
    if shape is None or (shape.empty and any(named[name] not in nothing for name, nothing in shape.empty)):
        return None
    asked = named[shape.asked]
    messages = _exchange(named, shape) if shape.answered else _listed(asked)
    messages = messages and _with_system(messages, _first(named, shape.systems))
    facts = messages and _facts(messages)
    if not messages or not facts:
        return None
    id_, n_turns, n_chars = facts
    for value in members(row.value):
        if type(value) not in SCALARS and value is not asked:
            check_depth(row.value)
            break
    fields = row.text or fields_json(row.value)
    return Sample(row.line, Conversation(tuple(messages)), id_, False, n_turns, n_chars, layout, fields)


@lru_cache(maxsize=256)
def _shape(names: Names, layout: Layout) -> Shape | None:
    """Where a row with these names has its conversation, None if it cannot be plain. Rows share their names."""
    systems = _present(SYSTEM, names)
    adding = ADDING.union(ADDING_IN.get(layout, ()))
    empty: tuple[tuple[str, tuple], ...] = tuple(
        (name, (None, "") if name in TOOLS else (None, "", [])) for name in names if name in adding
    )
    if layout in ("messages", "sharegpt"):
        lists = _present(NEEDED[layout][0], names)
        return Shape(lists[0], None, (), systems, empty) if lists and lists[0] != "body" else None
    if layout == "alpaca":
        there = {"instruction", "output"} <= set(names)
        return Shape("instruction", "output", _present(("input",), names), systems, empty) if there else None
    asked, answered = _present(QUESTIONS, names), _present(ANSWERS, names)
    if layout != "prompt-response" or not asked or not answered:
        return None
    contexts = ("context", "input") if asked[0] == "instruction" else ("context",)
    return Shape(asked[0], answered[0], _present(contexts, names), systems, empty)


def _present(wanted: Names, names: Names) -> Names:
    return tuple(name for name in wanted if name in names)


def _first(row: dict, names: Names) -> object:
    """The first of the fields that is not null, or an empty text."""
    return next((row[name] for name in names if row[name] is not None), "")


def _exchange(row: dict, shape: Shape) -> list[Message] | None:
    question, answer, context = row[shape.asked], row[shape.answered], _first(row, shape.contexts)
    if type(question) is not str or type(answer) is not str or type(context) is not str:
        return None
    # Such a label says which side of a preference the answer is on.
    if isinstance(label := row.get("label"), (bool, str)) and str(label).strip().lower() in ("true", "false"):
        return None
    # A text may be the JSON of a list of messages.
    if question.lstrip()[:2] == "[{" or answer.lstrip()[:2] == "[{":
        return None
    return [Message("user", with_context(question, context)), Message("assistant", answer)]


def _listed(listed: object) -> list[Message] | None:
    messages: list[Message] = []
    for message in listed if type(listed) is list else ():
        if type(message) is not dict or (keys := _keys(tuple(message))) is None:
            return None
        role_key, text_key, others = keys
        name, content = message[role_key], message[text_key]
        if type(name) is not str or type(content) is not str:
            return None
        role = ROLES.get(name) or ROLES.get(name.strip().lower())
        if role is None or (others and any(message[other] is not None for other in others)):
            return None
        messages.append(Message(role, content))
    return messages


@lru_cache(maxsize=256)
def _keys(names: Names) -> tuple[str, str, Names] | None:
    """The keys of a message's role and text, and the others."""
    roles, texts = _present(ROLE_KEYS, names), _present(TEXT_KEYS, names)
    if not roles or not texts:
        return None
    return roles[0], texts[0], tuple(name for name in names if name not in (roles[0], texts[0]))


def _with_system(messages: list[Message], system: object) -> list[Message] | None:
    if system == "":
        return messages
    if type(system) is not str or system.isspace() or any(message.role == "system" for message in messages):
        return None
    return [Message("system", system), *messages]


def _facts(messages: Iterable[Message]) -> tuple[str, int, int] | None:
    """The id of a conversation, its turns and its characters."""
    n_turns = n_chars = 0
    asked = False
    for role, content, _ in messages:
        n_chars += len(content)
        if not content or content.isspace():
            continue
        if role == "user":
            asked = True
        elif role == "assistant":
            if "<think>" in content:
                return None
            # The next answer of the assistant's continues this one.
            n_turns += asked
            asked = False
    if not n_turns or n_chars > MAX_CHARS:
        return None
    try:
        return content_id(orjson.dumps([{"role": r, "content": c} for r, c, _ in messages])), n_turns, n_chars
    except TypeError:
        # Half a surrogate pair.
        return None
