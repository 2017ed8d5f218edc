"""Converts lists of messages, in any dialect of them, to this project's messages."""

import ast
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from deita_core.conversation import (
    CALLS,
    JOINT,
    MESSAGE_FIELDS,
    ROW_FIELDS,
    TOOLS,
    Message,
    canonical,
    extra_json,
    part_kind,
    placeholder,
)
from deita_core.literals import Layout, Role
from deita_core.reading.rows import BadRow, check_depth, short

Names = tuple[str, ...]

ROLE_NAMES: dict[Role, str] = {
    "user": "human user usr prompter question",
    "assistant": "gpt assistant chatgpt bing bard model bot ai claude answer function_call tool_call",
    "tool": "tool observation function function_response function_output ipython environment tool_response tool_result",
    "system": "system developer context",
}
ROLE_OF: dict[str, Role] = {name: role for role, names in ROLE_NAMES.items() for name in names.split()}
# Fields of a message that are kept beside its role and its content.
OF_ROWS = frozenset(ROW_FIELDS)
BESIDE = frozenset(MESSAGE_FIELDS) - {"role", "content"}
# Roles that templates render by their own name.
OWN_NAMES = ("developer", "function", "ipython")
# A message of such a role holds the call instead of a text.
CALL_ROLES = ("function_call", "tool_call")
ROLE_KEYS = ("role", "from")
TEXT_KEYS = ("content", "value", "text")
# Objects of a list that only white space stands between.
PRINTED_BY_NUMPY = re.compile(r"\}\s+\{")
PYTHON_TEXT = re.compile(r"'[^'\\]*(?:\\.[^'\\]*)*'|\"[^\"\\]*(?:\\.[^\"\\]*)*\"", re.DOTALL)
# Characters outside of texts in a list that Python wrote.
MAX_MARKS = 50_000
QUESTIONS = ("prompt", "question", "problem", "query", "instruction", "input")
ANSWERS = ("response", "answer", "solution", "completion", "output")
# A row of a layout has at least one name of each group. If several layouts fit equally often, the first wins: a pair of
# answers holds more than the messages beside it, a list of messages more than a pair of texts beside it, instruction +
# output is the more specific pair, and a text often repeats the fields beside it.
NEEDED: dict[Layout, tuple[Names, ...]] = {
    "preference": (("chosen", "preferred_output"), ("rejected", "non_preferred_output")),
    "sharegpt": (("conversations", "conversation", "items"),),
    "messages": (("messages", "conversation", "body", "dialog", "dialogue"),),
    "alpaca": (("instruction",), ("output",)),
    "prompt-response": (QUESTIONS, ANSWERS),
    "text": (("text",),),
}
# Characters of a conversation.
MAX_CHARS = 1_000_000


def list_of_messages(value: object, name: str, where: str = "message {}") -> list[Message]:
    """The messages of a list, of its JSON text, or of a struct of lists. Raises BadRow.

    Errors call the list `name`, and a message `where` with its number.
    """
    return [_message(message, where.format(i)) for i, message in enumerate(as_list(value, name), 1)]


def as_list(value: object, name: str) -> list:
    """The value as a list; a text is parsed as JSON, because a CSV cell holds a list as JSON. Raises BadRow."""
    if value is None:
        raise BadRow("null_field", f"{name} is null")
    if isinstance(value, str):
        value = from_json(value)
        check_depth(value)
    if isinstance(value, dict):
        value = _transposed(value)
    if isinstance(value, tuple):
        value = list(value)
    if not isinstance(value, list):
        raise BadRow("wrong_type", f"{name} is not a list")
    return value


def from_json(text: str) -> object:
    """The value of a JSON text, an empty list of a blank one, None of any other text."""
    if not text.strip():
        return []
    try:
        return orjson.loads(text)
    except ValueError:
        return _from_python(text) if text.lstrip().startswith("[") else None


def _from_python(text: str) -> object:
    """A list as Python writes it, with single quotes; None if it is none."""
    # Python's parser takes much memory and time for many values; texts are one value each.
    if len(PYTHON_TEXT.sub("", text)) > MAX_MARKS:
        return None
    try:
        # An escape that Python warns of is read as it stands.
        with warnings.catch_warnings(action="ignore"):
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        if PRINTED_BY_NUMPY.search(text):
            problem = "a list is written as numpy prints it, without commas; write it as JSON"
            raise BadRow("wrong_type", problem) from None
        return None


def _transposed(value: dict) -> list | None:
    """The objects of a struct of lists, as pandas and `datasets` write it: {"role": [...], "content": [...]}."""
    lists = list(value.values())
    if not lists or not all(isinstance(each, list) for each in lists) or len({len(each) for each in lists}) > 1:
        return None
    return [dict(zip(value, row, strict=True)) for row in zip(*lists, strict=True)]


def text_message(role: Role, value: object, where: str) -> Message:
    """A message of a field that holds only a text. Raises BadRow."""
    return Message(role, as_string(value, where))


def as_string(value: object, where: str) -> str:
    """The value, if it is a text. Raises BadRow."""
    if value is None:
        raise BadRow("null_field", f"{where} is null")
    if not isinstance(value, str):
        raise BadRow("wrong_type", f"{where} is of type {type(value).__name__}, not a text")
    return value


def field_of(row: Mapping[str, Any], names: Names, where: str = "the row") -> str:
    """The first of the names that the row has, preferring fields that are not null. Raises BadRow."""
    null = None
    for name in names:
        if row.get(name) is not None:
            return name
        if null is None and name in row:
            null = name
    if null is None:
        raise BadRow("missing_field", f"{where} has no field {' or '.join(names)}")
    return null


def with_context(question: str, context: str) -> str:
    """A question with the text that it is about below it, or the one of them that is not blank."""
    if not context.strip():
        return question
    return question + JOINT + context if question.strip() else context


def _message(message: object, where: str) -> Message:
    if not isinstance(message, dict):
        raise BadRow("wrong_type", f"{where} is not an object")
    key = field_of(message, ROLE_KEYS, where)
    name = as_string(message[key], f"{key} of {where}").strip().lower()
    role = ROLE_OF.get(name)
    if role is None:
        raise BadRow("unknown_role", f"{where} has the role {short(message[key])}")
    if name in CALL_ROLES:
        return _call(message, where, name)
    extra = {field: _parsed(message[field]) if field in CALLS else message[field] for field in _known(message)}
    if name in OWN_NAMES:
        extra["role"] = name
    calls = role == "assistant" and any(extra.get(field) for field in CALLS)
    if calls and not any(text in message for text in TEXT_KEYS):
        return Message(role, "", extra_json(extra, MESSAGE_FIELDS))
    text = field_of(message, TEXT_KEYS, where)
    content = message[text]
    if content is None and calls:
        return Message(role, "", extra_json(extra | {"content": None}, MESSAGE_FIELDS))
    if isinstance(content, str) and not extra:
        return Message(role, content)
    if isinstance(content, (list, tuple, dict)):
        extra["content"] = content
        return Message(role, _typed(content, where), extra_json(extra, MESSAGE_FIELDS))
    return Message(role, as_string(content, f"{text} of {where}"), extra_json(extra, MESSAGE_FIELDS))


def _known(message: dict) -> Iterator[str]:
    return (field for field in message if field in BESIDE and message[field] is not None)


def _parsed(value: object) -> object:
    """Tool calls and tools that are a JSON text are what the text says."""
    if not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return parsed if isinstance(parsed, (list, dict)) else value


def _call(message: dict, where: str, role: str) -> Message:
    """A message of the role function_call or tool_call, whose text is a call or a list of calls as JSON."""
    text = field_of(message, TEXT_KEYS, where)
    call = _parsed(message[text])
    if call is None:
        raise BadRow("null_field", f"{text} of {where} is null")
    check_depth(call)
    if role == "tool_call" and isinstance(call, dict):
        call = [call]
    name = "tool_calls" if isinstance(call, list) else "function_call"
    extra = {field: message[field] for field in _known(message)} | {"content": None, name: call}
    return Message("assistant", "", extra_json(extra, MESSAGE_FIELDS))


def _typed(content: Sequence | dict, where: str) -> str:
    """The text of a content in typed parts, with a placeholder for each part that is no text."""
    if isinstance(content, dict):
        inner = content.get("parts")
        content = inner if isinstance(inner, list) else [content]
    return "\n".join(text for part in content if (text := _part(part, where)) is not None)


def _part(part: object, where: str) -> str | None:
    if not isinstance(part, (str, dict)):
        raise BadRow("unsupported_content", f"{where} has a part that is neither text nor an object")
    match part_kind(part):
        case "text":
            return part if isinstance(part, str) else as_string(part.get("text"), f"a part of {where}")
        case "tool":
            return canonical(part)
        case "thought":
            return None
    return placeholder(part)


def row_extra(row: Mapping[str, Any], messages: Sequence[Message]) -> str | None:
    """What a trainer sees of a row besides its messages, as canonical JSON; None if there is nothing.

    A system prompt beside messages that have another one is such a thing as well.
    """
    found = {name: _parsed(row[name]) for name in row if name in OF_ROWS and row[name] is not None}
    # A row without images or tools has an empty list or text, in a file where other rows have some.
    found = {name: value for name, value in found.items() if value != "" and (name in TOOLS or value not in ([], {}))}
    if isinstance(system := found.pop("system", None), str) and not any(
        message.role == "system" and message.content == system for message in messages
    ):
        found["system"] = system
    return extra_json(found, ROW_FIELDS) if found else None


def history(value: object) -> Iterator[Message]:
    """The messages of earlier exchanges: pairs, objects with a question and an answer, or messages. Raises BadRow."""
    for number, item in enumerate(as_list(value or [], "history"), 1):
        where = f"history, exchange {number}"
        if isinstance(item, dict) and any(key in item for key in ROLE_KEYS):
            yield _message(item, where)
            continue
        if isinstance(item, dict):
            asked = field_of(item, (*QUESTIONS, "user", "human"), where)
            item = (item[asked], item[field_of(item, (*ANSWERS, "assistant", "gpt", "bot"), where)])
        if not isinstance(item, (list, tuple)) or len(item) != 2:
            raise BadRow("wrong_type", f"{where} is not a pair of a question and an answer")
        yield text_message("user", item[0], where)
        yield text_message("assistant", item[1], where)
