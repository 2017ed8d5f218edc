"""Selects samples of the pool: evol scores, ranking, the greedy scan, and the fate of every sample."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

from deita_core.config.settings import SelectionSettings
from deita_core.errors import StoreError
from deita_core.literals import AXES, Axis
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.scorers import ScorerFiles
from deita_core.selection import DiversitySelector, Ranked, rank_candidates, with_nearest
from deita_core.selection.evol_score import evol_scores
from deita_core.selection.threshold import smallest_filling
from deita_core.stages.encoding import encoder_table, mean_vectors, message_tokens
from deita_core.stages.ingest import pool_ids
from deita_core.stages.turn_scores import own_values, turn_scores, value_columns
from deita_core.stages.turns import as_read, indexed_messages, turns_of
from deita_core.store import Store
from deita_core.tables import DECISIONS, SAMPLES

# Candidates whose vectors are read at a time: 0.1 GB with 4,096 dimensions.
BLOCK = 8_192
# The column of what the scorer `refine` gave.
REFINED = "quality_refined"
TOKENS = {"counted": pl.String, "tokens": pl.Int64}
# Why a sample was rejected, by the code of the scan or the ranking.
REJECTED = {
    "score_not_finite": "a turn has no readable score",
    "zero_vector": "its vector is zero",
    "vector_not_finite": "its vector is not finite",
}


class Job(BaseModel):
    """Everything a selection depends on: the files, the models, and the settings."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    file_ids: tuple[str, ...]
    encoder: EncoderFiles
    complexity: ScorerFiles
    quality: ScorerFiles
    # More scorers of both axes, combined with the first ones.
    also: tuple[ScorerFiles, ...] = ()
    # Scores the quality of the best samples again.
    refine: ScorerFiles | None = None
    settings: SelectionSettings

    def scorers(self, axis: Axis) -> list[ScorerFiles]:
        """The scorers of an axis, as in the settings."""
        first = self.complexity if axis == "complexity" else self.quality
        return [first, *(scorer for scorer in self.also if scorer.axis == axis)]

    @property
    def all_scorers(self) -> list[ScorerFiles]:
        """The scorers of both axes, and that which scores the best again."""
        return [*self.scorers("complexity"), *self.scorers("quality"), *([self.refine] if self.refine else [])]


class Chosen(BaseModel):
    """Counts of distinct samples by fate, the threshold used, and how many of the first ranks `refine` decided."""

    samples: int
    selected: int
    near_duplicate: int
    over_budget: int
    rejected: int
    threshold: float
    refined: int = 0


def rank_pool(store: Store, job: Job) -> Ranked:
    """The pool's distinct samples in rank order: id, score, complexity, quality, n_scored, refined.

    `refined`: the scorer `refine` gave the quality. These samples rank by their new scores; the rest follows in its old
    order, with its old scores.
    """
    ids, turns = _pool_turns(store, job)
    ranked = _ranked(job, ids, turns)
    if job.refine is None:
        return _with_refined(ranked.candidates.clear(), ranked)
    best = to_refine(job, ranked)
    slow = turn_scores(store, [job.refine], best).select("id", "turn", "quality")
    again = turns.filter(pl.col("id").is_in(best.implode())).drop("quality")
    # A sample that the slow scorer cannot read has no new score, and so keeps its old place among the rest.
    refined = _ranked(job, best, again.join(slow, on=["id", "turn"], how="left"))
    return _with_refined(refined.candidates.select(ranked.candidates.columns), ranked)


def best_to_refine(store: Store, job: Job) -> pl.Series:
    """The ids of `to_refine`, before any of them is scored again."""
    return to_refine(job, _ranked(job, *_pool_turns(store, job)))


def to_refine(job: Job, ranked: Ranked) -> pl.Series:
    """The ids of the best samples of a ranking: `refine_factor` times the budget."""
    return ranked.candidates["id"].head(job.settings.refine_factor * (job.settings.budget or 0))


def _with_refined(refined: pl.DataFrame, ranked: Ranked) -> Ranked:
    """Candidates with those that are refined first."""
    rest = ranked.candidates.join(refined.select("id"), on="id", how="anti", maintain_order="left")
    marked = (frame.with_columns(refined=pl.lit(value)) for frame, value in ((refined, True), (rest, False)))
    return Ranked(pl.concat(marked), ranked.unscored)


def _pool_turns(store: Store, job: Job) -> tuple[pl.Series, pl.DataFrame]:
    """The ids of the pool's samples, and their turns as `evol_scores` reads them, with the values of scorers."""
    ids = pool_ids(store, job.file_ids)
    samples = store.fetch(SAMPLES, "id", ids, ["id", "n_turns"])
    complexity, quality = (turn_scores(store, job.scorers(axis), ids).drop(f"{axis}_status") for axis in AXES)
    turns = complexity.join(quality, on=["id", "turn"], how="full", coalesce=True)
    several = samples.filter((pl.col("n_turns") > 1) & (job.settings.turns == "fit"))["id"]
    ends = _turn_ends(store, job, several)
    turns = turns.join(ends, on=["id", "turn"], how="left").with_columns(pl.col("end").fill_null(0))
    return samples["id"], turns


def _ranked(job: Job, ids: pl.Series, turns: pl.DataFrame) -> Ranked:
    scored = evol_scores(turns, job.settings.turns, job.settings.training_tokens)
    return rank_candidates(ids.to_frame().join(scored, on="id", how="left").sort("id"))


def _turn_ends(store: Store, job: Job, ids: pl.Series) -> pl.DataFrame:
    """Tokens of each conversation up to the end of each turn: id, turn, end."""
    samples = as_read(store.fetch(SAMPLES, "id", ids, ["id", "message_index"]), job.encoder.reasoning)
    counts = message_tokens(store, job.encoder, samples)
    tokens = pl.DataFrame({"counted": counts.keys(), "tokens": counts.values()}, schema=TOKENS)
    messages = indexed_messages(samples).with_columns(counted=pl.coalesce("full_id", "text_id"))
    messages = messages.join(tokens, on="counted", how="left", maintain_order="left")
    if lacking := messages["tokens"].null_count():
        raise StoreError(f"The store {store.uri} lacks the tokens of {lacking:,} texts; run the command again.")
    messages = messages.with_columns(end=pl.col("tokens").cum_sum().over("owner"))
    ends = turns_of(messages).filter(pl.col("role") == "assistant").group_by("owner", "turn").agg(pl.col("end").last())
    return ends.select(samples["id"].gather(ends["owner"]), "turn", "end")


def select(store: Store, job: Job) -> Chosen:
    """Scan the pool in rank order and write the fate of every distinct sample; returns counts of the fates."""
    ranked = rank_pool(store, job)
    threshold = find_threshold(store, job, ranked.candidates)
    scanned, rejected = _scan(store, job, ranked.candidates, threshold)
    decisions = _fates(ranked, scanned, rejected)
    _write_decisions(store, job.run_id, decisions)
    counted = dict(decisions.group_by("fate").len().iter_rows())
    fates = {fate: counted.get(fate, 0) for fate in ("selected", "near_duplicate", "over_budget", "rejected")}
    refined = len(decisions.filter(pl.col("refined") & pl.col("rank").is_not_null()))
    return Chosen(samples=len(decisions), threshold=threshold, refined=refined, **fates)


def find_threshold(store: Store, job: Job, candidates: pl.DataFrame) -> float:
    """The threshold of the settings; for auto, the smallest that fills the budget."""
    budget, threshold = job.settings.budget, job.settings.threshold
    if threshold != "auto":
        return threshold
    if budget is None or budget >= len(candidates):
        # Only all candidates together can fill it.
        return 1.0
    blocks = partial(candidate_vectors, store, job.encoder, candidates)
    return smallest_filling(blocks, budget, job.encoder.dim, len(candidates)).threshold


def _scan(store: Store, job: Job, candidates: pl.DataFrame, threshold: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The decisions of the greedy scan, and the candidates it rejected: id, reason."""
    selector = DiversitySelector(job.settings.budget, threshold, job.encoder.dim)
    frames = [selector.add_block([], np.zeros((0, job.encoder.dim), np.float32))]
    for ids, vectors in candidate_vectors(store, job.encoder, candidates):
        frames.append(selector.add_block(ids, vectors))
        if selector.full:
            break
    return pl.concat(frames), selector.rejected


def _fates(ranked: Ranked, scanned: pl.DataFrame, rejected: pl.DataFrame) -> pl.DataFrame:
    """The fate of every sample; samples neither scanned nor rejected are over budget."""
    rejected = pl.concat([rejected, ranked.unscored]).with_columns(pl.col("reason").replace_strict(REJECTED))
    samples = pl.concat([ranked.candidates.drop("position"), ranked.unscored.select("id")], how="diagonal")
    found = samples.join(scanned.drop("rank"), on="id", how="left", maintain_order="left").join(
        rejected, on="id", how="left", maintain_order="left"
    )
    duplicate = pl.format(
        "near-duplicate of {} (cosine {}), which ranks higher", "duplicate_of", pl.col("similarity").round(4)
    )
    fate = (
        pl.when(pl.col("reason").is_not_null()).then(pl.lit("rejected"))
        .when(pl.col("selected")).then(pl.lit("selected"))
        .when(pl.col("duplicate_of").is_not_null()).then(pl.lit("near_duplicate"))
        .otherwise(pl.lit("over_budget"))
    )  # fmt: skip
    found = found.with_columns(fate=fate)
    is_ranked = pl.col("fate") != "rejected"
    return found.with_columns(
        rank=pl.when(is_ranked).then(is_ranked.cum_sum()).cast(pl.Int64),
        reason=pl.when(pl.col("fate") == "near_duplicate").then(duplicate)
        .when(pl.col("fate") == "over_budget").then(pl.lit("the budget was full before its turn"))
        .otherwise("reason"),
    )  # fmt: skip


def candidate_vectors(
    store: Store, encoder: EncoderFiles, candidates: pl.DataFrame
) -> Iterator[tuple[list[str], np.ndarray]]:
    """The candidates' (id) conversation vectors, in order and in blocks: ids, (n, d) float32.

    A conversation's vector is the mean of its nonblank messages' vectors, weighted by their characters.
    """
    table = encoder_table(encoder)
    rows, places = store.row_ids(table, "text_id"), store.row_ids(SAMPLES, "id")
    for block in candidates.select("id").iter_slices(BLOCK):
        ids = block["id"].to_list()
        if encoder.kind == "causal":
            yield ids, store.vectors(table, ids, rows)
            continue
        samples = store.fetch(SAMPLES, "id", block["id"], ["id", "message_index"], places)
        samples = block.join(as_read(samples, encoder.reasoning), on="id", how="left", maintain_order="left")
        if lacking := samples["message_index"].null_count():
            raise StoreError(f"The store {store.uri} lacks {lacking:,} samples of the pool; run the command again.")
        yield ids, mean_vectors(store, encoder, samples, rows)


def _write_decisions(store: Store, run_id: str, decisions: pl.DataFrame) -> None:
    """Write a run's decisions, after deleting those of a failed attempt of the same run."""
    store.delete(DECISIONS, f"run_id = '{run_id}'")
    store.write(DECISIONS, decisions.with_columns(run_id=pl.lit(run_id)).select(DECISIONS.empty().columns))


def raw_values(store: Store, job: Job) -> pl.DataFrame:
    """The values of the job's scorers, means over the turns that count: id, `value_columns` of both axes, and REFINED.

    The last is what the scorer `refine` gave to the samples that it has ever scored, if there is such a scorer. The
    store keeps values by turn, and decisions only the scores.
    """
    names = [name for axis in AXES for name in value_columns(job.scorers(axis))]
    if not names and job.refine is None:
        return pl.DataFrame(schema={"id": pl.String})
    ids, turns = _pool_turns(store, job)
    if job.refine is not None:
        names.append(REFINED)
        turns = turns.join(
            own_values(store, job.refine, ids, REFINED).drop(f"{REFINED}_status"), on=["id", "turn"], how="left"
        )
    return evol_scores(turns, job.settings.turns, job.settings.training_tokens).select("id", *names)


def decisions_of(store: Store, job: Job, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The decisions of a run, one row per distinct sample, in rank order; those without a rank last, by id."""
    wanted = list(columns or (name for name in DECISIONS.empty().columns if name != "run_id"))
    ordered = list(dict.fromkeys([*wanted, "rank", "id"]))
    rows = store.read(DECISIONS, ordered, f"run_id = '{job.run_id}'")
    return rows.sort("rank", "id", nulls_last=True).select(wanted)


def with_nearest_selected(store: Store, job: Job, decisions: pl.DataFrame) -> pl.DataFrame:
    """Decisions with `nearest`, and `similarity` to it.

    `nearest`: `duplicate_of` of a near-duplicate; for a selected sample, the most similar one selected above it.
    """
    selected = decisions.filter(pl.col("fate") == "selected").select("id")
    blocks = [vectors for _, vectors in candidate_vectors(store, job.encoder, selected)]
    vectors = np.concatenate(blocks) if blocks else np.zeros((0, job.encoder.dim), np.float32)
    return with_nearest(decisions.with_columns(selected=pl.col("fate") == "selected"), vectors).drop("selected")
