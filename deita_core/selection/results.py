"""The result of a selection, and the ranking of candidates by score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from deita_core.errors import InputError
from deita_core.selection.limits import Limits, Rule


@dataclass(frozen=True)
class Selection:
    """The result of a selection.

    `indices` (m,) int64: positions of the selected candidates, in rank order. `decisions`: one row per candidate
    scanned, in rank order, with id, rank, score, selected, duplicate_of, nearest and similarity. `rejected`: id and
    reason of candidates without a finite score or a valid vector. `over_budget`: ids of all others, in rank order, and
    `why_over_budget` the reason.
    """

    indices: np.ndarray
    decisions: pl.DataFrame
    rejected: pl.DataFrame
    over_budget: pl.Series
    why_over_budget: str = "was not compared: the budget was full before its turn"

    @property
    def ids(self) -> list[str]:
        """Ids of the selected candidates, in rank order."""
        return self.decisions.filter("selected")["id"].to_list()

    def explain(self, id_: str) -> str:
        """One sentence with a candidate's fate and the reason. Raises InputError for an id that is not in the pool."""
        for row in self.decisions.filter(pl.col("id") == id_).iter_rows(named=True):
            return f"{id_} has rank {row['rank']:,} (score {row['score']:.4g}) and {_fate(row)}."
        for (reason,) in self.rejected.filter(pl.col("id") == id_).select("reason").iter_rows():
            return f"{id_} was rejected: {reason}."
        if (self.over_budget == id_).any():
            return f"{id_} {self.why_over_budget}."
        raise InputError(f"There is no candidate {id_}; give an id of the pool.")


def _fate(row: dict[str, object]) -> str:
    if not row["selected"]:
        return f"is a near-duplicate of {row['duplicate_of']}, which ranks higher (similarity {row['similarity']:.4f})"
    if row["nearest"] is None:
        return "was selected first" if row["rank"] == 1 else "was selected"
    return f"was selected; the most similar one above it is {row['nearest']} (similarity {row['similarity']:.4f})"


def selection_of(
    scores: np.ndarray,
    ids: Sequence[str] | None,
    budget: int,
    make_rule: Callable[[np.ndarray, np.ndarray, Limits], Rule],
    why_over_budget: str,
    in_rank_order: bool = True,
) -> Selection:
    """The result of a rule that compares no vectors.

    `make_rule` gets the positions of the candidates in rank order, the place of each of these by id, and the limits.
    Those selected are put in rank order unless their own order is that of the result. Raises InputError for
    inconsistent arguments.
    """
    limits, scores = Limits(budget), np.asarray(scores)
    names, ranked = named_and_ranked(scores, ids)
    candidates = ranked.candidates
    order = candidates["position"].to_numpy()
    limits.fill(len(order), make_rule(order, places_by_id(candidates["id"]), limits))
    selected = np.array(limits.selected, np.int64)
    picked = order[np.sort(selected) if in_rank_order else selected]
    no_other = [pl.lit(None, kind).alias(name) for name, kind in (("duplicate_of", pl.String), ("nearest", pl.String))]
    decisions = pl.DataFrame(
        {
            "id": [names[i] for i in picked.tolist()],
            "rank": np.arange(1, len(picked) + 1),
            "score": scores[picked].astype(np.float64),
        },
        schema={"id": pl.String, "rank": pl.Int64, "score": pl.Float64},
    ).with_columns(pl.lit(True).alias("selected"), *no_other, pl.lit(None, pl.Float64).alias("similarity"))
    return Selection(
        indices=picked,
        decisions=decisions,
        rejected=ranked.unscored,
        over_budget=candidates.filter(~pl.col("id").is_in(decisions["id"].implode()))["id"],
        why_over_budget=why_over_budget,
    )


def places_by_id(ids: pl.Series) -> np.ndarray:
    """The place (n,) of each id among the sorted ids."""
    return (ids.rank("ordinal") - 1).cast(pl.Int64).to_numpy()


def named_and_ranked(scores: np.ndarray, ids: Sequence[str] | None) -> tuple[list[str], "Ranked"]:
    """The ids of the candidates, by default their positions, and their order."""
    if scores.ndim != 1:
        raise InputError(f"The scores have the shape {scores.shape}; give one number for each candidate.")
    width = len(str(max(len(scores) - 1, 0)))
    names = [f"{i:0{width}d}" for i in range(len(scores))] if ids is None else list(ids)
    if len(names) != len(scores):
        raise InputError(f"There are {len(scores)} scores and {len(names)} ids; give one of each.")
    if len(set(names)) != len(names):
        raise InputError("The ids are not unique; give each candidate its own.")
    frame = pl.DataFrame(
        {"id": names, "score": scores.astype(np.float64)}, schema={"id": pl.String, "score": pl.Float64}
    )
    return names, rank_candidates(frame)


@dataclass(frozen=True)
class Ranked:
    """Candidates in rank order (id, score, position), and those without a finite score (id, reason)."""

    candidates: pl.DataFrame
    unscored: pl.DataFrame


def rank_candidates(scored: pl.DataFrame) -> Ranked:
    """Order candidates by score descending, then id ascending; the result does not depend on the input order.

    `scored` has id and score; other columns are kept, and `position` is added.
    """
    scored = scored.with_row_index("position").with_columns(pl.col("position").cast(pl.Int64))
    finite = pl.col("score").is_finite().fill_null(False)
    candidates = scored.filter(finite).sort(["score", "id"], descending=[True, False])
    unscored = scored.filter(~finite).select("id", reason=pl.lit("score_not_finite"))
    return Ranked(candidates, unscored)
