"""Tasks that count the tokens of conversations, one per shard."""

from collections.abc import Sequence

from prefect import task

from deita_core.models.cancellation import check_cancelled
from deita_core.stages.shards import Shard
from deita_core.stages.token_counts import TokenizerFiles, count_shard, plan_counting
from deita_core.store import Store
from tasks.artifacts import naming_rows
from tasks.embed import found_here
from tasks.runtime.policy import RETRIES


@task(task_run_name="plan counting tokens", **RETRIES)
def plan_token_counts(store: str, tokenizer: TokenizerFiles, file_ids: Sequence[str]) -> list[Shard]:
    """Return shards of the samples whose tokens are not counted."""
    return plan_counting(Store(store), tokenizer, file_ids)


@task(task_run_name="count tokens of {shard.rows} samples", **RETRIES)
def count_tokens_of(store: str, tokenizer: TokenizerFiles, shard: Shard) -> int:
    """Count the tokens of a shard's samples; returns their number."""
    check_cancelled()
    if tokenizer.encoder is not None:
        tokenizer = tokenizer.model_copy(update={"encoder": found_here(tokenizer.encoder)})
    with naming_rows(store, shard):
        return count_shard(Store(store), tokenizer, shard)
