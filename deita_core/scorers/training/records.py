"""Settings and result card of a causal scorer's training."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deita_core.errors import ModelError
from deita_core.literals import Axis, Precision
from deita_core.models.fine_tuning import FineTuning
from deita_core.scorers.training.metrics import Figures, figures_table

CARD = "deita.json"


class TuningSettings(FineTuning):
    """Settings of a scorer's training; the defaults are those of the paper, except LoRA and its learning rate."""

    base_model: str = Field(description="Causal LM to start from: a folder, smollm2-135m, or a name on the hub.")
    epochs: int = Field(6, ge=1, description="Times each training row is seen, unless training stops early.")
    batch: int = Field(512, ge=1, description="Rows a step learns from, gathered over micro-batches.")
    max_tokens: int = Field(2_048, ge=64, description="Tokens of a prompt and its digit; longer texts are shortened.")
    held_out: float = Field(0.1, gt=0, lt=1, description="Share of the seeds kept out of training.")
    patience: int = Field(2, ge=1, description="Epochs without a better held-out loss after which training stops.")


class CausalCard(BaseModel):
    """A causal scorer's training record, saved last as deita.json; its presence means the folder is complete.

    `examples`, `held_out`: rows trained on and held out; `left_out`: blank rows, in neither. `held_out_loss`: negative
    log likelihood over the six digits during training; `figures`: of the saved model, loaded again, on authored rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["causal"] = "causal"
    axis: Axis
    base_model: str
    method: Literal["lora", "full"]
    max_tokens: int
    precision: Precision
    examples: int
    held_out: int
    left_out: int
    held_out_loss: float
    figures: Figures
    settings: TuningSettings
    inputs: str


def read_card(folder: Path) -> CausalCard | None:
    """Return the card of a scorer trained here, or None if the folder has none, such as a released checkpoint."""
    if not (folder / CARD).is_file():
        return None
    try:
        return CausalCard.model_validate_json((folder / CARD).read_bytes())
    except ValidationError as error:
        raise ModelError(f"The card {folder / CARD} cannot be read; train the scorer again.") from error


def causal_model_card(card: CausalCard) -> str:
    """Return a README.md for a scorer: what it is, its training data, and its figures beside those of length."""
    how = "all its weights" if card.method == "full" else f"a LoRA adapter of rank {card.settings.lora_rank}, merged"
    return (
        f"# A {card.axis} scorer from {card.base_model}\n\n"
        f"A causal language model that scores {card.axis} from 1 to 6: the expected value over the six digits it may "
        f"print after the scoring prompt of Deita (arXiv 2312.15685). Trained on {card.examples:,} rows ({how}); no "
        f"seed has rows on both sides of the split.\n\n"
        f"Held out, authored rows only:\n\n{figures_table(card.figures)}\n\n"
        f"Texts over {card.max_tokens:,} tokens are shortened. Figures are of this folder in {card.precision}. Compare "
        f"it with another scorer before you rely on small differences.\n"
    )
