"""Reads the records of CSV and TSV files: the separator, marks and ends of lines as they are found."""

import csv
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any

from deita_core.errors import UnreadableFileError, cause
from deita_core.reading.layouts import detect_layout
from deita_core.reading.lines import MARK, MAX_LINE, lines
from deita_core.reading.rows import Reject, Row

MAX_CELL = 16 << 20
SEPARATORS = (",", ";", "\t", "|")


def csv_rows(file: str, stream: Any, separator: str) -> Iterator[Row | Reject]:
    """The records after the header, by the names in it. Raises UnreadableFileError if the header cannot be read.

    A line `sep=;` before the header names the separator. Otherwise it is the one given, unless the header has names of
    a layout, or several names at all, with exactly one other separator.
    """
    # The limit is global to the process, so it is never lowered.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))
    text = _Lines(stream)
    reader = csv.reader(text, delimiter=text.separator(separator), strict=True)
    header = _header(file, reader)
    while True:
        line = reader.line_num + 1 + text.skipped
        text.at_start = True
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield Reject(line, "broken_csv", f"the record cannot be parsed: {cause(error)}")
            continue
        if cells is None:
            return
        if text.cut >= line:
            yield Reject(line, "too_large", f"a line of the record is longer than {MAX_LINE:,} bytes")
        elif text.marked == line and _without_unnamed(cells) == header:
            # Files that were joined: each began with a mark and the header.
            continue
        elif text.marked == line and detect_layout([dict.fromkeys(cells, "")]):
            problem = "a byte order mark begins a file with another header here; from here on nothing is read"
            yield Reject(line, "broken_csv", problem)
            return
        elif cells:
            yield _row(line, header, ["\ufeff" + cells[0], *cells[1:]] if text.marked == line else cells)


class _Lines:
    """A stream's lines as text, for a csv reader."""

    def __init__(self, stream: Any) -> None:
        # Lines that the reader did not see, the last line that was too long, the last with a byte order mark.
        self.skipped, self.cut, self.marked = 0, 0, 0
        self.at_start = False
        self._lines = lines(stream)

    def separator(self, default: str) -> str:
        """The file's separator; to be called before the first line is read."""
        first = next(self._lines, None)
        if first is None:
            return default
        number, data = first
        begin = (data or b"").decode(errors="replace").strip("\r\n ")
        if begin[:4].lower() == "sep=" and len(begin) == 5:
            self.skipped = number
            return begin[4]
        self._lines = chain([first], self._lines)
        return _sniffed(begin, default)

    def __iter__(self) -> Iterator[str]:
        for number, data in self._lines:
            if data is None:
                self.cut = number
            elif self.at_start and data.startswith(MARK):
                data, self.marked = data.removeprefix(MARK), number
            self.at_start = False
            yield "\n" if data is None else data.decode(errors="surrogateescape")


def _sniffed(header: str, default: str) -> str:
    """The separator that a header's line is written with, where only one is possible; else the default."""
    names = {mark: _split(header, mark) for mark in SEPARATORS}
    several = [mark for mark, found in names.items() if len(found) > 1]
    known = [mark for mark in several if detect_layout([dict.fromkeys(names[mark], "")])]
    for found in (known, several):
        if default in found:
            return default
        if len(found) == 1:
            return found[0]
    return default


def _split(header: str, mark: str) -> list[str]:
    try:
        return next(csv.reader([header], delimiter=mark), [])
    except csv.Error:
        return []


def _header(file: str, reader: Any) -> list[str]:
    try:
        header: list[str] = next((cells for cells in reader if cells), [])
        "".join(header).encode()
    except (csv.Error, UnicodeEncodeError):
        raise UnreadableFileError(f"{file} has a header that cannot be read; save the file as UTF-8 CSV.") from None
    header = _without_unnamed(header)
    check_names(file, header)
    return header


def _without_unnamed(header: list[str]) -> list[str]:
    """A header without a trailing column that has no name."""
    return header[:-1] if len(header) > 1 and header[-1] == "" else header


def check_names(file: str, names: list[str]) -> None:
    """Raise UnreadableFileError if two columns have one name."""
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise UnreadableFileError(f"{file} has two columns named {twice[0][:60]!r}; rename one of them.")


def _row(line: int, header: list[str], cells: list[str]) -> Row | Reject:
    if len(cells) == len(header) + 1 and cells[-1] == "":
        cells = cells[:-1]
    if len(cells) != len(header):
        return Reject(line, "broken_csv", f"the record has {len(cells)} cells, the header {len(header)}")
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return Reject(line, "wrong_encoding", "the record is not UTF-8")
    return Row(line, dict(zip(header, cells, strict=True)))
