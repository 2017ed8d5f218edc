"""Streams samples and rejects from files, folders, globs and hub datasets, in bounded memory at any size."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from pydantic import ValidationError

from deita_core.errors import InputError, UnreadableFileError, cause
from deita_core.literals import LAYOUTS, Layout, Modality, Preference
from deita_core.reading.archives import archive_parts
from deita_core.reading.files import ARCHIVES, file_rows
from deita_core.reading.finding import Found, aside_line, find_pool
from deita_core.reading.frames import Conversations, frame_of
from deita_core.reading.hub import HUB, hub_hash, hub_rows
from deita_core.reading.layouts import DEFAULT, judge_rows
from deita_core.reading.options import ReadOptions
from deita_core.reading.rows import Reject, Row, Sample
from deita_core.tables import MESSAGE, REJECTS, SAMPLES, SOURCES

FEW = 10

SOURCE = pl.Struct({"file": pl.String, "line": pl.Int64})
POOL: dict[str, Any] = {
    "id": pl.String,
    "messages": pl.List(MESSAGE),
    "extra": pl.String,
    "multimodal": pl.Boolean,
    "n_turns": pl.Int32,
    "n_chars": pl.Int64,
    "copies": pl.Int32,
    "sources": pl.List(SOURCE),
    "fields": pl.String,
}
POOL_REJECTS: dict[str, Any] = {"file": pl.String, "line": pl.Int64, "reason": pl.String, "detail": pl.String}


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows for the tables `samples`, `sources` and `rejects`."""

    samples: pl.DataFrame
    sources: pl.DataFrame
    rejects: pl.DataFrame


class Placed(NamedTuple):
    """A row of a file: the file, or the file in an archive, that it stands in, and its number in the whole file."""

    place: str
    number: int
    row: Sample | Reject


def expand(paths: str | Path | Iterable[str | Path]) -> list[str]:
    """The files that paths, folders and globs name, each once and in order; hf://datasets/... is unchanged.

    Folders are searched recursively, without hidden files. Raises InputError if a path names nothing readable.
    """
    return find_pool(paths).files


def read_options(**given: Any) -> ReadOptions:
    """The options of reading, of those given. Raises InputError for a value that is none."""
    try:
        return ReadOptions(**given)
    except ValidationError as error:
        problem = error.errors()[0]
        raise InputError(f"Invalid value for {problem['loc'][0]}: {problem['msg']}.") from None


def stream_file(
    path: str | Path, options: ReadOptions = DEFAULT, limit: int | None = None
) -> Iterator[Sample | Reject]:
    """The first `limit` rows of one file or hub dataset, samples and rejects, in order; the layout is detected if None.

    Raises InputError at once for invalid arguments, and UnreadableFileError at the end if no row could be read.
    """
    return (placed.row for placed in placed_rows(path, options, limit))


def placed_rows(path: str | Path, options: ReadOptions = DEFAULT, limit: int | None = None) -> Iterator[Placed]:
    """As `stream_file`, each row with its place. Lines are counted anew in each file of an archive, numbers are not."""
    if limit is not None and limit < 1:
        raise InputError(f"The limit is {limit}; it must be at least 1 row.")
    file, *others = expand(path)
    if others:
        raise InputError(f"{path} names {1 + len(others)} files; stream them one at a time.")
    return _verdict(file, _judged(file, options, limit), options.expected, limit)


def read_pool(
    paths: str | Path | Iterable[str | Path],
    layout: Layout | None = None,
    limit: int | None = None,
    *,
    preference: Preference = "chosen",
    modality: Modality = "any",
    columns: dict[str, str] | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The samples of a pool in reading order, exact duplicates merged, and its rejects.

    samples: id, messages and extra (what else a trainer sees, as JSON), multimodal, n_turns, n_chars, copies, sources
    (file, line of each copy), fields (of the first copy, as JSON); rejects: file, line, reason, detail. `limit` counts
    the rows of all files together; the other options are those of ReadOptions. Warns of files of a folder that cannot
    be read.
    """
    options = read_options(layout=layout, preference=preference, modality=modality, columns=columns or {})
    conversations, fields, rejects = Conversations(), list[str](), list[tuple]()
    sources: dict[str, list[dict]] = {}
    for file, _, row in _pool_rows(find_pool(paths), options, limit):
        if isinstance(row, Reject):
            rejects.append((file, *row))
            continue
        if conversations.add(row):
            fields.append(row.fields)
        sources.setdefault(row.id, []).append({"file": file, "line": row.line})
    samples = conversations.frame().with_columns(
        pl.Series("copies", map(len, sources.values()), pl.Int32),
        pl.Series("sources", list(sources.values()), pl.List(SOURCE)),
        pl.Series("fields", fields, pl.String),
    )
    return samples.select(list(POOL)), frame_of(rejects, POOL_REJECTS)


class BatchBuilder:
    """Rows of any files that are written together; a conversation that occurs twice is one sample with two sources."""

    def __init__(self) -> None:
        self.rows = self.chars = 0
        self._conversations = Conversations()
        self._sources: list[tuple] = []
        self._rejects: list[tuple] = []

    def add(self, file_id: str, placed: Placed) -> None:
        """Add a row of the file with this id."""
        place, number, row = placed
        self.rows += 1
        key = f"{file_id}:{number}"
        if isinstance(row, Reject):
            self._rejects.append((key, file_id, place, *row))
            return
        self.chars += len(row.fields)
        key = f"{key}:rejected" if row.side == "rejected" else key
        self._sources.append((key, file_id, place, row.line, row.id, row.layout, row.side, row.fields))
        self._conversations.add(row)

    def batch(self) -> Batch:
        """The rows so far, for the store's tables."""
        samples = self._conversations.frame().select(SAMPLES.empty().columns)
        sources, rejects = SOURCES.empty().schema, REJECTS.empty().schema
        return Batch(samples, frame_of(self._sources, sources), frame_of(self._rejects, rejects))


def content_hash(path: str | Path) -> str:
    """BLAKE2b-128 of the file's bytes (for hf:// of name, commit, configuration and split), as 32 hex digits."""
    if str(path).startswith(HUB):
        return hub_hash(str(path))
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({cause(error)}); check the path and its permissions.") from None


def pool_streams(found: Found, options: ReadOptions, limit: int | None, set_aside: dict[str, str]) -> Iterator[Placed]:
    """The first `limit` rows of all files, in order; files of a folder that cannot be read are added to `set_aside`.

    Raises UnreadableFileError for a file that was named by itself, and if there is no other.
    """
    left, readable = limit, False
    for file in found.files:
        if left == 0:
            return
        try:
            last = 0
            for placed in placed_rows(file, options, left):
                left = None if left is None else left - (placed.number != last)
                last = placed.number
                yield placed
            readable = True
        except UnreadableFileError as error:
            if file in found.named:
                raise
            set_aside[file] = str(error)
            failure = error
    if not readable and set_aside:
        raise failure


def _pool_rows(found: Found, options: ReadOptions, limit: int | None) -> Iterator[Placed]:
    set_aside = dict(found.set_aside)
    yield from pool_streams(found, options, limit, set_aside)
    for sentence in set_aside.values():
        warnings.warn(aside_line(sentence), stacklevel=3)


def _judged(file: str, options: ReadOptions, limit: int | None) -> Iterator[Placed]:
    seen = before = 0
    for place, rows in file_parts(file):
        number = before
        for row in judge_rows(islice(rows, None if limit is None else limit - seen), options):
            # Both sides of a preference are of one row.
            seen += before + row.line != number
            number = before + row.line
            yield Placed(place, number, row)
        before = number


def file_parts(file: str) -> Iterable[tuple[str, Iterator[Row | Reject]]]:
    if file.startswith(HUB):
        return [(file, hub_rows(file))]
    return archive_parts(file) if file.lower().endswith(ARCHIVES) else [(file, file_rows(file))]


def _verdict(file: str, rows: Iterator[Placed], layout: Layout | None, limit: int | None) -> Iterator[Placed]:
    """The rows, unchanged. Raises UnreadableFileError at the end if none is a sample."""
    good, reasons, details = 0, Counter[str](), dict[str, str]()
    for placed in rows:
        if isinstance(placed.row, Sample):
            good += 1
        else:
            reasons[placed.row.reason] += 1
            details.setdefault(placed.row.reason, placed.row.detail)
        yield placed
    if not good and not reasons:
        raise UnreadableFileError(f"{file} is empty: it holds no row; leave it out or put it right.")
    # The limit can leave the last file too few rows to judge it by.
    cut_short = limit is not None and limit < FEW and reasons.total() == limit
    if not good and not cut_short:
        [(reason, n)] = reasons.most_common(1)
        raise UnreadableFileError(
            f"Not one of the {reasons.total():,} rows tried of {file} could be read as {layout or ', '.join(LAYOUTS)} "
            f"({n:,} times {reason}: {details[reason]}); put the rows right, name another layout, or your columns, as "
            f"in --map prompt=COLUMN,response=COLUMN."
        )
