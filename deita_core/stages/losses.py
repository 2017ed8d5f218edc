"""Computes the losses of answers under a language model: given their instructions, and alone."""

from typing import Literal

import polars as pl

from deita_core.alignment.rank_model import RankModel, RankModelFiles
from deita_core.conversation import Conversation, stored_conversation
from deita_core.errors import StoreError
from deita_core.stages.encoding import CHARS_PER_CAUSAL_SHARD, CHARS_PER_TOKEN
from deita_core.stages.shards import Shard, plan_shards, read_shard
from deita_core.store import Store
from deita_core.tables import SAMPLES, losses_table

STAGE = "losses"
Given = Literal["asked", "alone"]


def plan_losses(store: Store, files: RankModelFiles, given: Given, ids: pl.Series) -> list[Shard]:
    """Shards of the samples whose answers have no loss yet under this model, sorted by length."""
    samples = store.fetch(SAMPLES, "id", ids, ["id", "n_chars"])
    work = samples.select("id", owner="id", size=chars_read("n_chars", files)).sort("size", "id")
    return plan_shards(store, STAGE, losses_table(f"{given}-{files.slug}"), work, CHARS_PER_CAUSAL_SHARD)


def compute_losses(store: Store, model: RankModel, given: Given, shard: Shard) -> int:
    """Compute the losses of a shard's samples and write them in one commit; returns the number of samples."""
    samples = list(read_conversations(store, read_shard(store, shard)["id"]).items())
    found = model.asked(samples) if given == "asked" else model.alone(samples)
    store.write(losses_table(f"{given}-{model.files.slug}"), found)
    return len(found)


def mean_losses(store: Store, files: RankModelFiles, ids: pl.Series, alone: bool = True) -> pl.DataFrame:
    """The mean losses of a token of samples' answers in nats: id, answer_nll, alone_nll, reason; in their order.

    answer_nll is given the instruction; without `alone` alone_nll is null. A sample whose answers cannot be read has
    nulls and a reason. Raises StoreError if some have not been computed.
    """
    found = _means(store, files, "asked", ids).rename({"mean": "answer_nll"})
    if not alone:
        return found.select("id", "answer_nll", pl.lit(None, pl.Float64).alias("alone_nll"), "reason")
    others = _means(store, files, "alone", ids)
    return found.select("id", "answer_nll", others["mean"].alias("alone_nll"), pl.coalesce("reason", others["reason"]))


def _means(store: Store, files: RankModelFiles, given: Given, ids: pl.Series) -> pl.DataFrame:
    """The mean loss of samples' answers: id, mean, reason; in their order."""
    found = store.fetch(losses_table(f"{given}-{files.slug}"), "id", ids)
    rows = ids.rename("id").to_frame().join(found, on="id", how="left", maintain_order="left")
    check_all(store, rows["tokens"])
    return rows.select("id", pl.col("loss") / pl.col("tokens"), "reason").rename({"loss": "mean"})


def check_all(store: Store, tokens: pl.Series) -> None:
    """Raise StoreError if there are nulls among the tokens of losses: some have not been computed."""
    if lacking := tokens.null_count():
        raise StoreError(f"The store {store.uri} lacks {lacking:,} losses of answers; run the command again.")


def chars_read(column: str, files: RankModelFiles) -> pl.Expr:
    """Approximate characters that the model reads of a sample."""
    return pl.col(column).clip(upper_bound=files.max_tokens * CHARS_PER_TOKEN)


def read_conversations(store: Store, ids: pl.Series) -> dict[str, Conversation]:
    """The samples with these ids that are in the store, in the order of the ids."""
    rows = store.fetch(SAMPLES, "id", ids, ["id", "messages", "extra"]).iter_rows()
    found = {id_: stored_conversation(messages, extra) for id_, messages, extra in rows}
    return {id_: found[id_] for id_ in ids.unique(maintain_order=True) if id_ in found}
