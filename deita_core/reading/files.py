"""Reads the rows of a JSON, JSON Lines, CSV or Parquet file, compressed or not, in bounded memory."""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import chain, count
from typing import Any

import zstandard

from deita_core.errors import InputError, cause
from deita_core.reading.layouts import detect_layout
from deita_core.reading.rows import BadRow, Reject, Row, json_row, unparsed

# Keys of a JSON object that can hold the file's rows.
LIST_KEYS = ("data", "rows", "train", "examples")
MAX_LINE = 64 << 20
MAX_CELL = 16 << 20
CHUNK = 1 << 20
SPACE = re.compile(r"[ \t\n\r]*")
NUMBER = re.compile(r"[-+.0-9eE]*")
# Matches up to and including the next bracket or whole string, which is enough to skip a value.
TOKEN = re.compile(
    r'[^"\[\]{}]*(?:(?P<text>"[^"\\]*(?:\\.[^"\\]*)*")|(?P<opening>[\[{])|(?P<closing>[\]}]))', re.DOTALL
)
DECODER = json.JSONDecoder()
PARQUET_BATCH = 512
# A decompressed piece is held in memory: at most about 40 MB, however well the file is compressed.
ZSTD_PIECE = 1 << 10
UNPACKING = (OSError, EOFError, zlib.error)


def text_rows(file: str) -> Iterator[Row | Reject]:
    name = file.lower().removesuffix(".gz").removesuffix(".zst")
    line = 0
    try:
        with _opened(file) as stream:
            for row in _parsed(file, name, stream):
                line = row.line
                yield row
    except UNPACKING as error:
        if name == file.lower():
            raise InputError(f"{file} cannot be read ({cause(error)}); check its permissions and the disk.") from None
        yield Reject(line + 1, "broken_compression", f"from here on nothing can be unpacked: {cause(error)}")


def _opened(file: str) -> Any:
    """The file's decompressed bytes, after the byte order mark."""
    if file.lower().endswith(".gz"):
        stream: Any = gzip.GzipFile(file)
    elif file.lower().endswith(".zst"):
        stream = io.BufferedReader(_Zstd(file))
    else:
        stream = io.BufferedReader(io.FileIO(file))
    head = stream.peek(4)[:4]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head:
        raise InputError(f"{file} is UTF-16 or no text, not UTF-8; convert it, as with iconv -f UTF-16 -t UTF-8.")
    stream.read(3 if head.startswith(codecs.BOM_UTF8) else 0)
    return stream


class _Zstd(io.RawIOBase):
    """A zstd file's content. zstandard's own reader accepts a truncated file as complete."""

    def __init__(self, file: str) -> None:
        self.packed, self.pending, self.unpacked = io.BufferedReader(io.FileIO(file)), b"", memoryview(b"")
        self.frame: zstandard.ZstdDecompressionObj | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.unpacked and (data := self.pending or self.packed.read(ZSTD_PIECE)):
            self._unpack(data)
        if not self.unpacked and self.frame:
            raise EOFError("the file ends inside a frame")
        n = min(len(buffer), len(self.unpacked))
        buffer[:n], self.unpacked = self.unpacked[:n], self.unpacked[n:]
        return n

    def _unpack(self, data: bytes) -> None:
        frame = self.frame or zstandard.ZstdDecompressor().decompressobj()
        try:
            self.unpacked = memoryview(frame.decompress(data))
        except zstandard.ZstdError as error:
            raise OSError(str(error)) from None
        self.pending, self.frame = (frame.unused_data, None) if frame.eof else (b"", frame)


def _parsed(file: str, name: str, stream: Any) -> Iterator[Row | Reject]:
    if name.endswith((".csv", ".tsv")):
        return _csv_rows(file, stream, "\t" if name.endswith(".tsv") else ",")
    return _json_rows(stream) if name.endswith(".json") else _jsonl_rows(stream)


def _lines(stream: Any, start: int = 1) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines; a line longer than MAX_LINE is None, and is skipped piece by piece."""
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


def _jsonl_rows(stream: Any, start: int = 1) -> Iterator[Row | Reject]:
    for line, data in _lines(stream, start):
        if data is None:
            yield Reject(line, "too_large", f"the line is longer than {MAX_LINE:,} bytes")
        elif data.strip():
            yield json_row(line, data)


def _json_rows(stream: Any) -> Iterator[Row | Reject]:
    """The rows of a list, of an object with a list, or of consecutive objects: by line if the first line is whole."""
    if stream.peek(1).lstrip()[:1] != b"{":
        return _document_rows(_Window(stream))
    head = stream.readline(MAX_LINE)
    first = json_row(1, head)
    holds_list = isinstance(first, Row) and isinstance(first.value, dict) and first.value.keys() & set(LIST_KEYS)
    if isinstance(first, Reject) or (holds_list and detect_layout([first.value]) is None):
        return _document_rows(_Window(stream, head))
    return chain([first], _jsonl_rows(stream, 2))


def _document_rows(window: "_Window") -> Iterator[Row | Reject]:
    line = 0
    try:
        for line, value in enumerate(_documents(window), 1):
            yield Reject(line, value.reason, value.detail) if isinstance(value, BadRow) else Row(line, value)
    except ValueError as error:
        yield Reject(line + 1, "broken_json", f"from row {line + 1} on nothing can be read: {cause(error)}")


def _documents(window: "_Window") -> Iterator[object]:
    while start := window.peek():
        if start == "[":
            yield from window.members("[", "]")
        elif start == "{":
            yield from _object_or_list(window)
        else:
            yield window.value()


def _object_or_list(window: "_Window") -> Iterator[object]:
    row, listed = {}, False
    for key in window.members("{", "}"):
        window.expect(":")
        if key in LIST_KEYS and window.peek() == "[":
            listed = True
            yield from window.members("[", "]")
        else:
            row[str(key)] = window.value()
    if not listed:
        yield next((value for value in row.values() if isinstance(value, BadRow)), row)


class _Window:
    """The part of a JSON text that is not parsed yet, read in chunks; bytes that are not UTF-8 become surrogates.

    It replaces ijson, which changes texts: ijson reads half a surrogate pair as "?" or as another character.
    """

    def __init__(self, stream: Any, head: bytes = b"") -> None:
        self.stream, self.at, self.ended = stream, 0, False
        self.decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.text = self.decoder.decode(head)
        self.failure: Exception | None = None

    def grow(self) -> None:
        if self.failure:
            raise self.failure
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
        """The next character that is not white space; "" at the end."""
        while True:
            self.at = SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.grow()

    def expect(self, mark: str) -> None:
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


def _csv_rows(file: str, stream: Any, delimiter: str) -> Iterator[Row | Reject]:
    # The limit is global to the process, so it is never lowered.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))
    cut: list[int] = []
    reader = csv.reader(_csv_lines(stream, cut), delimiter=delimiter, strict=True)
    header = _csv_header(file, reader)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield Reject(line, "broken_csv", f"the record cannot be parsed: {cause(error)}")
            continue
        if cells is None:
            return
        if cut and cut[-1] >= line:
            yield Reject(line, "too_large", f"a line of the record is longer than {MAX_LINE:,} bytes")
        elif cells:
            yield _csv_row(line, header, cells)


def _csv_lines(stream: Any, cut: list[int]) -> Iterator[str]:
    for number, data in _lines(stream):
        if data is None:
            cut.append(number)
        yield "\n" if data is None else data.decode(errors="surrogateescape")


def _csv_header(file: str, reader: Any) -> list[str]:
    try:
        header: list[str] = next((cells for cells in reader if cells), [])
        "".join(header).encode()
    except (csv.Error, UnicodeEncodeError):
        raise InputError(f"{file} has a header that cannot be read; save the file as UTF-8 CSV.") from None
    _check_names(file, header)
    return header


def _check_names(file: str, names: list[str]) -> None:
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise InputError(f"{file} has two columns named {twice[0][:60]!r}; rename one of them.")


def _csv_row(line: int, header: list[str], cells: list[str]) -> Row | Reject:
    if len(cells) != len(header):
        return Reject(line, "broken_csv", f"the record has {len(cells)} cells, the header {len(header)}")
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return Reject(line, "wrong_encoding", "the record is not UTF-8")
    return Row(line, dict(zip(header, cells, strict=True)))


def parquet_rows(file: str) -> Iterator[Row | Reject]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        # Without buffer_size, a whole column of a row group would be held in memory.
        opened = ParquetFile(file, pre_buffer=False, buffer_size=CHUNK)
        batches = opened.iter_batches(PARQUET_BATCH)
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        raise InputError(f"{file} is not a whole Parquet file ({cause(error)}); write it again.") from None
    _check_names(file, opened.schema_arrow.names)
    line = 0
    try:
        for line, row in enumerate(chain.from_iterable(map(_values, batches)), 1):
            yield _unconvertible(line, row) if isinstance(row, Exception) else Row(line, row)
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        yield Reject(line + 1, "broken_parquet", f"from row {line + 1} on nothing can be read: {cause(error)}")


def _values(batch: Any) -> Iterator[object]:
    """The batch's rows, or the error of each that cannot be converted: year 10000, invalid text, unknown time zone."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError, LookupError):
        for i in range(len(batch)):
            try:
                yield from batch.slice(i, 1).to_pylist()
            except (ValueError, OverflowError, LookupError) as error:
                yield error


def _unconvertible(line: int, error: Exception) -> Reject:
    return Reject(line, "wrong_type", f"a value has no counterpart in Python: {cause(error)}")
