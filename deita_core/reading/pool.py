"""Streams samples and rejects from files, folders, globs and hub datasets, in bounded memory at any size."""

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from deita_core.conversation import Conversation, Message, text_id
from deita_core.errors import InputError, cause
from deita_core.literals import LAYOUTS, Layout, Modality, Preference
from deita_core.reading.files import parquet_rows, text_rows
from deita_core.reading.hub import HUB, hub_hash, hub_parts, hub_rows
from deita_core.reading.layouts import DEFAULT, judge_rows
from deita_core.reading.options import ReadOptions
from deita_core.reading.rows import Reject, Row, Sample
from deita_core.tables import MESSAGE, REJECTS, SAMPLES, SOURCES, Table

TEXTS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")
SUPPORTED = (*TEXTS, ".parquet", *(text + packed for text in TEXTS for packed in (".gz", ".zst")))

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


def expand(paths: str | Path | Iterable[str | Path]) -> list[str]:
    """The files that paths, folders and globs name, each once and in order; hf://datasets/... is unchanged.

    Folders are searched recursively, without hidden files. Raises InputError if a path names nothing readable.
    """
    found: dict[Path | str, str] = {}
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        for file in _files(str(path)):
            found.setdefault(file if file.startswith(HUB) else Path(file).resolve(), file)
    if not found:
        raise InputError("No input was named; give a file, a folder, a glob or hf://datasets/ORG/NAME.")
    return list(found.values())


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

    Raises InputError at once for invalid arguments, and at the end if no row could be read.
    """
    if limit is not None and limit < 1:
        raise InputError(f"The limit is {limit}; it must be at least 1 row.")
    file, *others = expand(path)
    if others:
        raise InputError(f"{path} names {1 + len(others)} files; stream them one at a time.")
    return _verdict(file, judge_rows(islice(_rows(file), limit), options), options.expected, limit)


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
    the rows of all files together; the other options as in ReadOptions.
    """
    options = read_options(layout=layout, preference=preference, modality=modality, columns=columns or {})
    first: dict[str, Sample] = {}
    sources: dict[str, list[dict]] = {}
    rejects = []
    for file, row in _pool_rows(expand(paths), options, limit):
        if isinstance(row, Reject):
            rejects.append((file, row.line, row.reason, row.detail))
        else:
            first.setdefault(row.conversation.id, row)
            sources.setdefault(row.conversation.id, []).append({"file": file, "line": row.line})
    samples = [(*_sample_row(s.conversation), len(sources[i]), sources[i], s.fields) for i, s in first.items()]
    return (
        pl.DataFrame(samples, schema=POOL, orient="row"),
        pl.DataFrame(rejects, schema=POOL_REJECTS, orient="row"),
    )


def batches(
    rows: Iterable[Sample | Reject], max_rows: int = 4096, max_chars: int = 32_000_000
) -> Iterator[list[Sample | Reject]]:
    """The rows in lists of at most `max_rows`; a list ends once its JSON reaches `max_chars` characters."""
    batch: list[Sample | Reject] = []
    chars = 0
    for row in rows:
        batch.append(row)
        chars += len(row.fields) if isinstance(row, Sample) else 0
        if len(batch) >= max_rows or chars >= max_chars:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def samples_frames(file_id: str, file: str, rows: Iterable[Sample | Reject]) -> Batch:
    """Rows of one file for the store's tables; a conversation that occurs twice is one sample with two sources."""
    rows = list(rows)
    good = [row for row in rows if isinstance(row, Sample)]
    bad = [row for row in rows if isinstance(row, Reject)]
    unique = {s.conversation.id: s.conversation for s in good}
    return Batch(
        _frame(SAMPLES, [_outlined(c) for c in unique.values()]),
        _frame(SOURCES, [(*_key(file_id, file, s), s.conversation.id, s.layout, s.side, s.fields) for s in good]),
        _frame(REJECTS, [(*_key(file_id, file, r), r.reason, r.detail) for r in bad]),
    )


def content_hash(path: str | Path) -> str:
    """BLAKE2b-128 of the file's bytes (for hf:// of name, commit, configuration and split), as 32 hex digits."""
    if str(path).startswith(HUB):
        return hub_hash(str(path))
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({cause(error)}); check the path and its permissions.") from None


def _files(path: str) -> list[str]:
    if path.startswith(HUB):
        hub_parts(path)
        return [path]
    where = Path(path)
    if where.is_dir():
        found = [p for p in where.rglob("*") if not any(part.startswith(".") for part in p.relative_to(where).parts)]
    else:
        # Path.glob does not accept absolute patterns.
        found = [where] if where.exists() else [Path(match) for match in glob.glob(path, recursive=True)]  # noqa: PTH207
    files = sorted(p.as_posix() for p in found if p.name.lower().endswith(SUPPORTED) and p.is_file())
    if strange := [file for file in files if not _is_utf8(file)]:
        shown = os.fsencode(strange[0]).decode(errors="replace")
        raise InputError(f"{shown} has a name that is not UTF-8, so that no result could say it; rename the file.")
    if not files:
        problem = "names no file of a supported kind" if found or where.exists() else "does not exist"
        raise InputError(f"{path} {problem}; give {', '.join(SUPPORTED)} files, or hf://datasets/ORG/NAME.")
    return files


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pool_rows(files: Sequence[str], options: ReadOptions, limit: int | None) -> Iterator[tuple[str, Sample | Reject]]:
    left = limit
    for file in files:
        met = 0
        for met, row in enumerate(stream_file(file, options, left), 1):  # noqa: B007
            yield file, row
        left = None if left is None else left - met
        if left == 0:
            return


def _verdict(
    file: str, rows: Iterator[Sample | Reject], layout: Layout | None, limit: int | None
) -> Iterator[Sample | Reject]:
    """The rows, unchanged. Raises InputError at the end if none is a sample."""
    good, reasons, details = 0, Counter[str](), dict[str, str]()
    for row in rows:
        if isinstance(row, Sample):
            good += 1
        else:
            reasons[row.reason] += 1
            details.setdefault(row.reason, row.detail)
        yield row
    if not good and not reasons:
        raise InputError(f"{file} is empty: it holds no row; leave it out or put it right.")
    # The limit can leave the last file too few rows to judge it by.
    cut_short = limit is not None and limit < FEW and reasons.total() == limit
    if not good and not cut_short:
        [(reason, n)] = reasons.most_common(1)
        raise InputError(
            f"Not one of the {reasons.total():,} rows tried of {file} could be read as {layout or ', '.join(LAYOUTS)} "
            f"({n:,} times {reason}: {details[reason]}); put the rows right, or name another layout."
        )


def _sample_row(found: Conversation) -> tuple[str, list[dict], str | None, bool, int, int]:
    messages = [{"role": m.role, "content": m.content, "extra": m.extra} for m in found.messages]
    return found.id, messages, found.extra, found.is_multimodal, len(found.turns), found.n_chars


def _outlined(found: Conversation) -> tuple:
    identity, messages, *facts = _sample_row(found)
    return identity, messages, [_index(m) for m in found.messages], *facts


def _index(message: Message) -> dict[str, Any]:
    text, full = message.text, message.read_text()
    return {
        "role": message.role,
        "text_id": text_id(text),
        "n_chars": len(text),
        "blank": not text.strip(),
        "trained": message.is_trained,
        "full_id": None if full == text else text_id(full),
        "full_chars": None if full == text else len(full),
    }


def _key(file_id: str, file: str, row: Sample | Reject) -> tuple[str, str, str, int]:
    rejected = isinstance(row, Sample) and row.side == "rejected"
    return f"{file_id}:{row.line}{':rejected' if rejected else ''}", file_id, file, row.line


def _frame(table: Table, rows: list[tuple]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=table.empty().schema, orient="row")


def _rows(file: str) -> Iterator[Row | Reject]:
    if file.startswith(HUB):
        return hub_rows(file)
    return parquet_rows(file) if file.lower().endswith(".parquet") else text_rows(file)
