"""Tasks that select from the pool and remove from it."""

from collections.abc import Sequence

from prefect import task

from deita_core.stages.job import Job
from deita_core.stages.removal import remove
from deita_core.stages.selecting import Chosen, select
from deita_core.store import Store
from tasks.runtime.policy import RETRIES
from tasks.runtime.stores import store_of_run


@task(task_run_name="select", **RETRIES)
def select_samples(store: str, job: Job) -> Chosen:
    """Scan the pool and write the fate of every sample."""
    return select(store_of_run(store), job)


@task(task_run_name="remove conversations", **RETRIES)
def remove_samples(store: str, ids: Sequence[str], reason: str) -> None:
    """Remove samples from the pool, the vectors and the scores; the next run finishes an interrupted removal."""
    remove(Store(store), ids, reason)
