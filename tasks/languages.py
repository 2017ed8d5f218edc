"""Tasks that find the language of conversations, one per shard."""

from collections.abc import Sequence

from prefect import task

from deita_core.models.cancellation import check_cancelled
from deita_core.stages.languages import find_languages, plan_languages
from deita_core.stages.shards import Shard
from deita_core.store import Store
from tasks.artifacts import naming_rows
from tasks.runtime.policy import RETRIES


@task(task_run_name="plan languages", **RETRIES)
def plan_detection(store: str, file_ids: Sequence[str]) -> list[Shard]:
    """Return shards of the samples whose language has not been looked for."""
    return plan_languages(Store(store), file_ids)


@task(task_run_name="find the language of {shard.rows} samples", **RETRIES)
def detect_languages(store: str, shard: Shard) -> int:
    """Find the languages of a shard; returns the number of samples."""
    check_cancelled()
    with naming_rows(store, shard):
        return find_languages(Store(store), shard)
