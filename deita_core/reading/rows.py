"""Rows as read: their values, their JSON, and what makes a row a reject."""

import json
import math
import sys
from collections.abc import Iterable
from typing import NamedTuple

import orjson

from deita_core.conversation import Conversation, as_text
from deita_core.literals import Layout, Side

# Levels of nested lists and objects in a row: every JSON parser and writer supports this, at any call depth.
MAX_DEPTH = 200
NESTED = (dict, list, tuple)
# Python's own limit, which prevents numbers that take minutes to parse.
TOO_LONG = f"an integer has more than {sys.int_info.default_max_str_digits:,} digits"
TOO_DEEP = f"the row is nested more than {MAX_DEPTH} levels deep, so that it could not be given back"


class Sample(NamedTuple):
    """A row read as a conversation; `fields` is the row as JSON, `line` the line where it starts, from 1.

    `id`, `multimodal`, `n_turns` and `n_chars` are the conversation's own. `side`: of a row with a preferred and a
    rejected answer, which of them this is.
    """

    line: int
    conversation: Conversation
    id: str
    multimodal: bool
    n_turns: int
    n_chars: int
    layout: Layout
    fields: str
    side: Side | None = None


class Reject(NamedTuple):
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
        level = [member for outer in level for member in members(outer) if isinstance(member, NESTED)]
        if not level:
            return
    raise BadRow("unsupported_content", TOO_DEEP)


def members(value: object) -> Iterable[object]:
    """The values that an object or a list holds."""
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
        return orjson.dumps(row, default=as_text).decode()
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
    return as_text(value)


def short(value: object) -> str:
    """The beginning of a value, for a message."""
    return repr(value)[:60]
