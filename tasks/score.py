"""Tasks that score the pool's turns, one per shard."""

from collections.abc import Sequence
from functools import lru_cache
from threading import Lock

from prefect import task
from prefect.runtime import task_run

from deita_core.models.cancellation import check_cancelled
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.scorers import Scorer, ScorerFiles, load_found
from deita_core.stages.job import Job
from deita_core.stages.ranking import best_to_refine
from deita_core.stages.scoring import plan_samples, plan_scoring, score_shard
from deita_core.stages.shards import Shard
from deita_core.store import Store
from tasks.artifacts import naming_rows
from tasks.embed import found_here
from tasks.runtime.policy import RETRIES
from tasks.runtime.stores import store_of_run

_loading = Lock()


# One per axis: a 7B language model is loaded once per process, not once per shard.
@lru_cache(maxsize=2)
def _scorer(scorer: ScorerFiles, encoder: EncoderFiles, store: str) -> Scorer:
    return load_found(scorer, found_here(encoder), Store(store).side)


def _loaded(scorer: ScorerFiles, encoder: EncoderFiles, store: str) -> Scorer:
    """Return the scorer, loaded once per process."""
    with _loading:
        return _scorer(scorer, encoder, store)


@task(task_run_name="plan scoring", **RETRIES)
def plan_turns(store: str, scorers: Sequence[ScorerFiles], file_ids: Sequence[str]) -> list[Shard]:
    """Return shards of the samples that these scorers, which score them together, have not scored."""
    return plan_scoring(store_of_run(store), scorers, file_ids)


@task(task_run_name="plan refining", **RETRIES)
def plan_refining(store: str, job: Job) -> list[Shard]:
    """Return shards of the job's best samples that its scorer `refine` has not scored; none without such a scorer."""
    opened = Store(store)
    return plan_samples(opened, [job.refine], best_to_refine(opened, job)) if job.refine else []


def _shard_name() -> str:
    scorers, shard = task_run.parameters["scorers"], task_run.parameters["shard"]
    return f"score {' and '.join(scorer.axis for scorer in scorers)} of {shard.rows} samples"


@task(task_run_name=_shard_name, **RETRIES)
def score_turns(store: str, scorers: Sequence[ScorerFiles], encoder: EncoderFiles, shard: Shard) -> int:
    """Score a shard; returns the number of scores."""
    check_cancelled()
    with naming_rows(store, shard):
        loaded = [(_loaded(scorer, encoder, store), scorer) for scorer in scorers]
        return score_shard(store_of_run(store), loaded, encoder, shard)
