"""Reads the scores of a pool's turns from the store, all on the scale from 1 to 6."""

from collections.abc import Sequence

import polars as pl

from deita_core.scorers import ScorerFiles
from deita_core.selection.quantiles import quantile_scores
from deita_core.store import Store
from deita_core.tables import scores_table


def turn_scores(store: Store, scorer: ScorerFiles, ids: Sequence[str] | pl.Series) -> pl.DataFrame:
    """The scores of all turns of a pool's samples: id, turn, score (1 to 6, null if unreadable), status.

    A scorer with a scale of its own has its values as `raw` as well, and its scores are their `quantile_scores` among
    the turns of these samples, each conversation counted once.
    """
    scores = store.fetch(scores_table(scorer.slug), "id", ids)
    return scores.with_columns(score=quantile_scores("raw")) if scorer.raw else scores
