"""Walking the pool."""

from prefect import task

from deita_core.stages.choosing import Chosen, Job, choose
from deita_core.store import Store
from tasks.policy import RETRIES, worth_retrying


@task(task_run_name="select", retry_condition_fn=worth_retrying, **RETRIES)
def select_samples(store: str, job: Job) -> Chosen:
    """Decide every candidate and write the decisions."""
    return choose(Store(store), job)
