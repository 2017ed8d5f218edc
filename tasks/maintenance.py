"""Taking conversations down."""

from collections.abc import Sequence

from prefect import task

from deita_core.stages.removal import Removed, remove
from deita_core.store import Store
from tasks.policy import RETRIES, worth_retrying


@task(task_run_name="remove conversations", retry_condition_fn=worth_retrying, **RETRIES)
def remove_samples(store: str, ids: Sequence[str], reason: str) -> Removed:
    """Remove samples from the pool, the vectors and the scores; what has begun is carried out by the next run."""
    return remove(Store(store), ids, reason)
