"""Score-first, diversity-aware selection (paper, section 2.4): rank by score, skip near-duplicates of better ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from deita_core.errors import InputError
from deita_core.selection.nearest import nearest_selected, with_nearest
from deita_core.selection.selector import DiversitySelector

__all__ = [
    "DiversitySelector",
    "Selection",
    "nearest_selected",
    "rank_candidates",
    "select_diverse",
    "with_nearest",
]

BLOCK = 4_096


@dataclass(frozen=True)
class Selection:
    """The result of a selection.

    `indices` (m,) int64: positions of the selected candidates, in rank order. `decisions`: one row per candidate
    scanned, in rank order, with id, rank, score, selected, duplicate_of, nearest and similarity. `rejected`: id and
    reason of candidates without a finite score or a valid vector. `over_budget`: ids ranked after the candidate that
    filled the budget, in rank order.
    """

    indices: np.ndarray
    decisions: pl.DataFrame
    rejected: pl.DataFrame
    over_budget: pl.Series

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
            return f"{id_} was not compared: the budget was full before its turn."
        raise InputError(f"There is no candidate {id_}; give an id of the pool.")


def _fate(row: dict[str, object]) -> str:
    if not row["selected"]:
        return f"is a near-duplicate of {row['duplicate_of']}, which ranks higher (similarity {row['similarity']:.4f})"
    if row["nearest"] is None:
        return "was selected first"
    return f"was selected; the most similar one above it is {row['nearest']} (similarity {row['similarity']:.4f})"


def select_diverse(
    vectors: np.ndarray,
    scores: np.ndarray,
    *,
    budget: int | None = None,
    threshold: float = 0.9,
    ids: Sequence[str] | None = None,
) -> Selection:
    """Select up to `budget` candidates, best score first, skipping near-duplicates: similarity above `threshold`.

    vectors (n, d) float32 or float16, not necessarily normalized; scores (n,); ids: n unique strings, by default the
    zero-padded positions. Among equal scores the smaller id is first. Raises InputError for inconsistent arguments.
    """
    vectors, scores = np.asarray(vectors), np.asarray(scores)
    width = len(str(max(len(vectors) - 1, 0)))
    names = [f"{i:0{width}d}" for i in range(len(vectors))] if ids is None else list(ids)
    _check(vectors, scores, names)
    ranked = rank_candidates(
        pl.DataFrame({"id": names, "score": scores.astype(np.float64)}, schema={"id": pl.String, "score": pl.Float64})
    )
    order = ranked.candidates["position"].to_numpy()
    selector = DiversitySelector(budget, threshold, vectors.shape[1])
    frames = [selector.add_block([], vectors[:0])]
    read = 0
    while read < len(order) and not selector.full:
        block = order[read : read + BLOCK]
        frames.append(selector.add_block([names[i] for i in block], vectors[block]))
        read += len(block)
    decisions = with_nearest(pl.concat(frames), selector.selected)
    decisions = decisions.join(ranked.candidates, on="id", how="left", maintain_order="left")
    columns = ["id", "rank", "score", "selected", "duplicate_of", "nearest", "similarity"]
    decided = pl.concat([decisions["id"], selector.rejected["id"]])
    return Selection(
        indices=decisions.filter("selected")["position"].to_numpy(),
        decisions=decisions.select(columns),
        rejected=pl.concat([ranked.unscored, selector.rejected]),
        over_budget=ranked.candidates.filter(~pl.col("id").is_in(decided.implode()))["id"],
    )


def _check(vectors: np.ndarray, scores: np.ndarray, ids: list[str]) -> None:
    if vectors.ndim != 2 or vectors.dtype not in (np.float32, np.float16):
        raise InputError(f"The vectors are {vectors.dtype} of shape {vectors.shape}; give (n, d) float32 or float16.")
    if scores.ndim != 1:
        raise InputError(f"The scores have the shape {scores.shape}; give one number for each vector.")
    if len(scores) != len(vectors) or len(ids) != len(vectors):
        raise InputError(
            f"There are {len(vectors)} vectors, {len(scores)} scores and {len(ids)} ids; give one of each."
        )
    if len(set(ids)) != len(ids):
        raise InputError("The ids are not unique; give each candidate its own.")


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
