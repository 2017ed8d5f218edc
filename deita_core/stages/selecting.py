"""Which samples of the pool to keep: evol scores, ranking, and the walk past the stored vectors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

from deita_core.conversation import pair_turns
from deita_core.literals import Turns
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.models.pooling import conversation_vectors
from deita_core.scorers import ScorerFiles
from deita_core.selection import DiversitySelector, Ranked, rank_candidates
from deita_core.selection.evol_score import evol_scores
from deita_core.selection.replay import Work, replay
from deita_core.selection.threshold import smallest_filling
from deita_core.stages.encoding import encoder_table, message_tokens
from deita_core.stages.ingest import pool_ids
from deita_core.store import Store
from deita_core.tables import DECISIONS, SAMPLES, scores_table

BLOCK = 2_048


class Job(BaseModel):
    """All that a selection depends on: which rows, measured by what, chosen how."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    file_ids: tuple[str, ...]
    encoder: EncoderFiles
    complexity: ScorerFiles
    quality: ScorerFiles
    turns: Turns
    training_tokens: int
    budget: int | None
    threshold: float | Literal["auto"]
    # The run whose decisions are used again where they still stand; it had the same encoder.
    after: str | None = None


class Chosen(BaseModel):
    """What became of the distinct samples, and the threshold they were chosen by.

    `examined`: candidates that had to be looked at anew; `compared`: pairs of vectors compared for that.
    """

    samples: int
    selected: int
    near_duplicate: int
    over_budget: int
    rejected: int
    threshold: float
    examined: int | None = None
    compared: int | None = None


@dataclass(frozen=True)
class _Walk:
    """Decisions of the candidates walked, those without a direction, and what a replay had to do."""

    decisions: pl.DataFrame
    rejected: pl.DataFrame
    work: Work | None = None


def rank_pool(store: Store, job: Job) -> Ranked:
    """The pool's distinct samples in walking order: id, score, complexity, quality, n_scored, message_index."""
    ids = pool_ids(store, job.file_ids)
    indices = store.fetch(SAMPLES, "id", ids.to_list(), ["id", "message_index", "n_turns"]).sort("id")
    columns = ["id", "turn", "score"]
    complexity = store.fetch(scores_table(job.complexity.slug), "id", ids.to_list(), columns)
    quality = store.fetch(scores_table(job.quality.slug), "id", ids.to_list(), columns)
    turns = complexity.rename({"score": "complexity"}).join(
        quality.rename({"score": "quality"}), on=["id", "turn"], how="full", coalesce=True
    )
    turns = turns.join(_turn_ends(store, job, indices), on=["id", "turn"], how="left").with_columns(
        pl.col("end").fill_null(0)
    )
    scored = evol_scores(turns, job.turns, job.training_tokens)
    return rank_candidates(indices.drop("n_turns").join(scored, on="id", how="left").sort("id"))


def _turn_ends(store: Store, job: Job, indices: pl.DataFrame) -> pl.DataFrame:
    """Tokens of each conversation up to the end of each turn: id, turn, end. Only where it can matter."""
    several = indices.filter((pl.col("n_turns") > 1) & (job.turns == "fit"))
    tokens = message_tokens(store, job.encoder, several)
    rows = []
    for id_, message_index in several.select("id", "message_index").iter_rows():
        ends = np.cumsum([0 if m["blank"] else tokens[m["text_id"]] for m in message_index]).tolist()
        pairs = pair_turns((m["role"], m["blank"]) for m in message_index)
        rows += [(id_, turn, ends[assistant[-1]]) for turn, (_, assistant) in enumerate(pairs)]
    return pl.DataFrame(rows, schema={"id": pl.String, "turn": pl.Int32, "end": pl.Int64}, orient="row")


def choose(store: Store, job: Job) -> Chosen:
    """Walk the pool in rank order, write a decision for every candidate walked, and count the fates."""
    ranked = rank_pool(store, job)
    candidates = ranked.candidates
    if job.threshold == "auto":
        if job.budget is None or job.budget >= len(candidates):
            # Nothing but all of them can fill it.
            threshold = 1.0
        else:
            threshold = smallest_filling(lambda tau: _fills(store, job, candidates, tau))
    else:
        threshold = job.threshold
    walk = _decide(store, job, candidates, threshold)
    _write_decisions(store, job.run_id, walk.decisions.join(candidates.select("id", "score"), on="id", how="left"))
    selected = int(walk.decisions["selected"].sum())
    rejected = len(ranked.unscored) + len(walk.rejected)
    return Chosen(
        samples=len(candidates) + len(ranked.unscored),
        selected=selected,
        near_duplicate=len(walk.decisions) - selected,
        over_budget=len(candidates) - len(walk.decisions) - len(walk.rejected),
        rejected=rejected,
        threshold=threshold,
        examined=walk.work.examined if walk.work else None,
        compared=walk.work.compared if walk.work else None,
    )


def _fills(store: Store, job: Job, candidates: pl.DataFrame, threshold: float) -> bool:
    walk = _walk(store, job, candidates, threshold)
    return job.budget is not None and int(walk.decisions["selected"].sum()) >= job.budget


def _decide(store: Store, job: Job, candidates: pl.DataFrame, threshold: float) -> _Walk:
    """Decisions of a walk; from an earlier run's, where there are any, at the price of what has changed since."""
    if job.after is None:
        return _walk(store, job, candidates, threshold)
    before = store.read(DECISIONS, ["rank", "id", "selected", "nearest", "similarity"], f"run_id = '{job.after}'")
    before = before.sort("rank").drop("rank")
    replayed = replay(
        candidates["id"],
        before,
        partial(_vectors_of, store, job.encoder, candidates),
        budget=job.budget,
        threshold=threshold,
        dim=job.encoder.dim,
    )
    return _Walk(replayed.decisions, replayed.rejected, replayed.work)


def _vectors_of(store: Store, encoder: EncoderFiles, candidates: pl.DataFrame, ids: Sequence[str]) -> np.ndarray:
    wanted = pl.DataFrame({"id": ids}, schema={"id": pl.String})
    rows = wanted.join(candidates.select("id", "message_index"), on="id", how="left", maintain_order="left")
    blocks = [vectors for _, vectors in candidate_vectors(store, encoder, rows)]
    return np.concatenate(blocks) if blocks else np.zeros((0, encoder.dim), np.float32)


def _walk(store: Store, job: Job, candidates: pl.DataFrame, threshold: float) -> _Walk:
    selector = DiversitySelector(job.budget, threshold, job.encoder.dim)
    frames = [selector.offer([], np.zeros((0, job.encoder.dim), np.float32))]
    for ids, vectors in candidate_vectors(store, job.encoder, candidates):
        frames.append(selector.offer(ids, vectors))
        if selector.full:
            break
    return _Walk(pl.concat(frames), selector.rejected)


def candidate_vectors(
    store: Store, encoder: EncoderFiles, candidates: pl.DataFrame
) -> Iterator[tuple[list[str], np.ndarray]]:
    """The candidates' conversation vectors, a block at a time in their order: ids, (n, d) float32."""
    table = encoder_table(encoder)
    for block in candidates.select("id", "message_index").iter_slices(BLOCK):
        if encoder.kind == "causal":
            ids = block["id"].to_list()
            yield ids, store.vectors(table, ids)
            continue
        texts = (
            block.explode("message_index")
            .unnest("message_index")
            .filter(~pl.col("blank"))["text_id"]
            .unique()
            .to_list()
        )
        yield block["id"].to_list(), conversation_vectors(block["message_index"], texts, store.vectors(table, texts))


def _write_decisions(store: Store, run_id: str, decisions: pl.DataFrame) -> None:
    """Write a run's decisions; what a broken attempt of the same run left is taken away first."""
    drop_decisions(store, run_id)
    key = pl.format("{}:{}", pl.lit(run_id), "rank")
    store.write(DECISIONS, decisions.with_columns(key=key, run_id=pl.lit(run_id)).select(DECISIONS.empty().columns))


def drop_decisions(store: Store, run_id: str) -> None:
    """Forget what a run has decided."""
    store.delete(DECISIONS, f"run_id = '{run_id}'")


def fates(store: Store, job: Job) -> pl.DataFrame:
    """What became of every distinct sample, in rank order.

    id, fate, reason (in words, null for the selected), rank (among those walked), score, complexity, quality, n_scored,
    duplicate_of, nearest, similarity.
    """
    ranked = rank_pool(store, job)
    walked = store.read(DECISIONS, where=f"run_id = '{job.run_id}'").drop("key", "run_id", "score")
    table = ranked.candidates.drop("message_index", "position").join(walked, on="id", how="left", maintain_order="left")
    last = walked["rank"].max() or 0
    order = pl.int_range(pl.len())
    reached = pl.col("rank").is_not_null()
    # A vector without a direction has no decision, nor has what comes after the one that filled the budget.
    filled = job.budget is not None and int(walked["selected"].sum()) >= job.budget
    before_end = (order <= order.filter(pl.col("rank") == last).max().fill_null(-1)) | (not filled)
    fate = (
        pl.when(reached & pl.col("selected"))
        .then(pl.lit("selected"))
        .when(reached)
        .then(pl.lit("near_duplicate"))
        .when(before_end)
        .then(pl.lit("rejected"))
        .otherwise(pl.lit("over_budget"))
    )
    unscored = ranked.unscored.select("id", fate=pl.lit("rejected"))
    table = pl.concat([table.with_columns(fate=fate).drop("selected"), unscored], how="diagonal")
    return table.with_columns(reason=_reasons())


def _reasons() -> pl.Expr:
    blocked = pl.format("too similar ({}) to {}, which was kept", pl.col("similarity").round(4), "duplicate_of")
    return (
        pl.when(pl.col("fate") == "near_duplicate")
        .then(blocked)
        .when(pl.col("fate") == "over_budget")
        .then(pl.lit("the budget was full before its turn"))
        .when((pl.col("fate") == "rejected") & pl.col("score").is_null())
        .then(pl.lit("a turn has no readable score"))
        .when(pl.col("fate") == "rejected")
        .then(pl.lit("its vector has no direction"))
    )
