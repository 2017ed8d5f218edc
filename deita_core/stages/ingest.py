"""Files into the store: samples, where each came from, and what could not be read."""

from collections.abc import Sequence

import polars as pl
from pydantic import BaseModel

from deita_core.conversation import content_id
from deita_core.readers import batches, content_hash, samples_frames, stream_file
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
    return Ingested(file_id=file.id, file=file.file, rows=samples + rejects, samples=samples, rejects=rejects)


def is_whole(store: Store, ingested: Ingested) -> bool:
    """True if the store still holds every row of the file."""
    where = f"file_id = '{ingested.file_id}'"
    return store.count(SOURCES, where) == ingested.samples and store.count(REJECTS, where) == ingested.rejects


def pool_ids(store: Store, file_ids: Sequence[str]) -> pl.Series:
    """Ids of the distinct samples of some files, sorted."""
    return store.fetch(SOURCES, "file_id", file_ids, ["sample_id"])["sample_id"].unique().sort()
