"""Fine-tunes a base model on one of several subsets, and measures it on answers that none of them holds."""

import gc
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import polars as pl
from pydantic import BaseModel

from deita_core.alignment.likelihood import answer_losses
from deita_core.alignment.records import run_inputs
from deita_core.alignment.rows import TrainingRow
from deita_core.alignment.settings import SftSettings
from deita_core.alignment.sft import SFT_VERSION, fit, unreported
from deita_core.export.placing import place_file
from deita_core.models.causal_lm import load_model, on_device
from deita_core.models.encoder_spec import best_precision
from deita_core.models.fine_tuning import Fitted, Report, prepare_checkpoints

LOSSES, RUN = "losses.parquet", "run.json"


class ArmRun(BaseModel):
    """One training: steps, and seconds of training in the process that finished it. `folder` has the losses."""

    steps: int
    seconds: float
    folder: Path

    @property
    def losses(self) -> pl.DataFrame:
        """Of each measured conversation the `loss`, summed over the answers' tokens in nats, and the `tokens`."""
        return pl.read_parquet(self.folder / LOSSES)


def batch_of(rows: int, steps: int, micro_batch: int) -> int:
    """Rows of a batch so that one epoch has about `steps` steps: a multiple of `micro_batch`.

    Subsets of equal tokens differ in rows. With one batch size the subset of short rows would take more steps.
    """
    return micro_batch * max(1, round(rows / (max(steps, 1) * micro_batch)))


def run_arm(
    rows: Sequence[TrainingRow],
    measured: Sequence[TrainingRow],
    tokenizer: Any,
    settings: SftSettings,
    folder: Path,
    report: Report = unreported,
) -> ArmRun:
    """Fine-tune on rows and measure; without rows, measure the base model.

    A finished run with the same inputs in `folder` is not repeated; an interrupted one resumes from its last
    checkpoint. Only losses are kept of a finished one. Raises ModelError as `fit`.
    """
    precision = best_precision()
    inputs = run_inputs(folder, settings, settings.base_model, tokenizer, precision, SFT_VERSION, [rows, measured])
    own = folder / inputs
    if (own / RUN).is_file():
        shutil.rmtree(own / "checkpoints", ignore_errors=True)
        return ArmRun(folder=own, **orjson.loads((own / RUN).read_bytes()))
    checkpoints = prepare_checkpoints(own, inputs, "the run")
    if rows:
        _, fitted = fit(rows, tokenizer, settings, checkpoints, precision, report=report)
    else:
        fitted = Fitted(on_device(load_model(settings.base_model, precision), "auto"), 0.0, 0, 0.0)
    losses = answer_losses(fitted.model, measured, precision).group_by("id", maintain_order=True).sum()
    figures = {"steps": fitted.steps, "seconds": round(fitted.seconds, 1)}
    # A trainer and its model refer to each other, so that nothing else frees their memory before the next run.
    del fitted
    gc.collect()
    place_file(own / LOSSES, losses.write_parquet)
    place_file(own / RUN, lambda path: path.write_bytes(orjson.dumps(figures)))
    shutil.rmtree(checkpoints)
    return ArmRun(folder=own, **figures)
