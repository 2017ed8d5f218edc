"""Scores every turn of the pool: a head reads stored vectors, a language model reads texts."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from deita_core.literals import Role
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.models.pooling import weighted_means
from deita_core.scorers import HeadScorer, Scorer, ScorerFiles
from deita_core.stages.encoding import encoder_table
from deita_core.stages.ingest import pool_ids
from deita_core.stages.shards import Shard, plan_shards, read_shard
from deita_core.stages.turns import NEEDED, joined_turns, read_messages, turns_of
from deita_core.store import Store
from deita_core.tables import SAMPLES, scores_table

STAGE = "score"
# A head takes less than a millisecond per sample, a language model on a CPU a second. A served model scores many
# samples at once, but few at the end of a shard.
SAMPLES_PER_SHARD = {"head": 8_192, "causal": 256, "classifier": 256, "served": 2_048, "judge": 2_048}


def in_passes(store: Store, scorers: Sequence[ScorerFiles]) -> list[list[ScorerFiles]]:
    """The scorers in groups that score a sample together: two heads, which then read it once, or any other alone."""
    heads = [scorer for scorer in scorers if scorer.kind == "head"]
    # Those that have scored as many turns have scored the same ones; otherwise one would score again what it has.
    if len(heads) == 2 and len({store.count(scores_table(head.slug)) for head in heads}) == 1:
        return [heads, *([scorer] for scorer in scorers if scorer.kind != "head")]
    return [[scorer] for scorer in scorers]


def plan_scoring(store: Store, scorers: Sequence[ScorerFiles], file_ids: Sequence[str]) -> list[Shard]:
    """Shards of the samples of files that one of these scorers, which score them together, has not scored yet."""
    ids = pool_ids(store, file_ids)
    if scorers[0].kind == "head":
        # Samples that are stored beside each other, and so are their vectors, are read several times faster.
        stored = store.row_ids(SAMPLES, "id")["id"]
        ids = stored.filter(stored.is_in(ids.implode()))
    return plan_samples(store, scorers, ids)


def plan_samples(store: Store, scorers: Sequence[ScorerFiles], ids: pl.Series) -> list[Shard]:
    """As `plan_scoring`, of these samples."""
    work = ids.rename("id").to_frame().with_columns(owner=pl.lit(""), size=pl.lit(1))
    tables = [scores_table(scorer.slug) for scorer in scorers]
    return plan_shards(store, STAGE, tables, work, SAMPLES_PER_SHARD[scorers[0].kind])


def score_shard(
    store: Store, scorers: Sequence[tuple[Scorer, ScorerFiles]], encoder: EncoderFiles, shard: Shard
) -> int:
    """Score every turn of a shard's samples and write each scorer's scores in one commit; returns their number."""
    samples = store.fetch(SAMPLES, "id", read_shard(store, shard)["id"], NEEDED).sort("id")
    messages = turns_of(read_messages(samples, scorers[0][1].reasoning))
    turns = joined_turns(messages)
    keys = turns.select(samples["id"].gather(turns["owner"]), "turn")
    instructions, responses = turns["instruction"].to_list(), turns["response"].to_list()
    axes = {scorer.axis for scorer, _ in scorers if isinstance(scorer, HeadScorer)}
    roles: list[Role] = ["user", "assistant"] if "quality" in axes else ["user"]
    vectors = dict(zip(roles, turn_vectors(store, encoder, messages, roles), strict=True)) if axes else {}
    for scorer, files in scorers:
        if isinstance(scorer, HeadScorer):
            scored = scorer.score_vectors(instructions, vectors["user"], responses, vectors.get("assistant"))
        else:
            scored = scorer.score(instructions, responses)
        table = scores_table(files.slug)
        store.write(table, pl.concat([keys, scored], how="horizontal").select(table.empty().columns))
    return len(keys) * len(scorers)


def turn_vectors(
    store: Store, encoder: EncoderFiles, messages: pl.DataFrame, roles: Sequence[Role]
) -> list[np.ndarray]:
    """Vectors (n, d) of what each of these roles says in turns, from the stored vectors of the messages.

    `messages`: as `turns_of` returns them.
    """
    groups = messages.select("role", "text_id", group=pl.struct("owner", "turn").rle_id(), weight="n_chars")
    count, groups = groups["group"].n_unique(), groups.filter(pl.col("role").is_in(roles))
    texts = groups["text_id"].unique()
    vectors = store.vectors(encoder_table(encoder), texts)
    rows = pl.DataFrame({"text_id": texts}).with_row_index("row")
    members = groups.join(rows, on="text_id", how="left", maintain_order="left")
    return [weighted_means(members.filter(pl.col("role") == role), count, vectors) for role in roles]
