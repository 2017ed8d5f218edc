"""Splits a stream of bytes into numbered lines, in bounded memory whatever their length and their ends."""

import codecs
import re
from collections.abc import Iterator
from itertools import count
from typing import Any

MAX_LINE = 64 << 20
CHUNK = 1 << 20
LINE_END = re.compile(rb"\r?\n|\r")
MARK = codecs.BOM_UTF8


def lines(stream: Any, start: int = 1) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines with their ends; a line longer than MAX_LINE is None, and is skipped piece by piece.

    A line ends at a line feed; at a carriage return as well, if the first line does.
    """
    end = LINE_END.search(stream.peek(1))
    return enumerate(_any_lines(stream), start) if end and end[0] == b"\r" else _lines(stream, start)


def _lines(stream: Any, start: int) -> Iterator[tuple[int, bytes | None]]:
    for number in count(start):
        line = stream.readline(MAX_LINE)
        if not line:
            return
        if len(line) < MAX_LINE or line.endswith(b"\n"):
            yield number, line
            continue
        while (piece := stream.readline(CHUNK)) and not piece.endswith(b"\n"):
            pass
        yield number, None


def _any_lines(stream: Any) -> Iterator[bytes | None]:
    rest, too_long = b"", False
    while data := stream.read1(CHUNK):
        *whole, rest = (rest + data).splitlines(keepends=True)
        if rest.endswith(b"\n"):
            whole, rest = [*whole, rest], b""
        for line in whole:
            yield None if too_long or len(line) > MAX_LINE else line
            too_long = False
        if len(rest) > MAX_LINE:
            rest, too_long = b"", True
    if rest or too_long:
        yield None if too_long else rest
