"""Settings of a proof: which subsets are compared, and how a model is fine-tuned on each."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from deita_core.alignment.settings import SftSettings
from deita_core.config.choice import STRATEGIES
from deita_core.config.settings import SelectionSettings
from deita_core.literals import Rival
from deita_core.models.fine_tuning import FineTuning

# The subset that is proven, and the model before any training.
DEITA: Literal["deita"] = "deita"
BASE = "base"
ArmName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,40}$")]


class ProofSettings(SelectionSettings):
    """Settings of a selection and of its proof. All other subsets are filled to the selection's training tokens."""

    base_model: str = Field(
        min_length=1, description="Causal LM to start from: a folder, smollm2-135m, or a name on the hub."
    )
    chat_template: str | None = Field(
        None, description="vicuna, chatml, or a file with a template; none: the model's own."
    )
    heldout: str = Field(min_length=1, description="File of good answers, on which each model is measured.")
    weaker: str | None = Field(None, description="File of weaker answers to the same instructions.")
    against: list[Rival] = Field(["random", "longest"], description="The subsets to compare with.")
    arms: dict[ArmName, str] = Field({}, description="More subsets: a name, and a file or a selection's folder.")
    seeds: int = Field(3, ge=1, le=100, description="Times each subset is trained on, each with a seed of its own.")
    token_budget: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Training tokens of each subset; none: those of the selection's budget of rows."
    )
    training: FineTuning = Field(FineTuning(), description="The fine-tuning; its seed is that of the first training.")

    @model_validator(mode="after")
    def _arms_can_be_compared(self) -> "ProofSettings":
        if self.budget is None and self.token_budget is None:
            raise ValueError("give a budget, of rows or of tokens")
        if (self.rank, self.diversity) != STRATEGIES[DEITA] or self.grouped_by or self.keep:
            raise ValueError(
                "the arm deita ranks by evol and keeps a threshold, without quotas and rows to keep; select otherwise "
                "with deita select, and give that folder as an arm"
            )
        if not self.names[1:]:
            raise ValueError("there is nothing to compare with; name a rival or an arm")
        if len(set(self.names)) < len(self.names) or BASE in self.names:
            raise ValueError(f"two arms have one name, or the name {BASE}; give each a name of its own")
        if "full" in self.against and self.training.epochs == 1:
            raise ValueError("with one epoch, full has as many rows of the pool as random; leave it out")
        return self

    @property
    def selection(self) -> SelectionSettings:
        """The settings of the selection alone; the budget in tokens is one of all subsets."""
        given = self.model_dump(include=set(SelectionSettings.model_fields), exclude={"token_budget"})
        return SelectionSettings(**given)

    @property
    def names(self) -> list[str]:
        """The names of all arms, that of the selection first."""
        return [DEITA, *self.against, *self.arms]

    @property
    def all_seeds(self) -> range:
        """The seeds of the trainings."""
        return range(self.training.seed, self.training.seed + self.seeds)

    def fine_tuning(self, **changes: Any) -> SftSettings:
        """The settings of one training."""
        given = self.training.model_dump() | changes
        return SftSettings(base_model=self.base_model, chat_template=self.chat_template, **given)
