"""Encoding the pool's texts, a shard a task."""

from collections.abc import Sequence
from functools import lru_cache
from threading import Lock

from prefect import task

from deita_core.encoders import EncoderFiles, SentenceEncoder
from deita_core.stages.encoding import encode_shard, plan_encoding
from deita_core.stages.plans import Shard
from deita_core.store import Store
from tasks.policy import RETRIES, worth_retrying

_loading = Lock()


@lru_cache(maxsize=1)
def _encoder(files: EncoderFiles) -> SentenceEncoder:
    return SentenceEncoder(files)


def loaded_encoder(files: EncoderFiles) -> SentenceEncoder:
    """The encoder, loaded once per process, whichever task asks first."""
    with _loading:
        return _encoder(files)


@task(task_run_name="plan encoding")
def plan_texts(store: str, encoder: EncoderFiles, file_ids: Sequence[str]) -> list[Shard]:
    """Shards of the texts without a vector."""
    return plan_encoding(Store(store), encoder, file_ids)


@task(task_run_name="encode {shard.rows} texts ({shard.key})", retry_condition_fn=worth_retrying, **RETRIES)
def encode_texts(store: str, encoder: EncoderFiles, shard: Shard) -> int:
    """Encode a shard; the model is loaded once per process."""
    return encode_shard(Store(store), loaded_encoder(encoder), shard)
