"""The language of each conversation, found once and kept in the store."""

from collections.abc import Sequence

import polars as pl

from deita_core.errors import StoreError
from deita_core.reading.language import detector, languages_said
from deita_core.stages.ingest import pool_ids
from deita_core.stages.shards import Shard, plan_shards, read_shard
from deita_core.stages.turns import NEEDED, read_messages
from deita_core.store import Store
from deita_core.tables import SAMPLES, Table, languages_table

STAGE = "languages"
# Several seconds of work.
TURNS_PER_SHARD = 16_384


def table() -> Table:
    """The table of the languages, as the installed detector finds them."""
    return languages_table(detector())


def plan_languages(store: Store, file_ids: Sequence[str]) -> list[Shard]:
    """Shards of the samples of files whose language has not been looked for."""
    samples = store.fetch(SAMPLES, "id", pool_ids(store, file_ids), ["id", "n_turns"]).sort("id")
    work = samples.select("id", owner=pl.lit(""), size="n_turns")
    return plan_shards(store, STAGE, table(), work, TURNS_PER_SHARD)


def find_languages(store: Store, shard: Shard) -> int:
    """Find the languages of a shard's samples and write them in one commit; returns the number of samples.

    Only what users and assistants say counts, without reasoning.
    """
    samples = store.fetch(SAMPLES, "id", read_shard(store, shard)["id"], NEEDED).sort("id")
    said = read_messages(samples, "ignore").filter(pl.col("role").is_in(["user", "assistant"]))
    found = languages_said(said)
    owners = samples.select("id").with_row_index("owner").with_columns(pl.col("owner").cast(found["owner"].dtype))
    store.write(table(), owners.join(found, on="owner", how="left", maintain_order="left").select("id", "language"))
    return len(samples)


def known_languages(store: Store, ids: pl.Series) -> pl.Series | None:
    """As `sample_languages`; None if one of them was not looked for."""
    lacking = store.count(table()) < len(ids) or len(store.missing(table(), ids))
    return None if lacking else sample_languages(store, ids)


def sample_languages(store: Store, ids: pl.Series) -> pl.Series:
    """The language of each sample, in their order; null if it has none. Raises StoreError if one was not looked for."""
    found = store.fetch(table(), "id", ids).with_columns(known=True)
    rows = ids.rename("id").to_frame().join(found, on="id", how="left", maintain_order="left")
    if lacking := rows["known"].null_count():
        raise StoreError(f"The store {store.uri} lacks the language of {lacking:,} samples; run the command again.")
    return rows["language"]
