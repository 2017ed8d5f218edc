"""Encodes the pool: each distinct message text, or each whole conversation, once per encoder."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from deita_core.config.settings import SelectionSettings
from deita_core.conversation import Conversation, Message, stored_conversation
from deita_core.errors import StoreError
from deita_core.literals import Reasoning
from deita_core.models.encoder_spec import EncoderFiles, find_encoder
from deita_core.models.lm_encoder import LanguageModelEncoder, render
from deita_core.models.pooling import weighted_means
from deita_core.models.static_encoder import TextEncoder, count_tokens, load_text_encoder
from deita_core.stages.ingest import pool_ids
from deita_core.stages.shards import Shard, plan_shards, read_shard
from deita_core.stages.turns import NEEDED, as_read, indexed_messages, read_messages
from deita_core.store import Store
from deita_core.tables import SAMPLES, Table, vectors_table

STAGE = "encode"
BLOCK = 2_048
# Several seconds of work on two cores.
CHARS_PER_SHARD = 400_000
# A static encoder reads millions of characters a second.
CHARS_PER_STATIC_SHARD = 4_000_000
# About 5,000 tokens: 10 TFLOP per billion parameters of a language model. A large pool has larger shards.
CHARS_PER_CAUSAL_SHARD = 20_000
# A language model truncates long conversations, so their cost is limited.
CHARS_PER_TOKEN = 4

Encoder = TextEncoder | LanguageModelEncoder


def find_pool_encoder(settings: SelectionSettings) -> EncoderFiles:
    """Find the encoder of a selection's settings, which reads what they say."""
    found = find_encoder(settings.encoder, settings.precision, settings.encoder_pooling, settings.encoder_storage)
    return found.model_copy(update={"reasoning": settings.reasoning})


def load_encoder(files: EncoderFiles) -> Encoder:
    """Load an encoder of texts or a language model."""
    return LanguageModelEncoder(files) if files.kind == "causal" else load_text_encoder(files)


def encoder_table(encoder: EncoderFiles) -> Table:
    """The table of an encoder's vectors: keyed by text id, or by sample id if it encodes whole conversations."""
    return vectors_table(encoder.slug, encoder.dim, encoder.storage, zeros=encoder.kind == "static")


def pool_texts(store: Store, encoder: EncoderFiles, sample_ids: pl.Series) -> pl.DataFrame:
    """The nonblank texts of samples, as they are stored: id, owner (the sample), size (characters)."""
    samples = as_read(store.fetch(SAMPLES, "id", sample_ids, ["id", "message_index"]), encoder.reasoning)
    texts = indexed_messages(samples)
    return texts.select(id="text_id", owner=samples["id"].gather(texts["owner"]), size="n_chars")


def pool_conversations(store: Store, encoder: EncoderFiles, sample_ids: pl.Series) -> pl.DataFrame:
    """The conversations of samples: id, owner (the same), size (approximate characters a language model reads)."""
    samples = store.fetch(SAMPLES, "id", sample_ids, ["id", "n_chars"])
    return samples.select("id", owner="id", size=pl.col("n_chars").clip(upper_bound=chars_read(encoder)))


def chars_read(encoder: EncoderFiles) -> int:
    """Approximate characters of a conversation that a language model reads before it truncates."""
    return encoder.max_tokens * CHARS_PER_TOKEN


def plan_encoding(store: Store, encoder: EncoderFiles, file_ids: Sequence[str]) -> list[Shard]:
    """Shards of the texts or conversations without a vector, sorted by length if they are padded."""
    work = pool_conversations if encoder.kind == "causal" else pool_texts
    size = {"causal": CHARS_PER_CAUSAL_SHARD, "static": CHARS_PER_STATIC_SHARD}.get(encoder.kind, CHARS_PER_SHARD)
    # For a static encoder nothing is padded, so that texts may stay in the order of the samples, which are then read
    # in a row.
    order = () if encoder.kind == "static" else ("size", "id")
    ids = pool_ids(store, file_ids)
    return plan_shards(store, STAGE, encoder_table(encoder), work(store, encoder, ids), size, order)


def shard_texts(store: Store, rows: pl.DataFrame, reasoning: Reasoning) -> list[str]:
    """The texts of a shard, in order."""
    owners = store.fetch(SAMPLES, "id", rows["owner"], NEEDED)
    texts = read_messages(owners, reasoning).unique("text_id", keep="any").select("text_id", "text")
    found = rows.join(texts, left_on="id", right_on="text_id", how="left", maintain_order="left")["text"]
    if lacking := found.null_count():
        raise StoreError(f"The store {store.uri} lacks the samples of {lacking:,} texts to encode; run it again.")
    return found.to_list()


def shard_conversations(store: Store, rows: pl.DataFrame) -> list[Conversation]:
    """The conversations of a shard, in order."""
    samples = dict(store.fetch(SAMPLES, "id", rows["id"], ["id", "messages"]).iter_rows())
    return [stored_conversation(samples[id_]) for id_ in rows["id"]]


def encode_shard(store: Store, encoder: Encoder, shard: Shard) -> int:
    """Encode a shard and write its vectors in one commit; returns the number of rows."""
    rows, reasoning = read_shard(store, shard), encoder.files.reasoning
    if isinstance(encoder, LanguageModelEncoder):
        texts = [render(sample, encoder.tokenizer, reasoning) for sample in shard_conversations(store, rows)]
    else:
        texts = shard_texts(store, rows, reasoning)
    encoded = encoder.encode(texts)
    table = encoder_table(encoder.files)
    store.write(table, vector_frame(table, rows["id"], encoded.n_tokens, encoded.vectors))
    return len(rows)


def vector_frame(table: Table, text_ids: pl.Series, n_tokens: np.ndarray, vectors: np.ndarray) -> pl.DataFrame:
    """Rows of a vectors table."""
    return pl.DataFrame({"text_id": text_ids, "n_tokens": n_tokens, "vector": vectors}, schema=table.empty().schema)


def mean_vectors(store: Store, encoder: EncoderFiles, samples: pl.DataFrame, rows: pl.DataFrame) -> np.ndarray:
    """Vectors (n, d) float32 of samples (message_index, as read), in their order.

    Each is the mean of its nonblank messages' vectors, weighted by their characters. `rows`: as for `Store.vectors`.
    """
    messages = indexed_messages(samples)
    texts = messages.select("text_id").unique().with_row_index("row")
    members = messages.join(texts, on="text_id", how="left", maintain_order="left")
    vectors = store.vectors(encoder_table(encoder), texts["text_id"], rows)
    return weighted_means(members.select("row", group="owner", weight="n_chars"), len(samples), vectors)


def message_tokens(store: Store, encoder: EncoderFiles, samples: pl.DataFrame) -> dict[str, int]:
    """Number of tokens of each nonblank message of samples (id, message_index), by `full_id`, or else by `text_id`.

    Training reads the reasoning, so it counts. Counts are stored with message vectors; a tokenizer counts what has no
    vector: texts with their reasoning, and all texts of a language model.
    """
    if encoder.kind == "causal":
        return _counted(store, encoder, samples["id"].to_list())
    messages, columns = indexed_messages(samples), ["text_id", "n_tokens"]
    known = dict(store.fetch(encoder_table(encoder), "text_id", messages["text_id"], columns).iter_rows())
    thoughtful = messages.filter(pl.col("full_id").is_not_null())["owner"].unique().sort()
    return known | _counted(store, encoder, samples["id"].gather(thoughtful).to_list())


def _counted(store: Store, encoder: EncoderFiles, sample_ids: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for start in range(0, len(sample_ids), BLOCK):
        samples = store.fetch(SAMPLES, "id", sample_ids[start : start + BLOCK], ["messages", "message_index"])
        pairs = [
            pair
            for messages, message_index in samples.iter_rows()
            for pair in zip(messages, message_index, strict=True)
        ]
        texts = {o["full_id"] or o["text_id"]: Message(**m).read_text() for m, o in pairs if not o["blank"]}
        counts.update(zip(texts, count_tokens(encoder, list(texts.values())), strict=True))
    return counts
