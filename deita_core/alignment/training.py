"""What supervised and preference training share: the model to train, steps of progress, and what is written at the end.

Imports torch and transformers: import this module inside the function that trains.
"""

import math
import time
from pathlib import Path
from typing import Any

import orjson
from transformers import PrinterCallback, TrainerCallback, set_seed

from deita_core.errors import ModelError, cause
from deita_core.literals import Precision
from deita_core.models.causal_lm import load_model
from deita_core.models.devices import best_device
from deita_core.models.fine_tuning import (
    FineTuning,
    Fitted,
    Report,
    TuningProgress,
    last_checkpoint,
    lora_config,
    training_state,
)

# A kill loses at most this share of a training.
SAVES = 10
ADAPTER = "adapter_config.json"


def trainable_model(name: str | Path, settings: FineTuning, precision: Precision, device: str) -> Any:
    """Load a model to train: with a new adapter, with the adapter it has, or with all weights in float32.

    Raises ModelError for a model that cannot be loaded.
    """
    from peft import PeftModel, get_peft_model

    set_seed(settings.seed)
    # A CPU computes faster from float32 weights under autocast; small updates of all weights need float32.
    in_full = settings.method == "full" or (best_device() if device == "auto" else device) == "cpu"
    weights: Precision = "float32" if in_full else precision
    adapter = Path(name).expanduser()
    if not (adapter / ADAPTER).is_file():
        model = load_model(name, weights)
        return model if settings.method == "full" else get_peft_model(model, lora_config(settings))
    try:
        base = orjson.loads((adapter / ADAPTER).read_bytes())["base_model_name_or_path"]
        model = PeftModel.from_pretrained(load_model(base, weights), adapter, is_trainable=True)
    except (OSError, LookupError, ValueError, RuntimeError) as error:
        raise ModelError(f"The adapter in {adapter} cannot be loaded ({cause(error)}); train it again.") from error
    return model.merge_and_unload() if settings.method == "full" else model


def save_steps(rows: int, settings: FineTuning) -> int:
    """Steps between checkpoints: a tenth of the training."""
    steps = settings.epochs * -(-rows // settings.batch)
    return max(1, steps // SAVES)


def run_trainer(trainer: Any, checkpoints: Path, report: Report) -> Fitted:
    """Train from the last checkpoint, or from the start. Raises ModelError if training diverges.

    One process trains on one accelerator, unless several were started by `accelerate launch`.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Reporter(report))
    last = last_checkpoint(checkpoints)
    # Read now, since training removes old checkpoints.
    done = int(training_state(last)["global_step"]) if last else 0
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    seconds, steps = time.monotonic() - started, trainer.state.max_steps
    if any(math.isnan(entry.get("loss", 0.0)) for entry in trainer.state.log_history):
        raise ModelError("Training diverged: its loss is no number; lower learning_rate.")
    return Fitted(trainer.model, seconds, steps, 1 - done / max(steps, 1))


class Reporter(TrainerCallback):
    """Reports each step's loss."""

    def __init__(self, report: Report) -> None:
        self._report, self._start = report, time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Report the loss of a step."""
        if logs and "loss" in logs:
            seconds = time.monotonic() - self._start
            loss = logs["loss"]
            self._report(TuningProgress(state.global_step, state.max_steps, state.epoch or 0.0, loss, None, seconds))


def save_model(model: Any, tokenizer: Any, folder: Path, precision: Precision, full: bool) -> Any:
    """Save a model with its tokenizer, all weights in `precision` or the adapter alone; returns the model as saved."""
    import torch
    from transformers import GenerationConfig

    if full:
        model = model.to(getattr(torch, precision))
        # Some models have generation settings that cannot be saved again.
        generation = GenerationConfig.from_model_config(model.config)
        # Generation has to stop where answers were taught to end.
        known = generation.eos_token_id
        ends = known if isinstance(known, list) else [] if known is None else [known]
        generation.eos_token_id = sorted({*ends, tokenizer.eos_token_id})
        model.generation_config = generation
        model.save_pretrained(folder)
    else:
        model.save_pretrained(folder, selected_adapters=["default"])
    tokenizer.save_pretrained(folder)
    return model
