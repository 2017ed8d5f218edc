"""Files into the store: samples, where each came from, and what could not be read."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl
from pydantic import BaseModel

from deita_core.conversation import content_id
from deita_core.errors import InputError
from deita_core.readers import batches, content_hash, expand, samples_frames, stream_file
from deita_core.settings import LayoutName
from deita_core.store import Store
from deita_core.tables import REJECTS, SAMPLES, SOURCES

# Raised whenever the same file would give other rows: part of every file id.
READING_VERSION = 1


class PoolFile(BaseModel):
    """A file of the pool as it is now; its id names its content and how it is to be read."""

    file: str
    content: str
    layout: LayoutName | None = None
    limit: int | None = None

    @property
    def id(self) -> str:
        """Key of the file's rows in the store."""
        parts = (self.file, self.content, self.layout, self.limit, READING_VERSION)
        return content_id(repr(parts).encode())


class Ingested(BaseModel):
    """What reading a file gave."""

    file_id: str
    file: str
    rows: int
    samples: int
    rejects: int


def pool_files(pool: Sequence[str], leave_out: Iterable[str] = ()) -> list[str]:
    """The files of a pool, except those in folders to leave out, such as the store and the results of a run.

    A folder that is named in the pool itself is never left out. Raises InputError if nothing is left.
    """
    outside = [Path(folder).expanduser().resolve() for folder in leave_out]
    named = {str(path) for path in pool}
    files = [
        file
        for file in expand(pool)
        if file in named or "://" in file or not any(folder in Path(file).resolve().parents for folder in outside)
    ]
    if not files:
        raise InputError(f"{', '.join(sorted(named))} holds nothing but this program's own files; name your data.")
    return files


def describe_file(file: str, layout: LayoutName | None = None, limit: int | None = None) -> PoolFile:
    """Look at a file's content, without reading its rows."""
    return PoolFile(file=file, content=content_hash(file), layout=layout, limit=limit)


def ingest_file(store: Store, file: PoolFile) -> Ingested:
    """Read a file into the store, a batch at a time; what is there already is not written again."""
    samples = rejects = 0
    for rows in batches(stream_file(file.file, file.layout, file.limit)):
        batch = samples_frames(file.id, file.file, rows)
        # Sources last: a source row is only ever visible with its sample.
        store.write(SAMPLES, batch.samples)
        store.write(REJECTS, batch.rejects)
        store.write(SOURCES, batch.sources)
        samples += len(batch.sources)
        rejects += len(batch.rejects)
    if content_hash(file.file) != file.content:
        for table in (SOURCES, REJECTS):
            store.delete(table, f"file_id = '{file.id}'")
        raise InputError(f"{file.file} has changed while it was read; run again once nothing writes to it.")
    return Ingested(file_id=file.id, file=file.file, rows=samples + rejects, samples=samples, rejects=rejects)


def is_whole(store: Store, ingested: Ingested) -> bool:
    """True if the store still holds every row of the file."""
    where = f"file_id = '{ingested.file_id}'"
    if store.count(SOURCES, where) != ingested.samples or store.count(REJECTS, where) != ingested.rejects:
        return False
    return store.missing(SAMPLES, pool_ids(store, [ingested.file_id])).is_empty()


def pool_ids(store: Store, file_ids: Sequence[str]) -> pl.Series:
    """Ids of the distinct samples of some files, sorted."""
    return store.fetch(SOURCES, "file_id", file_ids, ["sample_id"])["sample_id"].unique().sort()
