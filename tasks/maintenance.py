"""Taking conversations down."""

from collections.abc import Sequence

from prefect import task

from deita_core.stages.removal import remove
from deita_core.store import Store
from tasks.runtime.policy import RETRIES


@task(task_run_name="remove conversations", **RETRIES)
def remove_samples(store: str, ids: Sequence[str], reason: str) -> None:
    """Remove samples from the pool, the vectors and the scores; what has begun is carried out by the next run."""
    remove(Store(store), ids, reason)
