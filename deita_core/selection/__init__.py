"""Selection: an order of candidates by score, and a rule of diversity (paper, section 2.4)."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from deita_core.errors import InputError
from deita_core.selection.diversity.clusters import select_clusters
from deita_core.selection.diversity.coverage import select_coverage
from deita_core.selection.nearest import nearest_selected, with_nearest
from deita_core.selection.results import Ranked, Selection, named_and_ranked, rank_candidates
from deita_core.selection.selector import DiversitySelector

__all__ = [
    "DiversitySelector",
    "Ranked",
    "Selection",
    "nearest_selected",
    "rank_candidates",
    "select_clusters",
    "select_coverage",
    "select_diverse",
    "with_nearest",
]

BLOCK = 4_096


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
    if vectors.ndim != 2 or vectors.dtype not in (np.float32, np.float16):
        raise InputError(f"The vectors are {vectors.dtype} of shape {vectors.shape}; give (n, d) float32 or float16.")
    if scores.ndim == 1 and len(scores) != len(vectors):
        raise InputError(f"There are {len(vectors)} vectors, {len(scores)} scores; give one of each.")
    names, ranked = named_and_ranked(scores, ids)
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
