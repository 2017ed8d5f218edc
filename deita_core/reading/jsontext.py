"""Reads the rows of JSON texts: lines, lists, objects that hold lists, columns, or objects one after the other."""

import codecs
import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from deita_core.errors import cause
from deita_core.reading.compression import UNPACKING
from deita_core.reading.layouts import detect_layout, judge_rows
from deita_core.reading.lines import CHUNK, MARK, MAX_LINE, lines
from deita_core.reading.rows import BadRow, Reject, Row, Sample, json_row, unparsed

# Of a row that reads as a conversation, but could not be written back.
NOT_GIVEN_BACK = ("bad_unicode", "unsupported_content")
# Keys of a JSON object whose lists hold the file's rows: data and rows, and the names of splits.
LIST_KEY = re.compile(
    r"(data|rows|examples|samples|records|instances)|(train|training|test|validation|valid|val|dev|eval)([_-]\w+)?"
)
SPACE = re.compile(r"[ \t\n\r\ufeff]*")
LIST_OF_ROWS = re.compile(r"\[[ \t\n\r]*[\[{\]]")
NUMBER = re.compile(r"[-+.0-9eE]*")
# Matches up to and including the next bracket or whole string, which is enough to skip a value.
TOKEN = re.compile(
    r'[^"\[\]{}]*(?:(?P<text>"[^"\\]*(?:\\.[^"\\]*)*")|(?P<opening>[\[{])|(?P<closing>[\]}]))', re.DOTALL
)
DECODER = json.JSONDecoder()


def jsonl_rows(stream: Any) -> Iterator[Row | Reject]:
    """The rows of JSON Lines; or of one JSON text, if the file begins with one that is longer than its first line."""
    return _document_rows(Window(stream)) if _is_document(stream.peek(1)) else _line_rows(stream)


def json_rows(stream: Any) -> Iterator[Row | Reject]:
    """The rows of a list, of an object with lists, or of consecutive objects: by line if the first line is whole."""
    if stream.peek(1).lstrip()[:1] != b"{":
        return _document_rows(Window(stream))
    head = stream.readline(MAX_LINE)
    first = json_row(1, head)
    if isinstance(first, Reject) or (_holds_rows(first.value) and not _is_row(first.value)):
        return _document_rows(Window(stream, head))
    return chain([first], _line_rows(stream, 2))


def _line_rows(stream: Any, start: int = 1) -> Iterator[Row | Reject]:
    for line, data in lines(stream, start):
        if data is None:
            yield Reject(line, "too_large", f"the line is longer than {MAX_LINE:,} bytes")
        elif stripped := data.removeprefix(MARK).strip():
            yield json_row(line, stripped)


def _is_document(head: bytes) -> bool:
    """Whether a file that should be JSON Lines is one JSON text, or has several values on its first line.

    A broken line among lines is not mistaken for a document: what follows it does not continue it.
    """
    first, _, rest = head.lstrip().partition(b"\n")
    row = json_row(1, first)
    if isinstance(row, Row):
        return isinstance(row.value, list) and not rest.strip()
    text = head.decode(errors="replace").strip()
    begins = re.match(r"\[?[ \t\n\r]*(?=[\[{])", text)
    if not begins:
        return text == "["
    in_list = begins.group() != ""
    if in_list and b"\n" not in head:
        return True
    try:
        _, end = DECODER.raw_decode(text, begins.end())
    except json.JSONDecodeError as error:
        return bool(rest.strip()) and _is_cut(error, text)
    except (ValueError, RecursionError):
        return False
    return in_list or "\n" in text[:end] or text[end:].lstrip(" \t\r")[:1] in ("{", "[")


def _is_cut(error: json.JSONDecodeError, text: str) -> bool:
    """Whether a text ends before the error is certain: at its end, or in its last token."""
    if error.pos >= len(text) or error.msg.startswith("Unterminated string"):
        return True
    return error.pos >= len(text) - 16 and text[error.pos] not in '{}[],:"'


def _holds_rows(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    return any(isinstance(v, list) and LIST_KEY.fullmatch(str(k)) for k, v in value.items()) or bool(_columns(value))


def _is_row(value: object) -> bool:
    """Whether an object that may hold rows is a row itself."""
    if _columns(value):
        judged = next(judge_rows(iter([Row(1, value)])))
        return isinstance(judged, Sample) or judged.reason in NOT_GIVEN_BACK
    return detect_layout([value]) is not None


def _document_rows(window: "Window") -> Iterator[Row | Reject]:
    line = 0
    try:
        for line, value in enumerate(_documents(window), 1):
            yield Reject(line, value.reason, value.detail) if isinstance(value, BadRow) else Row(line, value)
    except ValueError as error:
        yield Reject(line + 1, "broken_json", f"from row {line + 1} on nothing can be read: {cause(error)}")


def _documents(window: "Window") -> Iterator[object]:
    while start := window.peek():
        if start == "[":
            yield from window.members("[", "]")
        elif start == "{":
            yield from _object_or_rows(window)
        else:
            yield window.value()


def _object_or_rows(window: "Window") -> Iterator[object]:
    """An object; or the rows of its lists, its splits or its columns."""
    row: dict[str, object] = {}
    listed, begun = False, window.consumed
    for key in window.members("{", "}"):
        window.expect(":")
        if LIST_KEY.fullmatch(str(key)) and window.begins(LIST_OF_ROWS) and detect_layout([row]) is None:
            listed = True
            yield from (_named(member, row.get("columns")) for member in window.members("[", "]"))
            begun = window.consumed
        else:
            row[str(key)] = window.value()
            if window.consumed - begun > MAX_LINE:
                raise ValueError(f"an object is longer than {MAX_LINE:,} characters")
    if listed:
        return
    bad = next((value for value in row.values() if isinstance(value, BadRow)), None)
    columns = {} if bad or _is_row(row) else _columns(row)
    if not columns:
        yield bad or row
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _named(member: object, names: object) -> object:
    """A row that is a list of values, by the names of its columns that stand before it."""
    if isinstance(member, list) and isinstance(names, list) and len(member) == len(names) > 0:
        return dict(zip(map(str, names), member, strict=True))
    return member


def _columns(value: object) -> dict[str, list]:
    """The columns of an object that is a table: lists of one length, or objects numbered alike; else empty."""
    if not isinstance(value, dict) or not value:
        return {}
    first = next(iter(value.values()))
    if isinstance(first, list) and first:
        same = all(isinstance(column, list) and len(column) == len(first) for column in value.values())
        return dict(value) if same else {}
    if not isinstance(first, dict) or not first or not all(str(key).isdecimal() for key in first):
        return {}
    same = all(isinstance(column, dict) and column.keys() == first.keys() for column in value.values())
    return {name: [column[key] for key in first] for name, column in value.items()} if same else {}


class Window:
    """The part of a JSON text that is not parsed yet, read in chunks; bytes that are not UTF-8 become surrogates.

    It replaces ijson, which changes texts: ijson reads half a surrogate pair as "?" or as another character.
    """

    def __init__(self, stream: Any, head: bytes = b"") -> None:
        self.stream, self.at, self.ended = stream, 0, False
        self.decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.text = self.decoder.decode(head)
        self.failure: Exception | None = None
        self._dropped = 0

    @property
    def consumed(self) -> int:
        """Characters parsed so far."""
        return self._dropped + self.at

    def grow(self) -> None:
        """Read more, and drop what is parsed."""
        if self.failure:
            raise self.failure
        self._dropped += self.at
        texts = [self.text[self.at :]]
        # Doubles each time, so that one long row is not parsed again for every chunk.
        wanted = max(CHUNK, len(texts[0]))
        try:
            while wanted > 0 and not self.ended:
                data = self.stream.read1(CHUNK)
                texts.append(self.decoder.decode(data, final=not data))
                wanted, self.ended = wanted - len(data), not data
        except UNPACKING as error:
            # The text before the failure is still parsed.
            self.failure = error
        self.text, self.at = "".join(texts), 0

    def peek(self) -> str:
        """The next character that is not white space or a byte order mark; "" at the end."""
        while True:
            self.at = SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.grow()

    def begins(self, pattern: re.Pattern[str]) -> bool:
        """Whether what comes next matches a pattern; a list's first bracket and what follows it."""
        if self.peek() != "[":
            return False
        while not (found := pattern.match(self.text, self.at)):
            rest = self.text[self.at + 1 :].strip(" \t\n\r")
            if rest or self.ended:
                return False
            self._check_length()
            self.grow()
        return bool(found)

    def expect(self, mark: str) -> None:
        """Step over a mark. Raises ValueError if something else comes next."""
        if self.peek() != mark:
            raise ValueError(f"'{mark}' expected")
        self.at += 1

    def members(self, opening: str, closing: str) -> Iterator[object]:
        """The values of a list, or the keys of an object; the caller reads the value after each key."""
        self.expect(opening)
        while self.peek() != closing:
            yield self.value()
            if self.peek() != closing:
                self.expect(",")
        self.expect(closing)

    def value(self) -> object:
        """The next value, or the reason why the parser refuses valid JSON."""
        self.peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
                # A number at the end of the window may continue in the next chunk.
                if end < len(self.text) or self.ended:
                    self.at = end
                    return value
            except json.JSONDecodeError as error:
                if self.ended or _is_final(error):
                    raise ValueError(error.msg) from None
            except (ValueError, RecursionError) as error:
                self._step_over()
                return unparsed(error)
            self._check_length()
            self.grow()

    def _step_over(self) -> None:
        """Skip a list, an object or a number without parsing it."""
        if self.peek() not in "[{":
            self.at = NUMBER.match(self.text, self.at).end()  # type: ignore[union-attr]
            return
        depth = 0
        while True:
            token = TOKEN.match(self.text, self.at)
            if token:
                self.at = token.end()
                depth += (token["opening"] is not None) - (token["closing"] is not None)
                if not depth:
                    return
            elif self.ended:
                raise ValueError("it never ends")
            else:
                self._check_length()
                self.grow()

    def _check_length(self) -> None:
        if len(self.text) - self.at > MAX_LINE:
            raise ValueError(f"it is longer than {MAX_LINE:,} characters, or never ends")


def _is_final(error: json.JSONDecodeError) -> bool:
    """True if more text cannot resolve the error: a token can be cut only at the end of the window."""
    return not error.msg.startswith("Unterminated string") and error.pos < len(error.doc) - 16
