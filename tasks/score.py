"""Scoring the pool's turns, a shard a task."""

from collections.abc import Sequence

from prefect import task

from deita_core.encoders import EncoderFiles
from deita_core.scorers import ScorerFiles, load_found
from deita_core.stages.plans import Shard
from deita_core.stages.scoring import plan_scoring, score_shard
from deita_core.store import Store
from tasks.policy import RETRIES, worth_retrying


@task(task_run_name="plan {scorer.axis} scoring")
def plan_turns(store: str, scorer: ScorerFiles, file_ids: Sequence[str]) -> list[Shard]:
    """Shards of the samples this scorer has not scored."""
    return plan_scoring(Store(store), scorer, file_ids)


@task(task_run_name="score {scorer.axis} of {shard.rows} samples", retry_condition_fn=worth_retrying, **RETRIES)
def score_turns(store: str, scorer: ScorerFiles, encoder: EncoderFiles, shard: Shard) -> int:
    """Score a shard; returns the number of turns scored."""
    return score_shard(Store(store), load_found(scorer, encoder), scorer, encoder, shard)
