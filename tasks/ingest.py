"""Tasks that read the pool's files into the store."""

from collections.abc import Iterator, Sequence

from prefect import Task, task

from deita_core.reading.options import ReadOptions
from deita_core.stages.ingest import (
    Ingested,
    PoolFile,
    PoolFiles,
    check_readable,
    describe_pool,
    groups,
    ingest_files,
    is_small,
    pool_files,
    record,
    recorded,
    recounted,
)
from deita_core.store import Store
from tasks.runtime.policy import RETRIES, file_key, results_folder
from tasks.runtime.stores import store_of_run


@task(task_run_name="find files", **RETRIES)
def find_files(
    pool: Sequence[str], options: ReadOptions, own: Sequence[str], leave_out: Sequence[str] = ()
) -> PoolFiles:
    """Return the pool's files with their content ids, except those in the folders `own` and those left out."""
    return describe_pool(pool_files(pool, own, leave_out), options)


@task(
    task_run_name="read {file.file}",
    cache_key_fn=file_key,
    persist_result=True,
    result_serializer="json",
    **RETRIES,
)
def read_file(store: str, file: PoolFile) -> Ingested:
    """Read one file into the store; cached by its content."""
    [ingested] = ingest_files(Store(store), [file])
    return ingested


@task(**RETRIES)
def read_together(store: str, files: Sequence[PoolFile]) -> list[Ingested]:
    """Read small files into the store, and note all of them at the end."""
    ingested = ingest_files(Store(store), files)
    record(Store(store), ingested)
    return ingested


def read_files(store: str, files: Sequence[PoolFile], limit: int | None) -> Iterator[tuple[PoolFile, Ingested]]:
    """Read files in order until `limit` rows are read in total; yields each file as it was read, and its counts.

    The counts of a file that an earlier run has read are those of that run: see `as_stored`. Raises UnreadableFileError
    if no row could be read of a file that was named by itself.
    """
    # With a limit, what is read of a file depends on those before it.
    small = {} if limit is not None else _read_small(store, [file for file in files if is_small(file)])
    left, read = limit, _cached(store)
    for file in files:
        if left == 0:
            return
        asked = file.model_copy(update={"limit": left})
        ingested = small.get(file.id) or read(store, asked)
        check_readable(file, ingested)
        left = None if left is None else left - ingested.lines
        yield asked, ingested


def as_stored(store: str, read: Sequence[tuple[PoolFile, Ingested]]) -> list[Ingested]:
    """Current counts of files that were read, as rows may have been removed since.

    A file is read again if the store lacks rows of it that the cache says it has.
    """
    counted = recounted(store_of_run(store), [ingested for _, ingested in read])
    again = _cached(store).with_options(refresh_cache=True)
    return [
        (now or again(store, file)).model_copy(update={"options": file.options})
        for (file, _), now in zip(read, counted, strict=True)
    ]


def _cached(store: str) -> Task[[str, PoolFile], Ingested]:
    return read_file.with_options(result_storage=results_folder(store))


def _read_small(store: str, files: Sequence[PoolFile]) -> dict[str, Ingested]:
    """Read the small files that the store lacks, many in one task; returns all, by id."""
    there = recorded(Store(store), files)
    for group in groups(file for file in files if file.id not in there):
        name = f"read {group[0].file}" if len(group) == 1 else f"read {len(group)} small files"
        there |= {file.file_id: file for file in read_together.with_options(task_run_name=name)(store, group)}
    return there
