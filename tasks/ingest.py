"""Tasks that read the pool's files into the store."""

from collections.abc import Iterator, Sequence

from prefect import task

from deita_core.reading.options import ReadOptions
from deita_core.stages.ingest import Ingested, PoolFile, describe_file, ingest_file, pool_files, recount
from deita_core.store import Store
from tasks.runtime.policy import RETRIES, file_key, results_folder


@task(task_run_name="find files", **RETRIES)
def find_files(pool: Sequence[str], options: ReadOptions, leave_out: Sequence[str]) -> list[PoolFile]:
    """Return the pool's files with their content ids, except those in the folders `leave_out`."""
    return [describe_file(file, options) for file in pool_files(pool, leave_out)]


@task(
    task_run_name="read {file.file}",
    cache_key_fn=file_key,
    persist_result=True,
    result_serializer="json",
    **RETRIES,
)
def read_file(store: str, file: PoolFile) -> Ingested:
    """Read one file into the store; cached by its content."""
    return ingest_file(Store(store), file)


def read_files(store: str, files: Sequence[PoolFile], limit: int | None) -> Iterator[Ingested]:
    """Read files in order until `limit` rows are read in total."""
    left = limit
    for file in files:
        if left == 0:
            return
        asked = file.model_copy(update={"limit": left})
        kept = read_file.with_options(result_storage=results_folder(store))
        remembered = kept(store, asked)
        # The cache may contain a file whose rows are no longer in the store.
        ingested = recount(Store(store), remembered) or kept.with_options(refresh_cache=True)(store, asked)
        left = None if left is None else left - ingested.rows
        yield ingested.model_copy(update={"options": file.options})
