"""What every training of a language model shares: settings, adapter, trainer arguments, checkpoints, progress."""

import json
import random
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deita_core.errors import InputError, ModelError
from deita_core.literals import Method, Precision
from deita_core.models.distributed import is_main_process, process_count

_INPUTS = "inputs.txt"
# Seconds between two looks at what the main process has prepared.
_LOOK = 0.2
Key = TypeVar("Key", str, tuple[int, ...])


class FineTuning(BaseModel):
    """Settings of a training run: by LoRA or of all weights, with AdamW."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = Field("lora", description="Train a LoRA adapter, or all weights (full).")
    epochs: int = Field(3, ge=1, description="Times each training row is seen.")
    batch: int = Field(16, ge=1, description="Rows a step learns from, gathered over micro-batches.")
    micro_batch: int = Field(4, ge=1, description="Rows in memory at once; divides the batch.")
    learning_rate: float | None = Field(
        None, gt=0, description="Highest learning rate; by default 2e-5 for all weights, 2e-4 for LoRA."
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    max_tokens: int = Field(2_048, ge=64, description="Tokens of a row; longer rows are cut.")
    seed: int = Field(0, ge=0, description="Seed of the order of rows, of dropout, and of an adapter's first weights.")
    lora_rank: int = Field(16, ge=1, description="Rank of the LoRA matrices.")
    lora_alpha: int = Field(32, ge=1, description="LoRA updates are scaled by alpha / rank.")
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="Dropout before the LoRA matrices.")
    gradient_checkpointing: bool = Field(False, description="Compute activations twice: less memory, a third slower.")

    @model_validator(mode="after")
    def _batch_is_whole(self) -> "FineTuning":
        if self.batch % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide batch {self.batch}")
        return self

    @property
    def rate(self) -> float:
        """The highest learning rate, as set or by method."""
        return self.learning_rate or {"lora": 2e-4, "full": 2e-5}[self.method]


@dataclass(frozen=True)
class TuningProgress:
    """Progress of training: `loss` of the last step, `held_out_loss` where it is measured, seconds since the start."""

    step: int
    steps: int
    epoch: float
    loss: float | None
    held_out_loss: float | None
    seconds: float


Report = Callable[[TuningProgress], None]


@dataclass(frozen=True)
class Fitted:
    """A trained model on its device; seconds of training, steps in all, and the share of them done in this process."""

    model: Any
    seconds: float
    steps: int
    share: float


def check_installed() -> None:
    """Raise ModelError if the packages of the extra `align` are not installed."""
    if find_spec("trl") is None:
        raise ModelError("Fine-tuning needs the package trl; run pip install 'deita-flows[align]'.")


def draw_held_out(keys: Iterable[Key], share: float, seed: int) -> set[Key]:
    """Draw a share of distinct keys, at least one, and not all; the same for a seed whatever their order."""
    distinct = sorted(set(keys))
    random.Random(f"held out {seed}").shuffle(distinct)  # noqa: S311
    return set(distinct[: min(max(1, round(share * len(distinct))), len(distinct) - 1)])


def prepare_checkpoints(folder: Path, inputs: str, what: str) -> Path:
    """Return the folder of a run's checkpoints, without those of a run with other `inputs`.

    Only files of an unfinished run are ever removed. Raises InputError for a folder with other files; `what` names the
    result in it.
    """
    checkpoints = folder / "checkpoints"
    marker = checkpoints / _INPUTS
    if not is_main_process():
        # Only the main process removes and writes; if it fails, the launcher ends this one as well.
        while not marker.is_file() or marker.read_text() != inputs:
            time.sleep(_LOOK)
        return checkpoints
    if folder.exists() and any(folder.iterdir()) and not marker.is_file():
        raise InputError(f"The folder {folder} is not empty; give a new one for {what}.")
    if marker.is_file() and marker.read_text() != inputs:
        shutil.rmtree(checkpoints)
    checkpoints.mkdir(parents=True, exist_ok=True)
    marker.write_text(inputs)
    return checkpoints


def training_state(checkpoint: Path) -> dict[str, Any]:
    """The trainer's state in a checkpoint."""
    # Not orjson: a diverged loss is stored as NaN.
    return json.loads((checkpoint / "trainer_state.json").read_bytes())


def last_checkpoint(checkpoints: Path) -> Path | None:
    """Return the latest checkpoint with a readable state file, which is written last; or None."""
    found = sorted(checkpoints.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]), reverse=True)
    for checkpoint in found:
        try:
            training_state(checkpoint)
        except (OSError, ValueError):
            continue
        return checkpoint
    return None


def lora_config(settings: FineTuning) -> Any:
    """The adapter: LoRA on every linear layer but the output."""
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def trainer_arguments(settings: FineTuning, checkpoints: Path, precision: Precision, device: str) -> dict[str, Any]:
    """Arguments that transformers' and TRL's trainers share; nothing is reported anywhere but to callbacks.

    Raises InputError if the processes that train together cannot share a batch equally.
    """
    import torch

    together = settings.micro_batch * process_count()
    if settings.batch % together:
        raise InputError(
            f"A batch of {settings.batch} rows cannot be shared by {process_count()} processes with "
            f"{settings.micro_batch} rows in memory each; give a batch that {together} divides."
        )

    return {
        "output_dir": str(checkpoints),
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.micro_batch,
        "gradient_accumulation_steps": settings.batch // together,
        "learning_rate": settings.rate,
        "warmup_steps": settings.warmup,
        "bf16": precision == "bfloat16",
        # The trainer does not detect that a CPU may support bfloat16.
        "use_cpu": device == "cpu" or not torch.accelerator.is_available(),
        "seed": settings.seed,
        "data_seed": settings.seed,
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
    }
