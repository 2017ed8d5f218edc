"""Reads files into the store: samples, their sources, and rejects."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, TypeAdapter, ValidationError

from deita_core.conversation import content_id
from deita_core.errors import InputError, StoreError, UnreadableFileError
from deita_core.reading.finding import Found, find_pool
from deita_core.reading.layouts import DEFAULT
from deita_core.reading.options import ReadOptions
from deita_core.reading.pool import Batch, BatchBuilder, content_hash, expand, placed_rows
from deita_core.store import Store
from deita_core.tables import REJECTS, REMOVALS, SAMPLES, SOURCES

# Increased whenever the same file would give different rows. Part of every file id.
READING_VERSION = 2
# Rows, and characters of their JSON, that are held in memory and written together.
BATCH_ROWS = 16_384
BATCH_CHARS = 32_000_000
# Files of at most this many bytes are read and written together, at most this many at a time.
SMALL = 1 << 20
TOGETHER = 500


class PoolFile(BaseModel):
    """A file of the pool; its id depends on path, content, options and limit.

    `named`: it was named by itself, not found in a folder. `size`: bytes, None for a hub dataset.
    """

    file: str
    content: str
    options: ReadOptions = ReadOptions()
    limit: int | None = None
    named: bool = True
    size: int | None = None

    def at(self, file: str) -> "PoolFile":
        """The same content at another path."""
        return self.model_copy(update={"file": file})

    @property
    def id(self) -> str:
        """Key of the file's rows in the store."""
        parts = (self.file, self.content, self.options.model_dump_json(), self.limit, READING_VERSION)
        return content_id(repr(parts).encode())


class PoolFiles(BaseModel):
    """A pool's files, and a line for each path of a folder that is set aside; `left_out`: files the user left out."""

    files: list[PoolFile]
    warnings: list[str]
    left_out: list[str]


class Ingested(BaseModel):
    """Counts of one file's rows.

    `lines`: rows of the file; one with a preference may be two of the `rows`, each of which is a sample or a reject.
    `layouts`: samples by the layout that they were read in. `set_aside`: the reason why no row of it could be read, or
    empty.
    """

    file_id: str
    file: str
    lines: int
    rows: int
    samples: int
    rejects: int
    layouts: dict[str, int] = {}
    options: ReadOptions = ReadOptions()
    set_aside: str = ""


def pool_files(pool: Sequence[str], own: Iterable[str] = (), leave_out: Sequence[str] = ()) -> Found:
    """The files of a pool, except those that match the globs `leave_out`, and those in the program's `own` folders.

    Own folders are those of the store and of results. Files in them that are named in the pool itself are always
    included. Raises InputError if no file remains.
    """
    asked = [Path(name).resolve() for name in map(str, pool) if "://" not in name]
    outside = [Path(folder).expanduser().resolve() for folder in own if "://" not in folder]
    outside = [folder for folder in outside if not any(folder in (path, *path.parents) for path in asked)]
    named = {str(path) for path in pool}

    def is_own(file: str) -> bool:
        if file in named or "://" in file:
            return False
        parents = Path(file).resolve().parents
        return any(folder in parents for folder in outside)

    found = find_pool(pool, leave_out)
    found.files = [file for file in found.files if not is_own(file)]
    found.set_aside = {file: why for file, why in found.set_aside.items() if not is_own(file)}
    if not found.files:
        raise InputError(f"{', '.join(sorted(named))} holds nothing but this program's own files; name your data.")
    return found


def describe_pool(found: Found, options: ReadOptions = DEFAULT) -> PoolFiles:
    """Hash the content of a pool's files, without parsing their rows."""
    files = [describe_file(file, options).model_copy(update={"named": file in found.named}) for file in found.files]
    return PoolFiles(files=files, warnings=found.warnings, left_out=found.left_out)


def describe_file(file: str, options: ReadOptions = DEFAULT, limit: int | None = None) -> PoolFile:
    """Hash a file's content, without parsing its rows."""
    content = content_hash(file)
    size = None if "://" in file else Path(file).stat().st_size
    return PoolFile(file=file, content=content, options=options, limit=limit, size=size)


def ingest_file(store: Store, file: PoolFile) -> Ingested:
    """Read a file into the store in batches; existing rows are not written again.

    Raises UnreadableFileError if no row could be read and the file was named by itself.
    """
    [ingested] = ingest_files(store, [file])
    check_readable(file, ingested)
    return ingested


def check_readable(file: PoolFile, ingested: Ingested) -> None:
    """Raise UnreadableFileError if no row could be read of a file that was named by itself."""
    if file.named and ingested.set_aside:
        raise UnreadableFileError(ingested.set_aside)


def ingest_files(store: Store, files: Sequence[PoolFile]) -> list[Ingested]:
    """Read files into the store in batches, of which one may hold rows of many files; existing rows are not written.

    Returns the counts of each file, also where no row of it could be read. Raises InputError, and removes its rows, if
    a file has changed since it was described.
    """
    with _Writer(store) as writer:
        unreadable = {file.id: writer.read(file) for file in files}
        writer.flush()
    return [
        Ingested(
            file_id=file.id,
            file=file.file,
            lines=writer.lines[file.id],
            rows=writer.samples[file.id] + writer.rejects[file.id],
            samples=writer.samples[file.id],
            rejects=writer.rejects[file.id],
            layouts=dict(sorted(writer.layouts[file.id].items())),
            options=file.options,
            set_aside=unreadable[file.id],
        )
        for file in files
    ]


class _Writer:
    """Writes the rows of files in batches, each while the next is read, and counts them by file."""

    def __init__(self, store: Store) -> None:
        self._store, self._removed = store, removals(store)
        self._pending = BatchBuilder()
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None
        self.lines, self.samples, self.rejects = Counter[str](), Counter[str](), Counter[str]()
        self.layouts = defaultdict[str, Counter[str]](Counter)

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *error: object) -> None:
        # Nothing is written once the caller goes on.
        self._thread.shutdown()

    def read(self, file: PoolFile) -> str:
        """Read a file; returns why no row of it could be read, or an empty text."""
        why = ""
        file_id = file.id
        try:
            last = 0
            for placed in placed_rows(file.file, file.options, file.limit):
                self.lines[file_id] += placed.number != last
                last = placed.number
                self._pending.add(file_id, placed)
                if self._pending.rows >= BATCH_ROWS or self._pending.chars >= BATCH_CHARS:
                    self._write_on()
        except UnreadableFileError as error:
            why = str(error)
        if content_hash(file.file) != file.content:
            self._wait()
            for table in (SOURCES, REJECTS):
                self._store.delete(table, f"file_id = '{file_id}'")
            raise InputError(f"{file.file} has changed while it was read; run again once nothing writes to it.")
        return why

    def flush(self) -> None:
        """Write what is read, to the end."""
        self._write_on()
        self._wait()

    def _write_on(self) -> None:
        """Begin to write what is read, once the batch before is written."""
        batch = without_removed(self._pending.batch(), self._removed)
        self._pending = BatchBuilder()
        self._wait()
        self._writing = self._thread.submit(self._write, batch)

    def _wait(self) -> None:
        if self._writing:
            self._writing.result()

    def _write(self, batch: Batch) -> None:
        # Sources last, so that a source row is visible only with its sample.
        self._store.write(SAMPLES, batch.samples)
        self._store.write(REJECTS, batch.rejects)
        self._store.write(SOURCES, batch.sources)
        self.samples.update(batch.sources["file_id"])
        for file_id, layout in batch.sources.select("file_id", "layout").iter_rows():
            self.layouts[file_id][layout] += 1
        self.rejects.update(batch.rejects["file_id"])


def groups(files: Iterable[PoolFile]) -> Iterator[list[PoolFile]]:
    """Small files, as many together as are read at a time."""
    group: list[PoolFile] = []
    for file in files:
        group.append(file)
        if len(group) == TOGETHER or sum(each.size or 0 for each in group) > BATCH_CHARS:
            yield group
            group = []
    if group:
        yield group


def is_small(file: PoolFile) -> bool:
    """Whether a file is read together with others."""
    return file.size is not None and file.size <= SMALL


# Small files have no cached task results, but a record for all that were read together.
RECORDS = "results"
_RECORD: TypeAdapter[list[Ingested]] = TypeAdapter(list[Ingested])


def record(store: Store, files: Sequence[Ingested]) -> None:
    """Note that files are in the store, all of them or none."""
    folder = store.side / RECORDS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"read-{content_id(repr([file.file_id for file in files]).encode())}.json"
    new = path.with_suffix(".new")
    new.write_bytes(_RECORD.dump_json(list(files)))
    new.replace(path)


def recorded(store: Store, files: Sequence[PoolFile]) -> dict[str, Ingested]:
    """Current counts of those files that were noted and whose rows are all in the store, by id."""
    asked, noted = {file.id for file in files}, dict[str, Ingested]()
    for path in sorted((store.side / RECORDS).glob("read-*.json")):
        try:
            found = _RECORD.validate_json(path.read_bytes())
        except ValidationError:
            # Of another version of the program: the files are read again.
            continue
        noted |= {file.file_id: file for file in found if file.file_id in asked}
    return {file.file_id: file for file in recounted(store, list(noted.values())) if file}


def removals(store: Store) -> pl.DataFrame:
    """All removed conversations, also those whose removal is under way: id, removed (the date), reason."""
    return store.read(REMOVALS, ["id", "removed", "reason"], "status = 'started'")


def without_removed(batch: Batch, removed: pl.DataFrame) -> Batch:
    """The batch, with rows of removed conversations (id, removed) moved to the rejects, which hold no text."""
    gone = batch.sources.join(removed, left_on="sample_id", right_on="id", how="inner")
    if gone.is_empty():
        return batch
    return Batch(
        batch.samples.join(removed, on="id", how="anti", maintain_order="left"),
        batch.sources.join(removed, left_on="sample_id", right_on="id", how="anti", maintain_order="left"),
        pl.concat([batch.rejects, removed_rows(gone)]),
    )


def removed_rows(sources: pl.DataFrame) -> pl.DataFrame:
    """Source rows of removed conversations (with `removed`, the date) as rows of the rejects table."""
    outcome = {"reason": pl.lit("removed"), "detail": pl.format("taken down on {}", "removed")}
    return sources.with_columns(**outcome).select(REJECTS.empty().columns)


def recounted(store: Store, files: Sequence[Ingested]) -> list[Ingested | None]:
    """Current counts of files, as rows may have been removed since; None for each that the store lacks rows of."""
    ids = [file.file_id for file in files]
    sources = placed(store, ids)
    lost = sources.join(store.row_ids(SAMPLES, "id"), left_on="sample_id", right_on="id", how="anti")
    incomplete, samples = set(lost["file_id"]), Counter[str](sources["file_id"])
    rejects = Counter[str](store.fetch(REJECTS, "file_id", ids, ["file_id"])["file_id"])

    def counted(file: Ingested) -> Ingested | None:
        counts: dict[str, Any] = {"samples": samples[file.file_id], "rejects": rejects[file.file_id]}
        if sum(counts.values()) != file.rows or file.file_id in incomplete:
            return None
        return file.model_copy(update=counts)

    return [counted(file) for file in files]


def surviving(pool: Sequence[str]) -> list[str]:
    """The names of a pool that still name a file."""
    return [name for name in pool if _names_a_file(name)]


def _names_a_file(name: str) -> bool:
    try:
        return bool(expand(name))
    except InputError:
        return False


def as_before(files: Sequence[Ingested], found: Sequence[PoolFile]) -> list[PoolFile]:
    """The files found, with the options of the earlier snapshot for those it has."""
    options = {_place(file.file): file.options for file in files}
    return [file.model_copy(update={"options": options.get(_place(file.file), file.options)}) for file in found]


def only_stored(files: Sequence[Ingested], found: Sequence[PoolFile], left_out: Sequence[str] = ()) -> list[Ingested]:
    """Files of an earlier snapshot that are no longer found, by path or by content, and are not left out."""
    here = {_place(file) for file in [*(file.file for file in found), *left_out]}
    gone = [file for file in files if _place(file.file) not in here]
    # A file that was only moved has the earlier id at its earlier path.
    return [file for file in gone if not any(other.at(file.file).id == file.file_id for other in found)]


def still_stored(store: Store, files: Sequence[Ingested]) -> list[Ingested]:
    """Current counts of missing files, from the store. Raises StoreError if the store lacks any of their rows."""
    counted = recounted(store, files)
    if lost := [file.file for file, now in zip(files, counted, strict=True) if now is None]:
        raise StoreError(f"{lost[0]} is gone, and so are rows of it in {store.uri}; put the file back and run again.")
    return [now for now in counted if now is not None]


def _place(file: str) -> str:
    return file if "://" in file else str(Path(file).resolve())


def pool_ids(store: Store, file_ids: Sequence[str]) -> pl.Series:
    """Ids of the distinct samples of some files, sorted."""

    return store.once(SOURCES, tuple(file_ids), lambda: placed(store, file_ids)["sample_id"].unique().sort())


def placed(store: Store, file_ids: Sequence[str] | None = None) -> pl.DataFrame:
    """The rows of some files that are samples, or of all: file_id, sample_id. The table is read once."""
    rows = store.once(SOURCES, "placed", lambda: store.read(SOURCES, ["file_id", "sample_id"]))
    return rows if file_ids is None else rows.filter(rows["file_id"].is_in(list(file_ids)))
