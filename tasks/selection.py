"""Walking the pool."""

from prefect import task
from prefect.transactions import Transaction, get_transaction

from deita_core.stages.choosing import Chosen, Job, choose, drop_decisions
from deita_core.stages.editions import is_finished
from deita_core.store import Store
from tasks.policy import RETRIES, worth_retrying


@task(task_run_name="select", retry_condition_fn=worth_retrying, **RETRIES)
def select_samples(store: str, job: Job) -> Chosen:
    """Decide every candidate and write the decisions."""
    if whole := get_transaction():
        whole.set("decisions", (store, job.run_id))
    return choose(Store(store), job)


@select_samples.on_rollback
def take_back(whole: Transaction) -> None:
    """Drop the decisions of a selection that came to nothing afterwards."""
    store, run_id = whole.get("decisions")
    if not is_finished(Store(store), run_id):
        drop_decisions(Store(store), run_id)
