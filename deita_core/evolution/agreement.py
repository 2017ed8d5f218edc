"""How far a judge agrees with itself when it sees the same variants in another order."""

import polars as pl
from pydantic import BaseModel, ConfigDict

from deita_core.scorers.training.metrics import rounded

# Below this a judge puts the variants of a chain in much the same order only by luck.
NOISY = 0.6


class Audit(BaseModel):
    """Agreement of two rankings of the same chains.

    `spearman`: mean rank correlation within a chain, -1 to 1; `pairs_alike`: share of pairs of a chain put in the same
    order, or tied, both times; `same`: share of equal scores; `difference`: mean absolute difference of scores;
    `place`: rank correlation of a score with the place at which the text was shown, 0 for a judge who ignores it.
    Null where nothing can be said.
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
        """True where the scores say little more than chance."""
        return self.spearman is None or self.spearman < NOISY


def audit(first: pl.DataFrame, second: pl.DataFrame) -> Audit | None:
    """Compare rankings (chain, step, shown, score) of a judge with a second round of them; None without common ones."""
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
