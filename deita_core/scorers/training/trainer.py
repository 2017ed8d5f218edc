"""The training loop of a causal scorer: prompts with one digit each, loss on the digit only, evaluation each epoch.

Imports torch and transformers: import this module inside the function that trains.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainerControl

from deita_core.models.causal_lm import right_padded
from deita_core.models.fine_tuning import TuningProgress
from deita_core.scorers.digit_reader import DigitReader, last_logits, without_adapter

IGNORED = -100
LOSS = "eval_digit_loss"


class Row(TypedDict):
    """A prompt's ids and the id of the digit after it."""

    prompt: list[int]
    digit: int


def collate(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """Return a batch (n, width): prompt and digit, right padded, and labels that ignore all tokens but the digit."""
    ids, mask = right_padded([[*row["prompt"], row["digit"]] for row in rows])
    labels = torch.full_like(ids, IGNORED)
    for label, row in zip(labels, rows, strict=True):
        label[len(row["prompt"])] = row["digit"]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def digit_loss(logits: np.ndarray, digits: np.ndarray) -> float:
    """Return the mean negative log likelihood of digits 0 to 5 (n,), from a softmax over their logits (n, 6)."""
    centred = logits - logits.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(centred, digits[:, None], axis=1)[:, 0]
    return float((np.log(np.exp(centred).sum(axis=1)) - chosen).mean())


def is_over(losses: Sequence[float], patience: int) -> bool:
    """Whether none of the last `patience` held-out losses improved on the best before them."""
    known = [math.inf if math.isnan(loss) else loss for loss in losses]
    return bool(known) and len(known) - 1 - known.index(min(known)) >= patience


def held_out_losses(history: Sequence[dict[str, Any]]) -> list[float]:
    """Return the held-out losses in a trainer's log."""
    return [float(entry[LOSS]) for entry in history if LOSS in entry]


class DigitTrainer(Trainer):
    """A Trainer that evaluates the loss over the six digits with the scoring code."""

    control: TrainerControl

    def __init__(self, digits: list[int], held_out: Sequence[Row], **kwargs: Any) -> None:
        super().__init__(data_collator=collate, eval_dataset=list(held_out), **kwargs)
        # compute_loss divides by the rows of the whole batch, so that the micro-batch size has no effect.
        self.model_accepts_loss_kwargs = True
        self._digits, self._held_out = digits, held_out
        self._reader: DigitReader | None = None

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Return the cross-entropy over the whole vocabulary, only at the position before the digit."""
        labels = inputs["labels"]
        place = (labels != IGNORED).int().argmax(dim=1)
        logits = last_logits(model, inputs["input_ids"], inputs["attention_mask"], place - 1)
        target = labels.gather(1, place[:, None])[:, 0]
        total = torch.nn.functional.cross_entropy(logits.float(), target, reduction="sum")
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Compute and log the held-out loss, which selects the best checkpoint."""
        metrics = {LOSS: self._held_out_loss()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _held_out_loss(self) -> float:
        model = without_adapter(self.model).eval()
        # Created once, because creation probes the model; outside autocast, which would distort the probe.
        self._reader = self._reader or DigitReader(model, self._digits)
        with torch.autocast(self.args.device.type, dtype=torch.bfloat16, enabled=self.args.bf16):
            logits = self._reader.logits([row["prompt"] for row in self._held_out])
        return digit_loss(logits, np.array([self._digits.index(row["digit"]) for row in self._held_out]))


class Reporter(TrainerCallback):
    """Reports each step and each held-out loss; stops training after `patience` losses without improvement."""

    def __init__(self, report: Callable[[TuningProgress], None], patience: int) -> None:
        self._report, self._patience, self._start = report, patience, time.monotonic()
        self._loss: float | None = None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Report the loss of a step or of held-out rows."""
        if "loss" not in logs and LOSS not in logs:
            return
        self._loss = logs.get("loss", self._loss)
        seconds = time.monotonic() - self._start
        self._report(
            TuningProgress(state.global_step, state.max_steps, state.epoch, self._loss, logs.get(LOSS), seconds)
        )

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop early, based on the log and no counter, so that a resumed run stops at the same epoch."""
        if is_over(held_out_losses(state.log_history), self._patience):
            control.should_training_stop = True
