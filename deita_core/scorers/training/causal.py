"""Trains a causal scorer: a language model that prints the digit of a score after the scoring prompt.

Paper, section 2.2 and the settings of its released scorers; LoRA by default, all weights as an option.
"""

import gc
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from deita_core.conversation import content_id
from deita_core.errors import InputError, ModelError
from deita_core.literals import Axis, Precision
from deita_core.models.causal_lm import causal_fingerprint, load_model, load_tokenizer, positions
from deita_core.models.encoder_spec import best_precision
from deita_core.models.fine_tuning import (
    Report,
    TuningProgress,
    draw_held_out,
    last_checkpoint,
    lora_config,
    prepare_checkpoints,
    trainer_arguments,
    training_state,
)
from deita_core.models.small_lm import local_model
from deita_core.scorers.causal import CausalScorer, is_readable
from deita_core.scorers.digits import PromptTokenizer
from deita_core.scorers.prompts import texts_of
from deita_core.scorers.training.examples import Example
from deita_core.scorers.training.metrics import Figures, held_out_figures, length_scores
from deita_core.scorers.training.records import (
    CARD,
    CausalCard,
    TuningSettings,
    causal_model_card,
    read_card,
)

if TYPE_CHECKING:
    from deita_core.scorers.training.trainer import DigitTrainer, Row


@dataclass(frozen=True)
class _Run:
    """Parameters shared by the steps of one training."""

    axis: Axis
    settings: TuningSettings
    checkpoints: Path
    precision: Precision
    device: str
    report: Report


def split_by_seed(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Split examples into training and held-out ones, by a random share of seeds; raises InputError for one seed."""
    seeds = sorted({example.group for example in examples})
    if len(seeds) < 2:
        raise InputError(f"The examples are of {len(seeds)} seeds; give two at least, one of them to be held out.")
    kept_out = draw_held_out(seeds, share, seed)
    train = [example for example in examples if example.group not in kept_out]
    return train, [example for example in examples if example.group in kept_out]


def _unreported(_: TuningProgress) -> None:
    return


def train_causal(
    axis: Axis,
    examples: Sequence[Example],
    folder: Path,
    settings: TuningSettings,
    device: str = "auto",
    report: Report = _unreported,
) -> CausalCard:
    """Train a scorer into a folder that CausalScorer can read; saves the best epoch's weights.

    An interrupted run resumes from its last epoch if settings and examples are the same; a finished one is not
    repeated. `device`: "cpu", or "auto" for the machine's accelerator. Raises InputError for too few examples or a
    folder with other files, ModelError for an unusable base model or if training diverges.
    """
    readable = [e for e in examples if all(map(is_readable, texts_of(axis, e.instruction, e.response)))]
    train, held_out = split_by_seed(readable, settings.held_out, settings.seed)
    precision = best_precision()
    inputs = _inputs(axis, examples, folder, settings, precision)
    if card := _done(folder, inputs):
        return card
    checkpoints = prepare_checkpoints(folder, inputs, "the scorer")
    run = _Run(axis, settings, checkpoints, precision, device, report)
    best, loss = _best_checkpoint(run, train, held_out)
    save_merged(best, folder, settings, precision)
    card = CausalCard(
        axis=axis,
        base_model=settings.base_model,
        method=settings.method,
        max_tokens=settings.max_tokens,
        precision=precision,
        examples=len(train),
        held_out=len(held_out),
        left_out=len(examples) - len(readable),
        held_out_loss=round(loss, 4),
        figures=_figures(run, folder, train, held_out),
        settings=settings,
        inputs=inputs,
    )
    (folder / "README.md").write_text(causal_model_card(card), encoding="utf-8")
    _write_card(card, folder)
    shutil.rmtree(folder / "checkpoints")
    return card


def _write_card(card: CausalCard, folder: Path) -> None:
    # Atomic: if the card exists, it and the folder are complete.
    unfinished = folder / f"{CARD}.part"
    unfinished.write_bytes(orjson.dumps(card.model_dump(), option=orjson.OPT_INDENT_2) + b"\n")
    unfinished.replace(folder / CARD)


def _inputs(axis: Axis, examples: Sequence[Example], folder: Path, settings: TuningSettings, by: Precision) -> str:
    """Return a hash of all inputs of training; also of the folder's path, which checkpoints store."""
    rows = [(e.group, e.chain, e.instruction, e.response, e.score, e.authored) for e in examples]
    base = Path(local_model(settings.base_model))
    weights = causal_fingerprint(base, by, settings.max_tokens, "middle") if base.is_dir() else ""
    parts = [axis, str(folder.resolve()), settings.model_dump_json(), by, weights, repr(rows)]
    return content_id("\n".join(parts).encode())


def _done(folder: Path, inputs: str) -> CausalCard | None:
    """Return the card of a finished run with the same inputs, or None. Raises InputError for a finished other run."""
    if card := read_card(folder):
        if card.inputs != inputs:
            raise InputError(f"The folder {folder} holds a scorer trained otherwise; give another folder.")
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return card


def _best_checkpoint(run: _Run, train: Sequence[Example], held_out: Sequence[Example]) -> tuple[Path, float]:
    """Train or resume; returns the checkpoint with the lowest held-out loss, and that loss."""
    from deita_core.scorers.training.trainer import held_out_losses, is_over

    last = last_checkpoint(run.checkpoints)
    if last is None or not is_over(held_out_losses(training_state(last)["log_history"]), run.settings.patience):
        _train(run, train, held_out, last)
        last = last_checkpoint(run.checkpoints)
    state = training_state(last) if last else {}
    if not state.get("best_global_step"):
        raise ModelError(f"Training {run.settings.base_model} diverged: its loss is no number; lower learning_rate.")
    return run.checkpoints / f"checkpoint-{state['best_global_step']}", float(state["best_metric"])


def _train(run: _Run, train: Sequence[Example], held_out: Sequence[Example], last: Path | None) -> None:
    model = _trainable(run.settings, run.precision)
    tokenizer = load_tokenizer(run.settings.base_model)
    prompts = PromptTokenizer(
        tokenizer, run.axis, run.settings.max_tokens, positions(model), name=run.settings.base_model
    )
    rows, kept_out = training_rows(prompts, train), training_rows(prompts, held_out)
    _trainer(run, model, prompts.digits, rows, kept_out).train(resume_from_checkpoint=str(last) if last else None)
    # Trainer and callbacks refer to each other; free their memory for the models loaded next.
    gc.collect()


def training_rows(prompts: PromptTokenizer, examples: Sequence[Example]) -> list["Row"]:
    """Return each example's prompt ids, as in scoring, and its digit's id."""
    encoded = prompts.encode([texts_of(prompts.axis, e.instruction, e.response) for e in examples])
    return [{"prompt": p.ids, "digit": prompts.digits[e.score - 1]} for p, e in zip(encoded, examples, strict=True)]


def _base(settings: TuningSettings, precision: Precision) -> Any:
    from transformers import GenerationConfig

    model = load_model(settings.base_model, precision)
    # Some models have generation settings that cannot be saved again; a scorer generates nothing.
    model.generation_config = GenerationConfig.from_model_config(model.config)
    return model


def _trainable(settings: TuningSettings, precision: Precision) -> Any:
    """Return the base model with an adapter; or with all weights, in float32, because updates are small."""
    from transformers import set_seed

    set_seed(settings.seed)
    model = _base(settings, "float32" if settings.method == "full" else precision)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if settings.method == "full":
        return model
    from peft import get_peft_model

    return get_peft_model(model, lora_config(settings))


def _trainer(run: _Run, model: Any, digits: list[int], rows: list["Row"], held_out: list["Row"]) -> "DigitTrainer":
    from transformers import PrinterCallback, TrainingArguments

    from deita_core.scorers.training.trainer import LOSS, DigitTrainer, Reporter

    arguments = TrainingArguments(
        **trainer_arguments(run.settings, run.checkpoints, run.precision, run.device),
        lr_scheduler_type="cosine",
        # The last checkpoint, to resume from, and the best one, which is never removed.
        eval_strategy="epoch",
        save_strategy="epoch",
        metric_for_best_model=LOSS,
        greater_is_better=False,
        remove_unused_columns=False,
        label_names=["labels"],
    )
    # One process trains on one accelerator: several would change the batch size.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    reporter = Reporter(run.report, run.settings.patience)
    trainer = DigitTrainer(digits, held_out, model=model, args=arguments, train_dataset=rows, callbacks=[reporter])
    trainer.remove_callback(PrinterCallback)
    return trainer


def save_merged(checkpoint: Path, folder: Path, settings: TuningSettings, precision: Precision) -> None:
    """Save a checkpoint as an ordinary language model with its tokenizer; merges an adapter in float32."""
    import torch

    if settings.method == "full":
        model = load_model(checkpoint, precision)
    else:
        from peft import PeftModel

        model = PeftModel.from_pretrained(_base(settings, "float32"), checkpoint).merge_and_unload()
    model.to(getattr(torch, precision)).save_pretrained(folder)
    load_tokenizer(settings.base_model).save_pretrained(folder)


def _figures(run: _Run, folder: Path, train: Sequence[Example], held_out: Sequence[Example]) -> Figures:
    """Return a saved scorer's held-out figures on authored rows, and those of length alone, fitted on training rows."""
    scorer = CausalScorer(folder, run.axis, run.device, max_tokens=run.settings.max_tokens)
    shown = [e for e in held_out if e.authored]
    answers = None if run.axis == "complexity" else [e.text for e in shown]
    scores = scorer.score([e.instruction for e in shown], answers)["score"]
    if scores.null_count():
        raise ModelError(f"The scorer trained into {folder} gives no finite scores; lower learning_rate.")
    taught = [e for e in train if e.authored] or train
    by_length = length_scores(_lengths(taught), np.array([e.score for e in taught]), _lengths(shown))
    truth = np.array([e.score for e in shown], dtype=np.float64)
    return held_out_figures([e.chain for e in shown], truth, scores.to_numpy(), by_length, _lengths(shown))


def _lengths(examples: Sequence[Example]) -> np.ndarray:
    return np.array([len(e.text) for e in examples], dtype=np.float64)
