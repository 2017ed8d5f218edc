"""Read the pool: the files named, or those of a snapshot as well."""

from collections.abc import Sequence

from deita_core.config.settings import SelectionSettings
from deita_core.errors import UnreadableFileError
from deita_core.reading.finding import aside_line
from deita_core.stages.ingest import Ingested, PoolFiles, as_before, only_stored, still_stored, surviving
from deita_core.stages.snapshots import Snapshot, snapshots
from deita_core.store import Store
from tasks.ingest import as_stored, find_files, read_files
from tasks.runtime.progress import Progress


def read_pool(
    progress: Progress, pool: Sequence[str], settings: SelectionSettings, own: Sequence[str]
) -> list[Ingested]:
    """Read the pool's files, except those in the folders `own`; warn of those that are set aside."""
    return read_found(progress, settings.store, _found(pool, settings, own), settings.limit)


def _found(pool: Sequence[str], settings: SelectionSettings, own: Sequence[str]) -> PoolFiles:
    """Find the pool's files, without the output folders of the store's snapshots."""
    written = snapshots(Store(settings.store))["folder"].unique().to_list()
    return find_files(pool, settings.reading, [settings.store, *own, *written], settings.leave_out)


def read_found(progress: Progress, store: str, found: PoolFiles, limit: int | None) -> list[Ingested]:
    """Read the files found; returns those with rows.

    Raises UnreadableFileError if no row of any file could be read.
    """
    for line in found.warnings:
        progress.warn(line)
    read = []
    with progress.step("reading", total=len(found.files)) as advance:
        for file in read_files(store, found.files, limit):
            read.append(file)
            advance(1)
        files = as_stored(store, read)
    aside = [file.set_aside for file in files if file.set_aside]
    for sentence in aside:
        progress.warn(aside_line(sentence))
    if aside and len(aside) == len(files):
        raise UnreadableFileError(aside[0])
    return [file for file in files if file.rows]


def read_grown_pool(
    progress: Progress,
    named: Sequence[str],
    previous: Snapshot | None,
    settings: SelectionSettings,
    own: Sequence[str],
) -> list[Ingested]:
    """Read the named files and the previous snapshot's pool; for files that no longer exist, use the stored rows."""
    if previous is None:
        return read_pool(progress, named, settings, own)
    there, before = surviving(previous.report.pool), previous.report.files
    for name in previous.report.pool:
        if name not in there:
            progress.warn(f"{name} of the pool is not there; its rows stay as they are.")
    pool = [*there, *named]
    found = _found(pool, settings, own) if pool else PoolFiles(files=[], warnings=[], left_out=[])
    found = found.model_copy(update={"files": as_before(before, found.files)})
    gone = only_stored(before, found.files, found.left_out)
    stored = still_stored(Store(settings.store), gone)
    return [*stored, *read_found(progress, settings.store, found, settings.limit)]
