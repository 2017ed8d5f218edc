"""Measures how consistently a judge ranks the same variants in two different orders."""

import polars as pl
from pydantic import BaseModel, ConfigDict

from deita_core.scorers.training.metrics import rounded

# Below this rank correlation, a judge's repeated rankings agree little more than by chance.
NOISY = 0.6


class Audit(BaseModel):
    """Agreement between two rankings of the same chains.

    `spearman`: mean rank correlation within a chain, -1 to 1; `pairs_alike`: share of pairs of a chain with the same
    order, or tied, in both; `same`: share of equal scores; `difference`: mean absolute difference of scores; `place`:
    rank correlation between a score and the position at which the text was shown, 0 for a judge without position bias.
    Null if undefined.
    """

    model_config = ConfigDict(frozen=True)

    chains: int
    spearman: float | None
    pairs_alike: float | None
    same: float | None
    difference: float | None
    place: float | None

    @property
    def is_noisy(self) -> bool:
        """Whether the scores carry little more than chance."""
        return self.spearman is None or self.spearman < NOISY


def audit(first: pl.DataFrame, second: pl.DataFrame) -> Audit | None:
    """Compare a judge's two rankings (chain, step, shown, score); None if they share no scored variant."""
    both = first.join(second, on=["chain", "step"], suffix="_again").drop_nulls(["score", "score_again"])
    if both.is_empty():
        return None
    gap = (pl.col("score") - pl.col("score_again")).abs()
    within = both.group_by("chain").agg(rho=pl.corr("score", "score_again", method="spearman"))["rho"]
    pairs = both.join(both, on="chain", suffix="_other").filter(pl.col("step") < pl.col("step_other"))
    order = (pl.col("score") - pl.col("score_other")).sign()
    order_again = (pl.col("score_again") - pl.col("score_again_other")).sign()
    shown = pl.concat([both.select("shown", "score"), both.select(shown="shown_again", score="score_again")])
    return Audit(
        chains=both["chain"].n_unique(),
        spearman=rounded(within.filter(within.is_finite()).mean()),
        pairs_alike=rounded(pairs.select((order == order_again).mean()).item()),
        same=rounded(both.select((gap == 0).mean()).item()),
        difference=rounded(both.select(gap.mean()).item()),
        place=rounded(shown.select(pl.corr("shown", "score", method="spearman")).item()),
    )
