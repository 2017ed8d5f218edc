"""Walking the pool."""

from prefect import task

from deita_core.stages.selecting import Chosen, Job, choose
from deita_core.store import Store
from tasks.runtime.policy import RETRIES


@task(task_run_name="select", **RETRIES)
def select_samples(store: str, job: Job) -> Chosen:
    """Decide every candidate and write the decisions."""
    return choose(Store(store), job)
