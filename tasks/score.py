"""Scoring the pool's turns, a shard a task."""

from collections.abc import Sequence
from functools import lru_cache
from threading import Lock

from prefect import task

from deita_core.encoders import EncoderFiles
from deita_core.scorers import Scorer, ScorerFiles, load_found
from deita_core.stages.plans import Shard
from deita_core.stages.scoring import plan_scoring, score_shard
from deita_core.store import Store
from tasks.policy import RETRIES, worth_retrying

_loading = Lock()


# One of each axis: a language model of 7B is loaded once a process, not once a shard.
@lru_cache(maxsize=2)
def _scorer(scorer: ScorerFiles, encoder: EncoderFiles, store: str) -> Scorer:
    return load_found(scorer, encoder, Store(store).path)


@task(task_run_name="plan {scorer.axis} scoring")
def plan_turns(store: str, scorer: ScorerFiles, file_ids: Sequence[str]) -> list[Shard]:
    """Shards of the samples this scorer has not scored."""
    return plan_scoring(Store(store), scorer, file_ids)


@task(task_run_name="score {scorer.axis} of {shard.rows} samples", retry_condition_fn=worth_retrying, **RETRIES)
def score_turns(store: str, scorer: ScorerFiles, encoder: EncoderFiles, shard: Shard) -> int:
    """Score a shard; returns the number of turns scored."""
    with _loading:
        loaded = _scorer(scorer, encoder, store)
    return score_shard(Store(store), loaded, scorer, encoder, shard)
