"""Settings of supervised fine-tuning and of preference optimisation, and the presets of both."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from deita_core.literals import AlignmentPreset
from deita_core.models.fine_tuning import FineTuning

# The settings that the paper's models were trained with: sections 3 and 4, and the released training scripts.
PAPER_SFT: dict[str, Any] = {
    "method": "full",
    "epochs": 6,
    "batch": 512,
    "learning_rate": 2e-5,
    "warmup": 0.1,
    "max_tokens": 2_048,
    "chat_template": "vicuna",
}
PAPER_DPO: dict[str, Any] = {
    "method": "full",
    "epochs": 9,
    "batch": 32,
    "learning_rate": 5e-7,
    "warmup": 0.1,
    "max_tokens": 2_048,
    "beta": 0.1,
    "pairs": 10_000,
}


class AlignmentSettings(FineTuning):
    """What both trainings have besides the settings of any fine-tuning; settings not given are the preset's."""

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("preset") == "paper":
            return {**cls.paper(), **given}
        return given

    @classmethod
    def paper(cls) -> dict[str, Any]:
        """The values of the preset paper."""
        return {}

    preset: AlignmentPreset = Field("default", description="default: LoRA; paper: the paper's settings.")
    chat_template: str | None = Field(
        None, description="vicuna, chatml, or a file with a template; none: the model's own."
    )
    heldout: str | None = Field(None, description="File of rows to measure the loss on; none: a share of the data.")
    held_out: float = Field(0.1, gt=0, lt=1, description="Share of the data that is measured and not trained on.")
    limit: Annotated[int, Field(ge=1)] | None = Field(None, description="Read only the first rows of the data.")


class SftSettings(AlignmentSettings):
    """Settings of supervised fine-tuning; by default LoRA, with the model's own chat template."""

    base_model: str = Field(description="Causal LM to start from: a folder, smollm2-135m, or a name on the hub.")
    packing: bool = Field(False, description="Put several rows into one sequence; a batch counts sequences.")

    @classmethod
    def paper(cls) -> dict[str, Any]:
        """Section 3: Mistral-7B, 6 epochs."""
        return PAPER_SFT


class DpoSettings(AlignmentSettings):
    """Settings of direct preference optimisation; an adapter is trained on, and what it was is the reference."""

    model: str = Field(description="The fine-tuned model: a folder of `deita align sft`, or any causal LM.")
    pairs: Annotated[int, Field(ge=1)] | None = Field(None, description="How many pairs to sample; none: all.")
    beta: float = Field(0.1, gt=0, description="How strongly the reference holds: larger stays closer to it.")
    epochs: int = Field(1, ge=1, description="Times each pair is seen.")
    batch: int = Field(32, ge=1, description="Pairs a step learns from, gathered over micro-batches.")
    micro_batch: int = Field(2, ge=1, description="Pairs in memory at once; divides the batch.")

    @classmethod
    def paper(cls) -> dict[str, Any]:
        """Section 4: 10,000 pairs of UltraFeedback, 9 epochs."""
        return PAPER_DPO

    @property
    def rate(self) -> float:
        """The highest learning rate, as set or by method; it is far lower than in supervised training."""
        return self.learning_rate or {"lora": 5e-5, "full": 5e-7}[self.method]
