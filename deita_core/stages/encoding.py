"""Texts of the pool's messages into vectors: each distinct text once per encoder."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from deita_core.encoders import EncoderFiles, SentenceEncoder
from deita_core.stages.ingest import pool_ids
from deita_core.stages.plans import Shard, plan_shards, read_shard
from deita_core.store import Store
from deita_core.tables import SAMPLES, Table, vectors_table

STAGE = "encode"
# Several seconds' work on two cores.
CHARS_PER_SHARD = 400_000


def encoder_table(encoder: EncoderFiles) -> Table:
    """The table of an encoder's vectors."""
    return vectors_table(encoder.slug, encoder.dim)


def pool_texts(store: Store, sample_ids: Sequence[str]) -> pl.DataFrame:
    """The distinct texts of samples that are not blank: id, owner (a sample that has it), size (characters)."""
    samples = store.fetch(SAMPLES, "id", sample_ids, ["id", "outline"]).sort("id")
    messages = samples.explode("outline", empty_as_null=False).unnest("outline").filter(~pl.col("blank"))
    texts = messages.select(id="text_id", owner="id", size="n_chars")
    return texts.unique("id", keep="first", maintain_order=True)


def plan_encoding(store: Store, encoder: EncoderFiles, file_ids: Sequence[str]) -> list[Shard]:
    """Shards of the texts that have no vector yet, texts of like length together."""
    texts = pool_texts(store, pool_ids(store, file_ids).to_list()).sort("size", "id")
    return plan_shards(store, STAGE, encoder_table(encoder), texts, CHARS_PER_SHARD)


def shard_texts(store: Store, rows: pl.DataFrame) -> list[str]:
    """The texts of a shard, in its order."""
    owners = store.fetch(SAMPLES, "id", rows["owner"].unique().to_list(), ["messages", "outline"])
    texts: dict[str, str] = {}
    for messages, outline in owners.iter_rows():
        texts.update((o["text_id"], m["content"]) for m, o in zip(messages, outline, strict=True))
    return [texts[id_] for id_ in rows["id"]]


def encode_shard(store: Store, encoder: SentenceEncoder, shard: Shard) -> int:
    """Encode a shard and write its vectors in one commit; returns how many."""
    rows = read_shard(store, shard)
    encoded = encoder.encode(shard_texts(store, rows))
    table = encoder_table(encoder.files)
    store.write(table, vector_frame(table, rows["id"], encoded.n_tokens, encoded.vectors))
    return len(rows)


def vector_frame(table: Table, text_ids: pl.Series, n_tokens: np.ndarray, vectors: np.ndarray) -> pl.DataFrame:
    """Rows of a vectors table."""
    return pl.DataFrame({"text_id": text_ids, "n_tokens": n_tokens, "vector": vectors}, schema=table.empty().schema)
