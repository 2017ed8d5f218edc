"""Tasks that score the pool's turns, one per shard."""

from collections.abc import Sequence
from functools import lru_cache
from threading import Lock

from prefect import task

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


@task(task_run_name="plan {scorer.axis} scoring", **RETRIES)
def plan_turns(store: str, scorer: ScorerFiles, file_ids: Sequence[str]) -> list[Shard]:
    """Return shards of the samples that this scorer has not scored."""
    return plan_scoring(Store(store), scorer, file_ids)


@task(task_run_name="plan refining", **RETRIES)
def plan_refining(store: str, job: Job) -> list[Shard]:
    """Return shards of the job's best samples that its scorer `refine` has not scored; none without such a scorer."""
    opened = Store(store)
    return plan_samples(opened, job.refine, best_to_refine(opened, job)) if job.refine else []


@task(task_run_name="score {scorer.axis} of {shard.rows} samples", **RETRIES)
def score_turns(store: str, scorer: ScorerFiles, encoder: EncoderFiles, shard: Shard) -> int:
    """Score a shard; returns the number of turns scored."""
    check_cancelled()
    with naming_rows(store, shard):
        return score_shard(store_of_run(store), _loaded(scorer, encoder, store), scorer, encoder, shard)
