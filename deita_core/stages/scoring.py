"""Scores of every turn of the pool, from the stored vectors: no text is encoded here."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from deita_core.conversation import Conversation, conversation
from deita_core.encoders import EncoderFiles
from deita_core.pooling import weighted_means
from deita_core.scorers import HeadScorer, ScorerFiles
from deita_core.stages.encoding import encoder_table
from deita_core.stages.ingest import pool_ids
from deita_core.stages.plans import Shard, plan_shards, read_shard
from deita_core.store import Store
from deita_core.tables import SAMPLES, scores_table

STAGE = "score"
SAMPLES_PER_SHARD = 4_096


def plan_scoring(store: Store, scorer: ScorerFiles, file_ids: Sequence[str]) -> list[Shard]:
    """Shards of the samples that this scorer has not scored yet."""
    work = pool_ids(store, file_ids).rename("id").to_frame().with_columns(owner=pl.lit(""), size=pl.lit(1))
    return plan_shards(store, STAGE, scores_table(scorer.slug), work, SAMPLES_PER_SHARD)


def score_shard(store: Store, scorer: HeadScorer, files: ScorerFiles, encoder: EncoderFiles, shard: Shard) -> int:
    """Score every turn of a shard's samples and write the scores in one commit; returns how many."""
    ids = read_shard(store, shard)["id"].to_list()
    samples = store.fetch(SAMPLES, "id", ids, ["id", "messages", "outline"]).sort("id")
    text_ids = samples.explode("outline").unnest("outline").filter(~pl.col("blank"))["text_id"].unique().to_list()
    vectors = store.vectors(encoder_table(encoder), text_ids)
    frame = score_turns(scorer, samples, {text: row for row, text in enumerate(text_ids)}, vectors)
    return store.write(scores_table(files.slug), frame)


def score_turns(scorer: HeadScorer, samples: pl.DataFrame, row_of: dict[str, int], vectors: np.ndarray) -> pl.DataFrame:
    """Scores (id, turn, score, status) of the turns of samples (id, messages, outline), given their texts' vectors."""
    ids: list[tuple[str, int]] = []
    instructions, responses = [], []
    asked, answered = [], []
    for id_, messages, outline in samples.select("id", "messages", "outline").iter_rows():
        talk: Conversation = conversation((m["role"], m["content"]) for m in messages)
        for number, turn in enumerate(talk.turns):
            ids.append((id_, number))
            instructions.append(turn.instruction)
            responses.append(turn.response)
            asked.append([(row_of[outline[i]["text_id"]], float(outline[i]["n_chars"])) for i in turn.user])
            answered.append([(row_of[outline[i]["text_id"]], float(outline[i]["n_chars"])) for i in turn.assistant])
    scored = scorer.score_vectors(
        instructions, weighted_means(asked, vectors), responses, weighted_means(answered, vectors)
    )
    keys = pl.DataFrame(ids, schema={"id": pl.String, "turn": pl.Int32}, orient="row")
    return pl.concat([keys, scored], how="horizontal")
