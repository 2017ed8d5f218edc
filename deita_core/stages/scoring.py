"""Scores every turn of the pool: a head reads stored vectors, a language model reads texts."""

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from deita_core.conversation import Turn, stored_conversation
from deita_core.literals import Reasoning
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.models.pooling import weighted_means
from deita_core.scorers import HeadScorer, Scorer, ScorerFiles
from deita_core.stages.encoding import as_read, encoder_table
from deita_core.stages.ingest import pool_ids
from deita_core.stages.shards import Shard, plan_shards, read_shard
from deita_core.store import Store
from deita_core.tables import SAMPLES, scores_table

STAGE = "score"
# A head takes some milliseconds per sample, a language model on a CPU a second. A served model scores many samples at
# once, but few at the end of a shard.
SAMPLES_PER_SHARD = {"head": 4_096, "causal": 256, "served": 2_048}

Placed = tuple[str, int, Turn, list[dict[str, Any]]]


def plan_scoring(store: Store, scorer: ScorerFiles, file_ids: Sequence[str]) -> list[Shard]:
    """Shards of the samples that this scorer has not scored yet."""
    work = pool_ids(store, file_ids).rename("id").to_frame().with_columns(owner=pl.lit(""), size=pl.lit(1))
    return plan_shards(store, STAGE, scores_table(scorer.slug), work, SAMPLES_PER_SHARD[scorer.kind])


def score_shard(store: Store, scorer: Scorer, files: ScorerFiles, encoder: EncoderFiles, shard: Shard) -> int:
    """Score every turn of a shard's samples and write the scores in one commit; returns the number of turns."""
    ids = read_shard(store, shard)["id"].to_list()
    samples = store.fetch(SAMPLES, "id", ids, ["id", "messages", "message_index"]).sort("id")
    turns = list(_turns(samples, files.reasoning))
    if isinstance(scorer, HeadScorer):
        scored = score_on_vectors(store, scorer, encoder, turns)
    else:
        scored = scorer.score([turn.instruction for _, _, turn, _ in turns], [turn.response for _, _, turn, _ in turns])
    keys = pl.DataFrame(
        [(id_, number) for id_, number, _, _ in turns], schema={"id": pl.String, "turn": pl.Int32}, orient="row"
    )
    store.write(scores_table(files.slug), pl.concat([keys, scored], how="horizontal"))
    return len(keys)


def score_on_vectors(store: Store, scorer: HeadScorer, encoder: EncoderFiles, turns: Sequence[Placed]) -> pl.DataFrame:
    """Scores of turns from the stored vectors of their texts."""
    text_ids = list(dict.fromkeys(o["text_id"] for *_, message_index in turns for o in message_index if not o["blank"]))
    vectors = store.vectors(encoder_table(encoder), text_ids)
    row_of = {text: row for row, text in enumerate(text_ids)}

    def weighed(message_index: list[dict[str, Any]], positions: tuple[int, ...]) -> list[tuple[int, float]]:
        return [(row_of[message_index[i]["text_id"]], float(message_index[i]["n_chars"])) for i in positions]

    asked = [weighed(message_index, turn.user) for _, _, turn, message_index in turns]
    answered = [weighed(message_index, turn.assistant) for _, _, turn, message_index in turns]
    return scorer.score_vectors(
        [turn.instruction for _, _, turn, _ in turns],
        weighted_means(asked, vectors),
        [turn.response for _, _, turn, _ in turns],
        weighted_means(answered, vectors),
    )


def _turns(samples: pl.DataFrame, reasoning: Reasoning) -> Iterator[Placed]:
    """Every turn of samples (id, messages, message_index): sample id, turn number, turn, message index."""
    read = as_read(samples.select("id", "messages", "message_index"), reasoning)
    for id_, messages, message_index in read.iter_rows():
        for number, turn in enumerate(stored_conversation(messages).turns_with(reasoning)):
            yield id_, number, turn, message_index
