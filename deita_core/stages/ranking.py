"""Ranks the pool: what is left out, the order of the rest, and the best again by the scorer `refine`."""

from typing import NamedTuple

import polars as pl

from deita_core.errors import StoreError
from deita_core.literals import AXES
from deita_core.selection import rank_candidates
from deita_core.selection.orders.evol import evol_scores
from deita_core.stages.encoding import message_tokens
from deita_core.stages.ingest import pool_ids
from deita_core.stages.job import Job
from deita_core.stages.leaving_out import left_out
from deita_core.stages.ordering import order_values
from deita_core.stages.targets import has_examples
from deita_core.stages.turn_scores import own_values, turn_scores, value_columns
from deita_core.stages.turns import as_read, indexed_messages, turns_of
from deita_core.store import Store
from deita_core.tables import SAMPLES

# The column of what the scorer `refine` gave.
REFINED = "quality_refined"
TOKENS = {"counted": pl.String, "tokens": pl.Int64}


class RankedPool(NamedTuple):
    """A pool's candidates in rank order, and the samples without a rank: id, fate, reason."""

    candidates: pl.DataFrame
    unranked: pl.DataFrame


def rank_pool(store: Store, job: Job) -> RankedPool:
    """The pool's distinct samples in rank order: id, score, complexity, quality, n_scored, refined.

    `score` is the value that the job ranks by. `refined`: the scorer `refine` gave the quality. These samples rank by
    their new scores; the rest follows in its old order, with its old scores.
    """
    ids, turns = _pool_turns(store, job)
    ranked = _ranked(store, job, ids, turns)
    if job.refine is None:
        return _with_refined(ranked.candidates.clear(), ranked)
    best = to_refine(job, ranked)
    slow = turn_scores(store, [job.refine], best).select("id", "turn", "quality")
    again = turns.filter(pl.col("id").is_in(best.implode())).drop("quality")
    # A sample that the slow scorer cannot read has no new score, and so keeps its old place among the rest.
    refined = _ordered(store, job, _scored(job, best.sort(), again.join(slow, on=["id", "turn"], how="left")))
    return _with_refined(refined.candidates.select(ranked.candidates.columns), ranked)


def best_to_refine(store: Store, job: Job) -> pl.Series:
    """The ids of `to_refine`, before any of them is scored again."""
    return to_refine(job, _ranked(store, job, *_pool_turns(store, job)))


def to_refine(job: Job, ranked: RankedPool) -> pl.Series:
    """The ids of the best samples of a ranking: `refine_factor` times the budget."""
    return ranked.candidates["id"].head(job.settings.refine_factor * (job.settings.budget or 0))


def _with_refined(refined: pl.DataFrame, ranked: RankedPool) -> RankedPool:
    """Candidates with those that are refined first."""
    rest = ranked.candidates.join(refined.select("id"), on="id", how="anti", maintain_order="left")
    marked = (frame.with_columns(refined=pl.lit(value)) for frame, value in ((refined, True), (rest, False)))
    return RankedPool(pl.concat(marked), ranked.unranked)


def _ranked(store: Store, job: Job, ids: pl.Series, turns: pl.DataFrame) -> RankedPool:
    kept, out = _not_left_out(store, job, ids, turns)
    ranked = _ordered(store, job, kept)
    return RankedPool(ranked.candidates, pl.concat([ranked.unranked, out]))


def _not_left_out(
    store: Store, job: Job, ids: pl.Series, turns: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:  # fmt: skip
    """The scores of the samples that are not left out, and those that are, as `left_out` returns them; by id."""
    scored = _scored(job, ids, turns)
    out = left_out(store, job, scored)
    return (scored.join(out, on="id", how="anti", maintain_order="left") if len(out) else scored), out


def _scored(job: Job, ids: pl.Series, turns: pl.DataFrame) -> pl.DataFrame:
    scored = evol_scores(turns, job.settings.turns, job.settings.training_tokens)
    return ids.rename("id").to_frame().join(scored, on="id", how="left", maintain_order="left")


def _ordered(store: Store, job: Job, scored: pl.DataFrame) -> RankedPool:
    ordered = order_values(store, job, scored)
    ranked = rank_candidates(ordered.drop("fate", "reason", strict=False))
    columns = (name for name in ("fate", "reason") if name in ordered.columns)
    unranked = ranked.unscored.select("id").join(ordered.select("id", *columns), on="id", maintain_order="left")
    unranked = unranked.select(
        "id",
        fate="fate" if "fate" in unranked.columns else pl.lit("rejected"),
        reason="reason" if "reason" in unranked.columns else pl.lit("a turn has no readable score"),
    )
    return RankedPool(ranked.candidates.drop("position"), unranked)


def _pool_turns(store: Store, job: Job) -> tuple[pl.Series, pl.DataFrame]:
    """The ids of the pool's samples, sorted, and their turns as `evol_scores` reads them, with scorers' values."""
    ids = pool_ids(store, job.file_ids)
    complexity, quality = (turn_scores(store, job.scorers(axis), ids).drop(f"{axis}_status") for axis in AXES)
    turns = complexity.join(quality, on=["id", "turn"], how="full", coalesce=True)
    if job.settings.turns != "fit":
        return ids, turns.with_columns(end=pl.lit(0))
    samples = store.fetch(SAMPLES, "id", ids, ["id", "n_turns"])
    ends = _turn_ends(store, job, samples.filter(pl.col("n_turns") > 1)["id"])
    return ids, turns.join(ends, on=["id", "turn"], how="left").with_columns(pl.col("end").fill_null(0))


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


def ordered_ids(store: Store, job: Job) -> pl.Series:
    """The ids of the samples that are not left out, sorted: those that an order needs values of."""
    ids, turns = _pool_turns(store, job)
    return _not_left_out(store, job, ids, turns)[0]["id"]


def order_columns(store: Store, job: Job, decisions: pl.DataFrame) -> pl.DataFrame:
    """The values of the order's own of a run's samples (id, score): id, and a column for each.

    perplexity; ifd, also of those filtered by it; influence; tags, their number; likeness and task, unless the examples
    are gone from beside the store.
    """
    names = {"perplexity": "perplexity", "wici": "influence", "instag": "tags"}
    rank = job.settings.rank
    if rank in names:
        return decisions.select("id", pl.col("score").alias(names[rank]))
    can_compare = job.examples is not None and has_examples(store, job.encoder, job.examples)
    if rank != "ifd" and not can_compare:
        return decisions.select("id")
    scored, _ = _not_left_out(store, job, *_pool_turns(store, job))
    columns = ["ifd"] if rank == "ifd" else ["likeness", "task"]
    return order_values(store, job, scored).select("id", *columns)
