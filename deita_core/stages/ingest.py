"""Reads files into the store: samples, their sources, and rejects."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl
from pydantic import BaseModel

from deita_core.conversation import content_id
from deita_core.errors import InputError, StoreError
from deita_core.reading.options import ReadOptions
from deita_core.reading.pool import Batch, batches, content_hash, expand, samples_frames, stream_file
from deita_core.store import Store
from deita_core.tables import REJECTS, REMOVALS, SAMPLES, SOURCES

# Increased whenever the same file would give different rows. Part of every file id.
READING_VERSION = 2


class PoolFile(BaseModel):
    """A file of the pool; its id depends on path, content, options and limit."""

    file: str
    content: str
    options: ReadOptions = ReadOptions()
    limit: int | None = None

    def at(self, file: str) -> "PoolFile":
        """The same content at another path."""
        return self.model_copy(update={"file": file})

    @property
    def id(self) -> str:
        """Key of the file's rows in the store."""
        parts = (self.file, self.content, self.options.model_dump_json(), self.limit, READING_VERSION)
        return content_id(repr(parts).encode())


class Ingested(BaseModel):
    """Counts of one file's rows."""

    file_id: str
    file: str
    rows: int
    samples: int
    rejects: int
    options: ReadOptions = ReadOptions()


def pool_files(pool: Sequence[str], leave_out: Iterable[str] = ()) -> list[str]:
    """The files of a pool, except those in folders to leave out, such as the store and the output folder.

    Files named in the pool itself are always included. Raises InputError if no file remains.
    """
    asked = [Path(name).resolve() for name in map(str, pool) if "://" not in name]
    outside = [Path(folder).expanduser().resolve() for folder in leave_out if "://" not in folder]
    outside = [folder for folder in outside if not any(folder in (path, *path.parents) for path in asked)]
    named = {str(path) for path in pool}
    files = [
        file
        for file in expand(pool)
        if file in named or "://" in file or not any(folder in Path(file).resolve().parents for folder in outside)
    ]
    if not files:
        raise InputError(f"{', '.join(sorted(named))} holds nothing but this program's own files; name your data.")
    return files


def describe_file(file: str, options: ReadOptions = ReadOptions(), limit: int | None = None) -> PoolFile:  # noqa: B008
    """Hash a file's content, without parsing its rows."""
    return PoolFile(file=file, content=content_hash(file), options=options, limit=limit)


def ingest_file(store: Store, file: PoolFile) -> Ingested:
    """Read a file into the store in batches; existing rows are not written again."""
    samples = rejects = 0
    removed = store.read(REMOVALS)
    for rows in batches(stream_file(file.file, file.options, file.limit)):
        batch = without_removed(samples_frames(file.id, file.file, rows), removed)
        # Sources last, so that a source row is visible only with its sample.
        store.write(SAMPLES, batch.samples)
        store.write(REJECTS, batch.rejects)
        store.write(SOURCES, batch.sources)
        samples += len(batch.sources)
        rejects += len(batch.rejects)
    if content_hash(file.file) != file.content:
        for table in (SOURCES, REJECTS):
            store.delete(table, f"file_id = '{file.id}'")
        raise InputError(f"{file.file} has changed while it was read; run again once nothing writes to it.")
    counts = {"rows": samples + rejects, "samples": samples, "rejects": rejects}
    return Ingested(file_id=file.id, file=file.file, options=file.options, **counts)


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
    told = {"reason": pl.lit("removed"), "detail": pl.format("taken down on {}", "removed")}
    return sources.with_columns(**told).select(REJECTS.empty().columns)


def recount(store: Store, ingested: Ingested) -> Ingested | None:
    """The file's current counts, as rows may have been removed since; None if the store lacks any row."""
    where = f"file_id = '{ingested.file_id}'"
    samples, rejects = store.count(SOURCES, where), store.count(REJECTS, where)
    if samples + rejects != ingested.rows or len(store.missing(SAMPLES, pool_ids(store, [ingested.file_id]))):
        return None
    return ingested.model_copy(update={"samples": samples, "rejects": rejects})


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


def only_stored(files: Sequence[Ingested], found: Sequence[PoolFile]) -> list[Ingested]:
    """Files of an earlier snapshot that are no longer found, by path or by content."""
    here = {_place(file.file) for file in found}
    gone = [file for file in files if _place(file.file) not in here]
    # A file that was only moved has the earlier id at its earlier path.
    return [file for file in gone if not any(other.at(file.file).id == file.file_id for other in found)]


def still_stored(store: Store, files: Sequence[Ingested]) -> list[Ingested]:
    """Current counts of missing files, from the store. Raises StoreError if the store lacks any of their rows."""
    counted = [(file, recount(store, file)) for file in files]
    if lost := [file.file for file, now in counted if now is None]:
        raise StoreError(f"{lost[0]} is gone, and so are rows of it in {store.uri}; put the file back and run again.")
    return [now for _, now in counted if now is not None]


def _place(file: str) -> str:
    return file if "://" in file else str(Path(file).resolve())


def pool_ids(store: Store, file_ids: Sequence[str]) -> pl.Series:
    """Ids of the distinct samples of some files, sorted."""
    return store.fetch(SOURCES, "file_id", file_ids, ["sample_id"])["sample_id"].unique().sort()
