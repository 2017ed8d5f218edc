"""Settings of what a selection ranks by, how it keeps rows apart, and its limits."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from deita_core.errors import InputError
from deita_core.literals import ClusterDraw, Diversity, Rank, Strategy
from deita_core.models.small_lm import SMALL_LM

SAMPLE_ID = re.compile(r"[0-9a-f]{32}")
STRATEGIES: dict[Strategy, tuple[Rank, Diversity]] = {
    "deita": ("evol", "threshold"),
    "random": ("random", "none"),
    "longest": ("longest", "none"),
    "kmq": ("evol", "clusters"),
    "mig": ("evol", "coverage"),
    "instag": ("instag", "tags"),
    "ifd": ("ifd", "none"),
    "wici": ("wici", "threshold"),
    "perplexity": ("perplexity", "none"),
    "rds": ("target", "none"),
}
Share = Annotated[float, Field(gt=0, le=1)]


def as_list(given: Any) -> Any:
    """One name, as an environment variable holds it, as a list of one."""
    return [given] if isinstance(given, str) else given


def _absolute(name: str) -> str:
    """A file as an absolute path, so that an update finds it from any folder; an id or a URL as it is."""
    return name if SAMPLE_ID.fullmatch(name) or "://" in name else str(Path(name).expanduser().absolute())


FileName = Annotated[str, Field(min_length=1), AfterValidator(_absolute)]
FileNames = Annotated[list[FileName], BeforeValidator(as_list)]


class Quotas(BaseModel):
    """Exact shares of the budget for some groups; the other groups share what is left."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: str = Field("source", min_length=1, description="As the setting per.")
    shares: dict[str, Share] = Field(min_length=1, description="The share of the budget of each group, above 0 to 1.")

    @model_validator(mode="after")
    def _fit_in_the_budget(self) -> "Quotas":
        if sum(self.shares.values()) > 1 + 1e-9:
            raise ValueError(f"the shares of quotas add up to {sum(self.shares.values()):.4g}, which is above 1")
        return self


class ChoiceSettings(BaseModel):
    """The order of the candidates, the rule of diversity, and the limits."""

    strategy: Strategy = Field("deita", description="A known pair of rank and diversity, which override it.")
    rank: Rank = Field("evol", description="What the conversations are ranked by.")
    diversity: Diversity = Field("threshold", description="The rule that keeps the selected ones apart.")
    seed: int = Field(0, ge=0, description="Seed of the random order, of clusters and of draws.")
    clusters: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Number of clusters; none: a tenth of the rows to select."
    )
    cluster_draw: ClusterDraw = Field(
        "score", description="Rows of a cluster: drawn in proportion to their score, or the best."
    )
    tags_field: str | None = Field(
        None, min_length=1, description="A field of the rows with their tags, for mig and instag."
    )
    rank_model: str = Field(
        SMALL_LM,
        min_length=1,
        description="The causal language model of perplexity, ifd and wici: a folder, smollm2-135m, or a hub name.",
    )
    like: FileName | None = Field(None, description="A file of examples of the tasks one wants, for the rank target.")
    like_task: str = Field("task", min_length=1, description="The field of the examples that names their task.")
    like_weight: float = Field(
        1.0, ge=0, le=1, description="Weight of the likeness to the examples; the rest is the weight of evol."
    )
    token_budget: Annotated[int, Field(ge=1)] | None = Field(
        None, description="How many training tokens to select; none: no limit."
    )
    tokenizer: str | None = Field(
        None,
        description="What counts tokens: the model to train, a hub name or a folder; none: the encoder's tokenizer.",
    )
    per: str | None = Field(
        None,
        min_length=1,
        description="What cap and floor are of: source, layout, turns, language, cluster, or a field of the rows.",
    )
    cap: Share | None = Field(None, description="Largest share of the budget that a group may have.")
    floor: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Rows that each group has at least; they are taken first."
    )
    quotas: Quotas | None = Field(
        None, description="Exact shares of the budget, such as {by: source, shares: {a: 0.3}}."
    )
    keep: FileNames = Field([], description="Ids, or files of ids or rows, that are always selected.")
    drop: FileNames = Field([], description="Ids, or files of ids or rows, that are never selected.")
    exclude: FileNames = Field(
        [], description="Files of benchmark questions or held-out rows; what holds one of them is not selected."
    )
    exclude_similarity: Share | None = Field(
        None, description="Cosine to a question of exclude from which on a row counts; none: only words in common do."
    )

    @property
    def grouped_by(self) -> str | None:
        """What the groups of cap, floor or quotas are, if there are any."""
        if self.quotas is not None:
            return self.quotas.by
        return (self.per or "source") if self.cap or self.floor else None

    @property
    def needs_tokens(self) -> bool:
        """True if the tokens of every conversation have to be known."""
        return self.token_budget is not None or self.rank == "longest"

    @property
    def needs_rank_model(self) -> bool:
        """True if the order is one by the likelihood of answers."""
        return self.rank in ("perplexity", "ifd", "wici")

    @property
    def examples_file(self) -> str | None:
        """The file of examples, if the order compares with them."""
        return self.like if self.rank == "target" else None


def with_strategy(given: dict[str, Any]) -> dict[str, Any]:
    """Settings with the rank and the diversity of their strategy, where these are not given themselves.

    Examples of a task without a strategy and a rank are for the rank target.
    """
    strategy = given.get("strategy")
    if given.get("like") and strategy is None:
        given = {"rank": "target", **given}
    if not isinstance(strategy, str) or strategy not in STRATEGIES:
        return given
    rank, diversity = STRATEGIES[strategy]
    return {"rank": rank, "diversity": diversity, **given}


def check_choice(settings: ChoiceSettings, budget: int | None, threshold: float | str, refine: str | None) -> None:
    """Raise InputError for settings that contradict each other."""
    limited = settings.token_budget or settings.grouped_by or settings.keep
    if threshold == "auto" and (limited or settings.diversity != "threshold"):
        raise InputError(
            "Threshold auto looks for what fills a budget of rows, and not beside a token budget, quotas, rows to keep "
            "or another diversity; give a threshold."
        )
    if settings.per and not (settings.cap or settings.floor):
        raise InputError(f"Per {settings.per} says what the groups are; give a cap or a floor as well.")
    if settings.quotas and (settings.per or settings.cap or settings.floor):
        raise InputError("Quotas give exact shares; give either them or per, cap and floor.")
    if settings.exclude_similarity and not settings.exclude:
        raise InputError("Exclude-similarity compares rows with the questions of exclude; give a file of them as well.")
    if (settings.cap or settings.quotas) and not (budget or settings.token_budget):
        raise InputError("A share is one of the budget; give a budget or a token budget as well.")
    if settings.diversity in ("clusters", "coverage") and not (budget or settings.token_budget):
        raise InputError(f"Diversity {settings.diversity} divides a budget; give a budget or a token budget as well.")
    if refine is not None and settings.rank not in ("evol", "quality"):
        raise InputError(f"The scorer of refine gives quality, not {settings.rank}; rank by evol or quality.")
    if settings.rank != "target" and settings.like is not None:
        raise InputError(f"The rank {settings.rank} reads no examples; leave like out, or rank by target.")
    if settings.rank == "target" and settings.like is None:
        raise InputError("Rank target compares with examples of the tasks one wants; give a file of them: like.")
    if (settings.rank == "instag" or settings.diversity == "tags") and settings.tags_field is None:
        raise InputError(
            "Rank instag and diversity tags read the rows' tags; name the field that holds them: tags_field."
        )
