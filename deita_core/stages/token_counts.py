"""Counts the training tokens of conversations: those of the encoder's tokenizer, or of the model to train."""

from collections.abc import Callable, Sequence

import polars as pl
from pydantic import BaseModel, ConfigDict

from deita_core.config.settings import SelectionSettings
from deita_core.conversation import stored_conversation
from deita_core.errors import StoreError
from deita_core.models.causal_lm import load_tokenizer, weights_id
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.models.lm_encoder import plain_text, render
from deita_core.models.static_encoder import count_tokens
from deita_core.stages.ingest import pool_ids
from deita_core.stages.shards import Shard, plan_shards, read_shard
from deita_core.store import Store
from deita_core.tables import SAMPLES, Table, token_counts_table

STAGE = "count"
# Several seconds of work.
CHARS_PER_SHARD = 8_000_000


class TokenizerFiles(BaseModel):
    """A tokenizer: its name and a hash of its files; `encoder`, if it is the encoder's."""

    model_config = ConfigDict(frozen=True)

    name: str
    fingerprint: str
    encoder: EncoderFiles | None = None

    @property
    def table(self) -> Table:
        """The table of its counts."""
        return token_counts_table(self.fingerprint[:16])


def find_tokenizer(settings: SelectionSettings, encoder: EncoderFiles) -> TokenizerFiles:
    """The tokenizer of the settings, or else the encoder's. Raises ModelError if it cannot be loaded."""
    if settings.tokenizer is None:
        return TokenizerFiles(name=encoder.name, fingerprint=encoder.fingerprint, encoder=encoder)
    load_tokenizer(settings.tokenizer)
    return TokenizerFiles(name=settings.tokenizer, fingerprint=weights_id(settings.tokenizer))


def plan_counting(store: Store, tokenizer: TokenizerFiles, file_ids: Sequence[str]) -> list[Shard]:
    """Shards of the samples whose tokens are not counted yet."""
    samples = store.fetch(SAMPLES, "id", pool_ids(store, file_ids), ["id", "n_chars"]).sort("id")
    work = samples.select("id", owner=pl.lit(""), size="n_chars")
    return plan_shards(store, STAGE, tokenizer.table, work, CHARS_PER_SHARD)


def count_shard(store: Store, tokenizer: TokenizerFiles, shard: Shard) -> int:
    """Count the tokens of a shard's samples and write them in one commit; returns the number of samples."""
    samples = store.fetch(SAMPLES, "id", read_shard(store, shard)["id"], ["id", "messages"]).sort("id")
    rendered, count = _counter(tokenizer)
    whole, answers = [], []
    for messages in samples["messages"]:
        sample = stored_conversation(messages)
        whole.append(rendered(sample))
        answers.append("\n".join(message.text for message in sample.messages if message.role == "assistant"))
    frame = pl.DataFrame(
        {"id": samples["id"], "tokens": count(whole), "answer_tokens": count(answers)},
        schema=tokenizer.table.empty().schema,
    )
    store.write(tokenizer.table, frame)
    return len(frame)


def _counter(tokenizer: TokenizerFiles) -> tuple[Callable[..., str], Callable[[list[str]], list[int]]]:
    """What renders a conversation, and what counts tokens of texts."""
    encoder = tokenizer.encoder
    if encoder is not None:
        return plain_text, lambda texts: count_tokens(encoder, texts)
    loaded = load_tokenizer(tokenizer.name)

    def count(texts: list[str]) -> list[int]:
        rows = loaded(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        return list(map(len, rows))

    return lambda sample: render(sample, loaded, "score"), count


def token_counts(store: Store, tokenizer: TokenizerFiles, ids: pl.Series) -> pl.DataFrame:
    """The tokens of samples, in their order: id, tokens (of the whole conversation), answer_tokens.

    Raises StoreError if some have not been counted.
    """
    found = store.fetch(tokenizer.table, "id", ids)
    rows = ids.rename("id").to_frame().join(found, on="id", how="left", maintain_order="left")
    if lacking := rows["tokens"].null_count():
        raise StoreError(f"The store {store.uri} lacks the tokens of {lacking:,} samples; run the command again.")
    return rows
