"""Computes the in-context influence of samples: the losses of hard neighbours after them as a demonstration."""

import polars as pl

from deita_core.alignment.rank_model import RankModel, RankModelFiles
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.selection.orders.wici import hard_rows, nearest_hard
from deita_core.stages.candidates import all_vectors
from deita_core.stages.encoding import CHARS_PER_CAUSAL_SHARD
from deita_core.stages.losses import STAGE, chars_read, check_all, read_conversations
from deita_core.stages.shards import Shard, plan_shards, read_shard
from deita_core.store import Store
from deita_core.tables import SAMPLES, losses_table


def find_probes(store: Store, encoder: EncoderFiles, losses: pl.DataFrame) -> pl.DataFrame:
    """The hard neighbours of each sample, as `nearest_hard` finds them: id, probe, cosine.

    losses: id, answer_nll and alone_nll of all samples, as `mean_losses` returns them.
    """
    vectors = all_vectors(store, encoder, losses)
    return nearest_hard(losses["id"].to_list(), vectors, hard_rows(losses))


def plan_shown(store: Store, files: RankModelFiles, probes: pl.DataFrame) -> list[Shard]:
    """Shards of the pairs of a sample and its probe that have no loss yet under this model, sorted by length."""
    pairs = probes.select("id", "probe", key=_pair())
    lengths = store.fetch(SAMPLES, "id", pl.concat([pairs["id"], pairs["probe"]]), ["id", "n_chars"])
    for column in ("id", "probe"):
        sizes = lengths.select(pl.col("id").alias(column), chars_read("n_chars", files).alias(f"{column}_chars"))
        pairs = pairs.join(sizes, on=column, how="left", maintain_order="left")
    work = pairs.select(id="key", owner="id", size=pl.col("id_chars") + pl.col("probe_chars")).sort("size", "id")
    return plan_shards(store, STAGE, losses_table(f"shown-{files.slug}"), work, CHARS_PER_CAUSAL_SHARD)


def compute_shown(store: Store, model: RankModel, shard: Shard) -> int:
    """Compute the losses of a shard's pairs and write them in one commit; returns the number of pairs.

    A pair of a sample that was removed since the shard was planned is left out.
    """
    parts = read_shard(store, shard).select("id", pl.col("id").str.split_exact(":", 1).alias("pair")).unnest("pair")
    parts = parts.rename({"field_0": "shown", "field_1": "probe"})
    texts = read_conversations(store, pl.concat([parts["shown"], parts["probe"]]))
    pairs = [(id_, texts[a], texts[b]) for id_, a, b in parts.iter_rows() if a in texts and b in texts]
    found = model.shown(pairs).join(parts, on="id", how="left", maintain_order="left")
    store.write(losses_table(f"shown-{model.files.slug}"), found)
    return len(found)


def shown_losses(store: Store, files: RankModelFiles, probes: pl.DataFrame) -> pl.DataFrame:
    """Probes (id, probe, cosine) with shown_nll, the mean loss of a token of the probe's answers after the sample.

    It is null for a pair that cannot be read. Raises StoreError if some have not been computed.
    """
    pairs = probes.with_columns(key=_pair())
    table = losses_table(f"shown-{files.slug}")
    found = store.fetch(table, "id", pairs["key"]).select(
        "tokens", key="id", shown_nll=pl.col("loss") / pl.col("tokens")
    )
    pairs = pairs.join(found, on="key", how="left", maintain_order="left")
    check_all(store, pairs["tokens"])
    return pairs.select("id", "probe", "cosine", "shown_nll")


def _pair() -> pl.Expr:
    return pl.format("{}:{}", "id", "probe")
