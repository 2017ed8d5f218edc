"""Tasks that encode the pool's texts or conversations, one per shard."""

from collections.abc import Sequence
from functools import lru_cache
from threading import Lock

from prefect import task

from deita_core.errors import InputError, ModelError
from deita_core.models.cancellation import check_cancelled
from deita_core.models.encoder_spec import EncoderFiles, find_encoder
from deita_core.models.lm_encoder import LanguageModelEncoder
from deita_core.models.static_encoder import TextEncoder
from deita_core.stages.encoding import Encoder, encode_shard, load_encoder, plan_encoding
from deita_core.stages.shards import Shard
from tasks.artifacts import naming_rows
from tasks.runtime.policy import RETRIES
from tasks.runtime.stores import store_of_run

_loading = Lock()


@lru_cache(maxsize=1)
def _encoder(files: EncoderFiles) -> Encoder:
    return load_encoder(found_here(files))


def found_here(files: EncoderFiles) -> EncoderFiles:
    """Return an encoder's files on this worker's machine, where the folder may differ from the run's.

    Raises ModelError if the encoder of that name is a different one here.
    """
    if files.path.is_dir():
        return files
    found = find_encoder(files.name, files.precision, files.pooling, files.storage)
    if found.fingerprint != files.fingerprint:
        raise ModelError(f"The encoder {files.name} on a worker's machine is not the run's; install the same there.")
    return found.model_copy(update={"reasoning": files.reasoning})


def loaded_any(files: EncoderFiles) -> Encoder:
    """Return an encoder, loaded once per process."""
    with _loading:
        return _encoder(files)


def loaded_encoder(files: EncoderFiles) -> TextEncoder:
    """Return a sentence encoder for single texts, loaded once per process. Raises InputError for a language model."""
    encoder = None if files.kind == "causal" else loaded_any(files)
    if encoder is None or isinstance(encoder, LanguageModelEncoder):
        raise InputError(
            f"The encoder {files.name} is a language model, which reads whole conversations and no single texts; give "
            f"a sentence-transformers model."
        )
    return encoder


@task(task_run_name="plan encoding", **RETRIES)
def plan_texts(store: str, encoder: EncoderFiles, file_ids: Sequence[str]) -> list[Shard]:
    """Return shards of the texts or conversations without a vector."""
    return plan_encoding(store_of_run(store), encoder, file_ids)


@task(task_run_name="encode {shard.rows} texts ({shard.key})", **RETRIES)
def encode_texts(store: str, encoder: EncoderFiles, shard: Shard) -> int:
    """Encode a shard; loads the model once per process."""
    check_cancelled()
    with naming_rows(store, shard):
        return encode_shard(store_of_run(store), loaded_any(encoder), shard)
