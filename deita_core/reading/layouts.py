"""Converts rows of any layout to samples, or to rejects with a reason. Reads no files."""

import ast
import json
import math
import re
import sys
import warnings
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import orjson

from deita_core.conversation import JOINT, Conversation, conversation
from deita_core.literals import LAYOUTS, Layout, Role

MAX_CHARS = 1_000_000
# Levels of nested lists and objects in a row: every JSON parser and writer supports this, at any call depth.
MAX_DEPTH = 200
PEEK = 100
NESTED = (dict, list, tuple)
# Python's own limit, which prevents numbers that take minutes to parse.
TOO_LONG = f"an integer has more than {sys.int_info.default_max_str_digits:,} digits"
TOO_DEEP = f"the row is nested more than {MAX_DEPTH} levels deep, so that it could not be given back"

# Objects of a list that only white space stands between.
PRINTED_BY_NUMPY = re.compile(r"\}\s+\{")

PYTHON_TEXT = re.compile(r"'[^'\\]*(?:\\.[^'\\]*)*'|\"[^\"\\]*(?:\\.[^\"\\]*)*\"", re.DOTALL)
# Characters outside of texts in a list that Python wrote.
MAX_MARKS = 50_000

Pair = tuple[Role, str]
Names = tuple[str, ...]

ROLE_NAMES: dict[Role, str] = {
    "user": "human user usr prompter question",
    "assistant": "gpt assistant chatgpt bing bard model bot ai claude function_call answer",
    "tool": "tool observation function function_response function_output ipython environment",
    "system": "system developer context",
}
ROLE_OF: dict[str, Role] = {name: role for role, names in ROLE_NAMES.items() for name in names.split()}
QUESTIONS = ("prompt", "question", "query", "instruction", "input")
ANSWERS = ("response", "answer", "completion", "output")
# A row of a layout has at least one name of each group. If several layouts fit equally often, the first wins: a list of
# messages holds more than a pair of texts beside it, and instruction + output is the more specific pair.
NEEDED: dict[Layout, tuple[Names, ...]] = {
    "sharegpt": (("conversations", "conversation", "items"),),
    "messages": (("messages", "conversation"),),
    "alpaca": (("instruction",), ("output",)),
    "prompt-response": (QUESTIONS, ANSWERS),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """A row read as a conversation; `fields` is the row as JSON, `line` the line where it starts, from 1."""

    line: int
    conversation: Conversation
    layout: Layout
    fields: str


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that could not be read as a conversation; `reason` is a code, `detail` a sentence."""

    line: int
    reason: str
    detail: str


class Row(NamedTuple):
    """A parsed row with any content; `text` is its original JSON, if it can be stored unchanged."""

    line: int
    value: object
    text: str | None = None


class BadRow(ValueError):  # noqa: N818 - it describes the input, not a failure of the program
    """A row that cannot become a sample: `reason` is a code, `detail` a short sentence without the user's text."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail[:300]
        super().__init__(f"{reason}: {self.detail}")


def parse_row(row: object, layout: Layout) -> Conversation:
    """The row's conversation, with all texts unchanged. Raises BadRow."""
    if not isinstance(row, dict):
        raise BadRow("not_an_object", f"the row is of type {type(row).__name__}, not an object with named fields")
    match layout:
        case "alpaca":
            pairs = _alpaca(row)
        case "sharegpt":
            pairs = _listed(row, NEEDED["sharegpt"][0], ("from", "role"), ("value", "content", "text"))
        case "messages":
            pairs = _listed(row, NEEDED["messages"][0], ("role", "from"), ("content", "value"))
        case "prompt-response":
            pairs = _prompt_response(row)
    return _checked(conversation(pairs))


def detect_layout(rows: Sequence[object]) -> Layout | None:
    """The layout that most rows fit, by their fields; None if no row fits any.

    Null fields count, unless a layout's fields are null in every row and another layout has values.
    """
    objects = [row for row in rows if isinstance(row, dict)]
    present = {layout: sum(_fits(row, layout) for row in objects) for layout in NEEDED}
    filled = [layout for layout in NEEDED if any(_fits(_without_nulls(row), layout) for row in objects)]
    best = max(filled or NEEDED, key=lambda layout: present[layout])
    return best if present[best] else None


def judge_rows(rows: Iterator[Row | Reject], layout: Layout | None = None) -> Iterator[Sample | Reject]:
    """A sample or a reject for each row, in order; the layout is detected from the first PEEK rows unless given.

    Rows that fit no layout are rejects, and detection continues, so that bad rows at the start do not lose the file.
    """
    for row in rows:
        waiting = [row, *islice(rows, PEEK - 1)] if layout is None and isinstance(row, Row) else [row]
        layout = layout or detect_layout([each.value for each in waiting if isinstance(each, Row)])
        for each in waiting:
            yield _fate(each, layout) if isinstance(each, Row) else each


def _fate(row: Row, layout: Layout | None) -> Sample | Reject:
    try:
        if layout is None and isinstance(row.value, dict):
            raise BadRow("unknown_layout", f"its fields fit no layout: {_short(list(row.value)[:20])}")
        check_depth(row.value)
        known = layout or LAYOUTS[0]
        return Sample(row.line, parse_row(row.value, known), known, row.text or fields_json(row.value))
    except BadRow as bad:
        return Reject(row.line, bad.reason, bad.detail)


def json_row(line: int, data: bytes) -> Row | Reject:
    """The row of one JSON text, such as a line of a JSONL file."""
    try:
        text = data.decode().strip()
    except UnicodeDecodeError as error:
        return Reject(line, "wrong_encoding", f"the line is not UTF-8 from its byte {error.start + 1} on")
    try:
        return Row(line, orjson.loads(text), text)
    except ValueError:
        return _lenient_row(line, text)


def _lenient_row(line: int, text: str) -> Row | Reject:
    # The standard library accepts what orjson refuses: NaN, infinities, integers of any size, half a surrogate pair.
    try:
        return Row(line, json.loads(text))
    except json.JSONDecodeError as error:
        return Reject(line, "broken_json", f"{error.msg.removesuffix(' at')}, at character {error.pos + 1}")
    except (ValueError, RecursionError) as error:
        bad = unparsed(error)
        return Reject(line, bad.reason, bad.detail)


def unparsed(error: ValueError | RecursionError) -> BadRow:
    """The reason why the standard library refuses valid JSON."""
    return BadRow("unsupported_content", TOO_DEEP if isinstance(error, RecursionError) else TOO_LONG)


def check_depth(value: object) -> None:
    """Raise BadRow if lists and objects are nested more than MAX_DEPTH levels deep."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [member for outer in level for member in _members(outer) if isinstance(member, NESTED)]
        if not level:
            return
    raise BadRow("unsupported_content", TOO_DEEP)


def _members(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, NESTED) else ()


def fields_json(row: object) -> str:
    """The row as one line of JSON, the form in which its fields are exported.

    Types that JSON lacks become text: dates and times in ISO 8601, bytes in base64, others (Decimal, timedelta, ...) as
    `str` gives them. NaN and infinities become null. Integers keep all digits. Raises only BadRow: for half a surrogate
    pair, which UTF-8 cannot encode, for hundreds of nested levels, and for integers of thousands of digits.
    """
    try:
        return orjson.dumps(row, default=_as_text).decode()
    except TypeError:
        return _slow_json(row)


def _slow_json(value: object) -> str:
    # orjson refuses integers beyond 64 bits, keys that are not strings and text that UTF-8 cannot encode.
    try:
        text = json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        raise BadRow("bad_unicode", "a field holds half of a surrogate pair, which UTF-8 cannot hold") from None
    except (ValueError, RecursionError) as error:
        raise unparsed(error) from None
    return text


def _plain(value: object) -> object:
    match value:
        case dict():
            return {str(key): _plain(member) for key, member in value.items()}
        case list() | tuple():
            return [_plain(member) for member in value]
        case float():
            return value if math.isfinite(value) else None
        case None | bool() | int() | str():
            return value
    return _as_text(value)


def _as_text(value: object) -> str:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _alpaca(row: dict) -> list[Pair]:
    question = _with_context(_text(row, ("instruction",)), _optional(row, ("input",)))
    answer = _text(row, ("output",))
    return [*_system(row), *_history(row), ("user", question), ("assistant", answer)]


def _history(row: dict) -> Iterator[Pair]:
    for number, pair in enumerate(_as_list(row.get("history") or [], "history"), 1):
        where = f"history, exchange {number}"
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise BadRow("wrong_type", f"{where} is not a pair of a question and an answer")
        yield "user", _string(pair[0], where)
        yield "assistant", _string(pair[1], where)


def _prompt_response(row: dict) -> list[Pair]:
    asked = _field(row, QUESTIONS)
    context = _optional(row, ("context", "input") if asked == "instruction" else ("context",))
    question = _with_context(_text(row, (asked,)), context)
    return [*_system(row), ("user", question), ("assistant", _text(row, ANSWERS))]


def _with_context(question: str, context: str) -> str:
    if not context.strip():
        return question
    return question + JOINT + context if question.strip() else context


def _system(row: dict) -> list[Pair]:
    text = _optional(row, ("system", "system_prompt"))
    return [("system", text)] if text.strip() else []


def _listed(row: dict, lists: Names, roles: Names, texts: Names) -> list[Pair]:
    name = _field(row, lists)
    messages = _as_list(row[name], name)
    pairs = [_message(message, roles, texts, f"message {i}") for i, message in enumerate(messages, 1)]
    if not pairs or any(role == "system" for role, _ in pairs):
        return pairs
    return [*_system(row), *pairs]


def _message(message: object, roles: Names, texts: Names, where: str) -> Pair:
    if not isinstance(message, dict):
        raise BadRow("wrong_type", f"{where} is not an object")
    role = _role(_text(message, roles, where), where)
    calls = message.get("tool_calls") or message.get("function_call")
    if role == "assistant" and calls and not any(message.get(name) for name in texts):
        return role, fields_json(calls)
    name = _field(message, texts, where)
    if name == "content" and isinstance(message[name], list):
        return role, "\n".join(_part(part, where) for part in message[name])
    return role, _text(message, (name,), where)


def _role(name: str, where: str) -> Role:
    role = ROLE_OF.get(name.lower())
    if role is None:
        raise BadRow("unknown_role", f"{where} has the role {_short(name)}")
    return role


def _part(part: object, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        kind = _short(part.get("type")) if isinstance(part, dict) else type(part).__name__
        raise BadRow("unsupported_content", f"{where} has a part that is no text but {kind}")
    return _text(part, ("text",), where)


def _field(row: dict, names: Names, where: str = "the row") -> str:
    """The first of the names that the row has, preferring fields that are not null."""
    present = [name for name in names if name in row]
    if not present:
        raise BadRow("missing_field", f"{where} has no field {' or '.join(names)}")
    return next((name for name in present if row[name] is not None), present[0])


def _text(row: dict, names: Names, where: str = "the row") -> str:
    name = _field(row, names, where)
    return _string(row[name], f"{name} of {where}")


def _string(value: object, where: str) -> str:
    if value is None:
        raise BadRow("null_field", f"{where} is null")
    if not isinstance(value, str):
        raise BadRow("wrong_type", f"{where} is of type {type(value).__name__}, not a text")
    return value


def _optional(row: dict, names: Names) -> str:
    value = next((row[name] for name in names if row.get(name) is not None), "")
    return _string(value, " or ".join(names))


def _as_list(value: object, name: str) -> list:
    """The value as a list; text is parsed as JSON, because a CSV cell holds a list as JSON."""
    if value is None:
        raise BadRow("null_field", f"{name} is null")
    if isinstance(value, str):
        value = _from_json(value)
        check_depth(value)
    if not isinstance(value, list):
        raise BadRow("wrong_type", f"{name} is not a list")
    return value


def _from_json(text: str) -> object:
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
            raise BadRow(
                "wrong_type", "a list is written as numpy prints it, without commas; write it as JSON"
            ) from None
        return None


def _checked(found: Conversation) -> Conversation:
    answers = [message for message in found.messages if message.role == "assistant"]
    if not found.messages:
        raise BadRow("empty_conversation", "the conversation has no messages")
    if not answers:
        raise BadRow("no_assistant_turn", "no message is the assistant's")
    if found.n_chars > MAX_CHARS:
        raise BadRow("too_large", f"the conversation has {found.n_chars:,} characters; at most {MAX_CHARS:,} are read")
    if not found.turns:
        raise _unanswered(found)
    try:
        # orjson refuses text that UTF-8 cannot encode. The id is needed anyway.
        found.id  # noqa: B018
    except TypeError:
        raise BadRow("bad_unicode", "a message holds half of a surrogate pair, which UTF-8 cannot hold") from None
    return found


def _unanswered(found: Conversation) -> BadRow:
    spoken = {message.role for message in found.messages if not message.is_blank}
    if "assistant" not in spoken:
        return BadRow("empty_answer", "every message of the assistant is blank")
    if "user" not in spoken and any(message.role == "user" for message in found.messages):
        return BadRow("empty_instruction", "every message of the user is blank")
    return BadRow("no_assistant_turn", "no user message is answered by an assistant")


def _fits(row: dict, layout: Layout) -> bool:
    if layout == "sharegpt" and _is_openai(row.get("conversation")):
        return False
    return all(any(name in row for name in names) for names in NEEDED[layout])


def _is_openai(messages: object) -> bool:
    """True for a list of OpenAI messages: both layouts use `conversation`, and the first message tells them apart."""
    first = messages[0] if isinstance(messages, list) and messages else None
    return isinstance(first, dict) and "role" in first and "from" not in first


def _without_nulls(row: dict) -> dict:
    return {name: value for name, value in row.items() if value is not None}


def _short(value: object) -> str:
    return repr(value)[:60]
