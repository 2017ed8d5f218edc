"""Settings of a comparison of strategies: which are compared, and how often those that draw are repeated."""

from pydantic import Field, model_validator

from deita_core.config.choice import STRATEGIES
from deita_core.config.settings import SelectionSettings
from deita_core.literals import Strategy

# Strategies whose rows depend on the seed.
DRAWN: tuple[Strategy, ...] = ("random", "kmq", "mig")


class ComparisonSettings(SelectionSettings):
    """Settings of a selection that is made with several strategies."""

    strategies: list[Strategy] = Field(
        ["deita", "random", "longest", "kmq", "mig"], min_length=1, description="The strategies to compare."
    )
    seeds: int = Field(3, ge=1, le=100, description="Times a strategy that draws is repeated, with seeds of its own.")
    truth: str | None = Field(
        None, min_length=1, description="A field of the rows that says how good or of what kind they are."
    )

    @model_validator(mode="after")
    def _can_be_compared(self) -> "ComparisonSettings":
        if self.budget is None and self.token_budget is None:
            raise ValueError("give a budget, of rows or of tokens")
        if len(set(self.strategies)) < len(self.strategies):
            raise ValueError("a strategy is named twice; name each once")
        return self

    @property
    def runs(self) -> list[tuple[Strategy, int]]:
        """Each strategy with each of its seeds."""
        seeds = range(self.seed, self.seed + self.seeds)
        return [(name, seed) for name in self.strategies for seed in (seeds if name in DRAWN else seeds[:1])]

    def selection(self, strategy: Strategy, seed: int) -> SelectionSettings:
        """The settings of one selection; only the first of a strategy has a report."""
        given = self.model_dump(
            include=set(SelectionSettings.model_fields), exclude={"strategy", "rank", "diversity", "seed", "report"}
        )
        if STRATEGIES[strategy][0] != "target":
            given["like"] = None
        report = self.report and seed == self.seed
        return SelectionSettings(**given, strategy=strategy, seed=seed, report=report)
