"""Supervised fine-tuning: TRL's SFTTrainer on tokens whose labels are the answers (paper, section 3)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deita_core.alignment.chat import load_chat_tokenizer
from deita_core.alignment.likelihood import answer_losses, mean_loss
from deita_core.alignment.records import SftMetrics, finished, peak_memory, run_inputs, write_result
from deita_core.alignment.rows import PreparedRows, TrainingRow, count_labels, read_rows, set_aside
from deita_core.alignment.settings import SftSettings
from deita_core.literals import Precision
from deita_core.models.distributed import is_main_process
from deita_core.models.encoder_spec import best_precision
from deita_core.models.fine_tuning import (
    Fitted,
    Report,
    TuningProgress,
    check_installed,
    prepare_checkpoints,
    trainer_arguments,
)

# Increased whenever the same rows and settings would give other weights; part of a run's inputs.
SFT_VERSION = 1


def unreported(_: TuningProgress) -> None:
    """Take a report of progress that nobody reads."""


def align_sft(
    data: str, folder: Path, settings: SftSettings, device: str = "auto", report: Report = unreported
) -> SftMetrics:
    """Fine-tune a model on a selection's folder or any other data, into a folder that plain transformers loads.

    An interrupted run resumes from its last checkpoint if data and settings are the same; a finished one is not
    repeated. Raises InputError for data with nothing to train on or a folder with other files, ModelError for a model
    that cannot be used or if training diverges.
    """
    check_installed()
    tokenizer = load_chat_tokenizer(settings.base_model, settings.chat_template)
    prepared = read_rows(data, tokenizer, settings.max_tokens, settings.limit)
    if settings.heldout:
        train, held_out = prepared.rows, read_rows(settings.heldout, tokenizer, settings.max_tokens).rows
    else:
        train, held_out = set_aside(prepared.rows, settings.held_out, settings.seed)
    precision = best_precision()
    inputs = run_inputs(folder, settings, settings.base_model, tokenizer, precision, SFT_VERSION, [train, held_out])
    if metrics := finished(folder, inputs, SftMetrics):
        return metrics
    checkpoints = prepare_checkpoints(folder, inputs, "the model")
    before, fitted = fit(train, tokenizer, settings, checkpoints, precision, device, report, held_out)
    from deita_core.alignment.training import save_model

    model = fitted.model
    if is_main_process():
        model = save_model(model, tokenizer, folder, precision, settings.method == "full")
    metrics = _metrics(prepared, train, held_out, fitted, settings)
    metrics = metrics.model_copy(
        update={"loss_before": before, "loss_after": mean_loss(answer_losses(model, held_out, precision))}
    )
    if is_main_process():
        write_result(folder, inputs, data, settings.base_model, settings, metrics, prepared.dropped)
    return metrics


def fit(
    train: Sequence[TrainingRow],
    tokenizer: Any,
    settings: SftSettings,
    checkpoints: Path,
    precision: Precision,
    device: str = "auto",
    report: Report = unreported,
    measured: Sequence[TrainingRow] = (),
) -> tuple[float | None, Fitted]:
    """Train on rows, or resume from checkpoints; returns the loss on rows `measured` before training, and the model."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from deita_core.alignment.training import run_trainer, save_steps, trainable_model

    model = trainable_model(settings.base_model, settings, precision, device)
    arguments = SFTConfig(
        **trainer_arguments(settings, checkpoints, precision, device),
        lr_scheduler_type="cosine",
        save_strategy="steps",
        save_steps=save_steps(len(train), settings),
        gradient_checkpointing=settings.gradient_checkpointing,
        max_length=settings.max_tokens,
        packing=settings.packing,
        # Rows are tokens with labels, and cut already.
        dataset_kwargs={"skip_prepare_dataset": not settings.packing},
    )
    # A process trains on one accelerator; with several, one process would change the batch.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    rows = Dataset.from_dict({"input_ids": [row.ids for row in train], "labels": [row.labels for row in train]})
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    before = mean_loss(answer_losses(trainer.model, measured, precision)) if measured else None
    return before, run_trainer(trainer, checkpoints, report)


def _metrics(
    prepared: PreparedRows,
    train: Sequence[TrainingRow],
    held_out: Sequence[TrainingRow],
    fitted: Fitted,
    settings: SftSettings,
) -> SftMetrics:
    tokens = settings.epochs * sum(len(row.ids) for row in train)
    return SftMetrics(
        loss_before=None,
        loss_after=None,
        held_out_rows=len({row.id for row in held_out}),
        held_out_tokens=count_labels(held_out),
        rows=len({row.id for row in train}),
        cut=prepared.cut,
        dropped=len(prepared.dropped),
        tokens=tokens,
        answer_tokens=settings.epochs * count_labels(train),
        steps=fitted.steps,
        seconds=round(fitted.seconds, 1),
        tokens_per_s=round(tokens * fitted.share / fitted.seconds, 1),
        peak_memory_gib=peak_memory(),
    )
