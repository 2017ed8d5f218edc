"""Selects samples of the pool: the ranking, the choice, and the fate of every sample."""

from collections.abc import Sequence

import polars as pl
from pydantic import BaseModel

from deita_core.literals import FATES, LEFT_OUT
from deita_core.selection import with_nearest
from deita_core.stages.candidates import all_vectors
from deita_core.stages.choosing import Choice, choose
from deita_core.stages.job import Job
from deita_core.stages.ranking import RankedPool, rank_pool
from deita_core.store import Store
from deita_core.tables import DECISIONS

# Why a candidate was rejected, by the code of the scan.
REJECTED = {"zero_vector": "its vector is zero", "vector_not_finite": "its vector is not finite"}


class Chosen(BaseModel):
    """Counts of distinct samples by fate, the threshold used, and how many of the first ranks `refine` decided.

    `lacking`: rows that a group has less than its floor, by name. `tokens`: of the selected samples, if a budget in
    tokens asked for them.
    """

    samples: int
    selected: int
    near_duplicate: int
    redundant: int = 0
    over_quota: int = 0
    over_budget: int
    filtered: int = 0
    contaminated: int = 0
    rejected: int
    threshold: float
    refined: int = 0
    lacking: dict[str, int] = {}
    tokens: int | None = None


def select(store: Store, job: Job) -> Chosen:
    """Choose from the ranked pool and write the fate of every distinct sample; returns counts of the fates."""
    ranked = rank_pool(store, job)
    choice = choose(store, job, ranked.candidates)
    decisions = _fates(ranked, choice)
    _write_decisions(store, job.run_id, decisions)
    counted = dict(decisions.group_by("fate").len().iter_rows())
    refined = len(decisions.filter(pl.col("refined") & pl.col("rank").is_not_null()))
    return Chosen(
        samples=len(decisions),
        threshold=choice.threshold,
        refined=refined,
        lacking=choice.lacking,
        tokens=choice.tokens,
        **{fate: counted.get(fate, 0) for fate in FATES},
    )


def _fates(ranked: RankedPool, choice: Choice) -> pl.DataFrame:
    """The fate of every sample in rank order; candidates that the choice says nothing of were not taken."""
    rejected = choice.rejected.select("id", pl.lit("rejected").alias("fate"), pl.col("reason").replace_strict(REJECTED))
    decided = pl.concat([rejected, choice.refused, ranked.unranked])
    samples = pl.concat([ranked.candidates, ranked.unranked.select("id")], how="diagonal")
    found = samples.join(choice.scanned, on="id", how="left", maintain_order="left").join(
        decided, on="id", how="left", maintain_order="left"
    )
    fate = (
        pl.when(pl.col("selected")).then(pl.lit("selected"))
        .when(pl.col("duplicate_of").is_not_null()).then(pl.lit("near_duplicate"))
        .otherwise(pl.coalesce("fate", pl.lit("over_budget")))
    )  # fmt: skip
    found = found.with_columns(fate=fate)
    is_ranked = ~pl.col("fate").is_in(LEFT_OUT)
    found = found.with_columns(rank=pl.when(is_ranked).then(is_ranked.cum_sum()).cast(pl.Int64))
    above = found.select(duplicate_of="id", rank_above="rank")
    found = found.join(above, on="duplicate_of", how="left", maintain_order="left")
    # A row that was kept, or taken for the floor of its group, may rank lower.
    order = pl.when(pl.col("rank_above") < pl.col("rank")).then(pl.lit("ranks higher"))
    duplicate = pl.format(
        "near-duplicate of {} (cosine {}), which {}",
        "duplicate_of",
        pl.col("similarity").round(4),
        order.otherwise(pl.lit("was taken before it")),
    )
    return found.with_columns(
        reason=pl.when(pl.col("fate") == "near_duplicate").then(duplicate)
        .when((pl.col("fate") == "over_budget") & pl.col("reason").is_null()).then(pl.lit(choice.not_taken))
        .when(pl.col("fate") != "selected").then("reason"),
    )  # fmt: skip


def _write_decisions(store: Store, run_id: str, decisions: pl.DataFrame) -> None:
    """Write a run's decisions, after deleting those of a failed attempt of the same run."""
    rows = decisions.with_columns(run_id=pl.lit(run_id)).select(DECISIONS.empty().columns)
    store.replace(DECISIONS, f"run_id = '{run_id}'", rows)


def decisions_of(
    store: Store, job: Job, columns: Sequence[str] | None = None, where: str | None = None
) -> pl.DataFrame:
    """The decisions of a run, one row per distinct sample, in rank order; those without a rank last, by id.

    `where`: an SQL condition that they meet.
    """
    wanted = list(columns or (name for name in DECISIONS.empty().columns if name != "run_id"))
    ordered = list(dict.fromkeys([*wanted, "rank", "id"]))
    condition = f"run_id = '{job.run_id}'" + (f" AND {where}" if where else "")
    rows = store.read(DECISIONS, ordered, condition)
    return rows.sort("rank", "id", nulls_last=True).select(wanted)


def with_nearest_selected(store: Store, job: Job, decisions: pl.DataFrame) -> pl.DataFrame:
    """Decisions with `nearest`, and `similarity` to it.

    `nearest`: `duplicate_of` of a near-duplicate; for a selected sample, the most similar one selected above it.
    """
    selected = decisions.filter(pl.col("fate") == "selected").select("id")
    vectors = all_vectors(store, job.encoder, selected)
    return with_nearest(decisions.with_columns(selected=pl.col("fate") == "selected"), vectors).drop("selected")
