"""Reads the rows of a file of any supported kind, by the ending of its name."""

import io
from collections.abc import Iterator
from typing import Any

from deita_core.errors import InputError, cause
from deita_core.reading.compression import PACKED, UNPACKING, as_utf8, unpacked, without_packing
from deita_core.reading.delimited import csv_rows
from deita_core.reading.jsontext import json_rows, jsonl_rows
from deita_core.reading.rows import Reject, Row

TEXTS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")
ARROW = (".arrow", ".feather", ".ipc")
TABLES = (".parquet", *ARROW)
ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", *(".tar" + ending for ending in PACKED))
SUPPORTED = (*TEXTS, *TABLES, *(text + ending for text in TEXTS for ending in PACKED), *ARCHIVES)


def file_rows(file: str) -> Iterator[Row | Reject]:
    """The rows of a file that is no archive."""
    if file.lower().endswith(TABLES):
        # pyarrow is slow to import.
        from deita_core.reading.arrow import arrow_rows, parquet_rows

        return parquet_rows(file) if file.lower().endswith(".parquet") else arrow_rows(file)
    return _text_file_rows(file)


def _text_file_rows(file: str) -> Iterator[Row | Reject]:
    line = 0
    try:
        with io.BufferedReader(io.FileIO(file)) as packed:
            for row in text_rows(file, packed):
                line = row.line
                yield row
    except UNPACKING as error:
        # Only errors of the system have a number; the others are about the content.
        if getattr(error, "errno", None) is not None:
            raise InputError(f"{file} cannot be read ({cause(error)}); check its permissions and the disk.") from None
        yield broken_from(line, error)


def broken_from(line: int, error: Exception) -> Reject:
    """The reject for everything after a line of a file that cannot be decompressed or decoded."""
    return Reject(line + 1, "broken_compression", f"from here on nothing can be unpacked: {cause(error)}")


def text_rows(name: str, packed: Any) -> Iterator[Row | Reject]:
    """The rows of a text in a stream, by its name, compressed or not. Raises what UNPACKING lists."""
    stream = as_utf8(name, unpacked(name, packed))
    kind = without_packing(name)
    if kind.endswith((".csv", ".tsv")):
        return csv_rows(name, stream, "\t" if kind.endswith(".tsv") else ",")
    return json_rows(stream) if kind.endswith(".json") else jsonl_rows(stream)
