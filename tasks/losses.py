"""Tasks for orders by a language model, one per shard, and for examples of tasks."""

from functools import lru_cache
from threading import Lock

from prefect import task

from deita_core.alignment.rank_model import RankModel, RankModelFiles, find_rank_model
from deita_core.errors import InputError, ModelError
from deita_core.models.cancellation import check_cancelled
from deita_core.reading.examples import read_examples
from deita_core.stages.influence import compute_shown, find_probes, plan_shown
from deita_core.stages.job import Job
from deita_core.stages.losses import Given, compute_losses, mean_losses, plan_losses
from deita_core.stages.ranking import ordered_ids
from deita_core.stages.shards import Shard
from deita_core.stages.targets import encode_examples
from deita_core.store import Store
from tasks.artifacts import naming_rows
from tasks.embed import loaded_any
from tasks.runtime.policy import RETRIES

_loading = Lock()


@lru_cache(maxsize=1)
def _model(files: RankModelFiles) -> RankModel:
    if files.path.is_dir():
        return RankModel(files)
    # A worker's machine may have the model in another folder.
    found = find_rank_model(files.name, files.max_tokens, files.precision)
    if found.fingerprint != files.fingerprint:
        raise ModelError(f"The model {files.name} on a worker's machine is not the run's; install the same there.")
    return RankModel(found)


def _loaded(files: RankModelFiles) -> RankModel:
    """Return the model, loaded once per process."""
    with _loading:
        return _model(files)


@task(task_run_name="plan losses of answers {given}", **RETRIES)
def plan_answers(store: str, job: Job, given: Given) -> list[Shard]:
    """Return shards of the samples to rank whose answers have no loss, given their instructions or alone."""
    opened = Store(store)
    return plan_losses(opened, job.rank_model, given, ordered_ids(opened, job)) if job.rank_model else []


@task(task_run_name="losses of {shard.rows} answers", **RETRIES)
def losses_asked(store: str, model: RankModelFiles, shard: Shard) -> int:
    """Compute the losses of a shard's answers given their instructions; returns the number of samples."""
    check_cancelled()
    with naming_rows(store, shard):
        return compute_losses(Store(store), _loaded(model), "asked", shard)


@task(task_run_name="losses of {shard.rows} answers alone", **RETRIES)
def losses_alone(store: str, model: RankModelFiles, shard: Shard) -> int:
    """Compute the losses of a shard's answers alone; returns the number of samples."""
    check_cancelled()
    with naming_rows(store, shard):
        return compute_losses(Store(store), _loaded(model), "alone", shard)


@task(task_run_name="plan losses after demonstrations", **RETRIES)
def plan_demonstrations(store: str, job: Job) -> list[Shard]:
    """Return shards of the pairs of a sample and a hard neighbour that have no loss."""
    opened = Store(store)
    if job.rank_model is None:
        return []
    losses = mean_losses(opened, job.rank_model, ordered_ids(opened, job))
    return plan_shown(opened, job.rank_model, find_probes(opened, job.encoder, losses))


@task(task_run_name="losses of {shard.rows} pairs", **RETRIES)
def losses_shown(store: str, model: RankModelFiles, shard: Shard) -> int:
    """Compute the losses of a shard of pairs; returns their number."""
    check_cancelled()
    with naming_rows(store, shard):
        return compute_shown(Store(store), _loaded(model), shard)


@task(task_run_name="encode examples of tasks", **RETRIES)
def encode_tasks(store: str, job: Job) -> None:
    """Encode the examples of the tasks that the job's order compares with, if they are not encoded yet."""
    file = job.settings.examples_file
    if file is None:
        return
    examples = read_examples(file, job.settings.like_task)
    if encode_examples(Store(store), job.encoder, lambda: loaded_any(job.encoder), examples) != job.examples:
        raise InputError(f"{file} has changed since the run began; run it again.")
