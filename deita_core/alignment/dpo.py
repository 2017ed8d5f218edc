"""Direct preference optimisation: TRL's DPOTrainer on pairs of answers (paper, section 4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deita_core.alignment.chat import load_chat_tokenizer
from deita_core.alignment.likelihood import answer_losses
from deita_core.alignment.pairs import Pair, PreparedPairs, read_pairs, sample_pairs
from deita_core.alignment.records import DpoMetrics, finished, peak_memory, run_inputs, write_result
from deita_core.alignment.settings import DpoSettings
from deita_core.alignment.sft import unreported
from deita_core.errors import InputError
from deita_core.literals import Precision
from deita_core.models.distributed import is_main_process
from deita_core.models.encoder_spec import best_precision
from deita_core.models.fine_tuning import (
    Fitted,
    Report,
    check_installed,
    draw_held_out,
    prepare_checkpoints,
    trainer_arguments,
)

# Increased whenever the same pairs and settings would give other weights; part of a run's inputs.
DPO_VERSION = 1


@dataclass(frozen=True)
class _Likelihoods:
    """Negative log-likelihoods of the answers of pairs (n,), in nats, and their tokens (n,)."""

    chosen: np.ndarray
    rejected: np.ndarray
    chosen_tokens: np.ndarray
    rejected_tokens: np.ndarray

    @property
    def difference(self) -> float:
        """The mean log-likelihood of the chosen answer over the rejected one."""
        return float((self.rejected - self.chosen).mean())

    @property
    def likelier(self) -> float:
        """How often the chosen answer is likelier per token."""
        return float((self.chosen / self.chosen_tokens < self.rejected / self.rejected_tokens).mean())


def align_dpo(
    data: str, folder: Path, settings: DpoSettings, device: str = "auto", report: Report = unreported
) -> DpoMetrics:
    """Train a fine-tuned model on pairs of answers, into a folder that plain transformers loads.

    A model with an adapter is trained in that adapter, from a copy of it as reference. Interrupted and finished runs
    are handled as in `align_sft`. Raises InputError for data without pairs or a folder with other files, ModelError for
    a model that cannot be used or if training diverges.
    """
    check_installed()
    tokenizer = load_chat_tokenizer(settings.model, settings.chat_template)
    prepared = read_pairs(data, tokenizer, settings.max_tokens, settings.limit)
    train, held_out = _split(prepared.pairs, tokenizer, settings)
    precision = best_precision()
    inputs = run_inputs(folder, settings, settings.model, tokenizer, precision, DPO_VERSION, [train, held_out])
    if metrics := finished(folder, inputs, DpoMetrics):
        return metrics
    checkpoints = prepare_checkpoints(folder, inputs, "the model")
    before, fitted = _fit(train, held_out, tokenizer, settings, checkpoints, precision, device, report)
    from deita_core.alignment.training import save_model

    model = fitted.model
    if is_main_process():
        model = save_model(model, tokenizer, folder, precision, settings.method == "full")
    after = _likelihoods(model, held_out, precision)
    metrics = _metrics(prepared, train, held_out, fitted, settings, before, after)
    if is_main_process():
        write_result(folder, inputs, data, settings.model, settings, metrics, prepared.dropped)
    return metrics


def _split(pairs: Sequence[Pair], tokenizer: Any, settings: DpoSettings) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on, and pairs to measure: those of a file, or a share of all prompts."""
    if settings.heldout:
        held_out = read_pairs(settings.heldout, tokenizer, settings.max_tokens).pairs
        return sample_pairs(pairs, settings.pairs, settings.seed), held_out
    if len({tuple(pair.prompt_ids) for pair in pairs}) < 2:
        raise InputError("There are pairs of one prompt to train on, and none to measure on; give --heldout.")
    aside = draw_held_out((tuple(pair.prompt_ids) for pair in pairs), settings.held_out, settings.seed)
    train = [pair for pair in pairs if tuple(pair.prompt_ids) not in aside]
    held_out = [pair for pair in pairs if tuple(pair.prompt_ids) in aside]
    return sample_pairs(train, settings.pairs, settings.seed), held_out


def _fit(
    train: Sequence[Pair],
    held_out: Sequence[Pair],
    tokenizer: Any,
    settings: DpoSettings,
    checkpoints: Path,
    precision: Precision,
    device: str,
    report: Report,
) -> tuple[_Likelihoods, Fitted]:
    """Train, or resume from checkpoints; returns the likelihoods of held-out pairs before, and the model."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from deita_core.alignment.training import run_trainer, save_steps, trainable_model

    class PairTrainer(DPOTrainer):
        """A trainer of pairs that are tokens already."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    model = trainable_model(settings.model, settings, precision, device)
    arguments = DPOConfig(
        **trainer_arguments(settings, checkpoints, precision, device),
        lr_scheduler_type="linear",
        save_strategy="steps",
        save_steps=save_steps(len(train), settings),
        gradient_checkpointing=settings.gradient_checkpointing,
        beta=settings.beta,
        # Pairs are cut already.
        max_length=None,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)
    rows = Dataset.from_list([{k: v for k, v in pair._asdict().items() if k != "id"} for pair in train])
    reference = trainable_model(settings.model, settings, precision, device) if settings.method == "full" else None
    trainer = PairTrainer(model, reference, arguments, train_dataset=rows, processing_class=tokenizer)
    before = _likelihoods(trainer.model, held_out, precision)
    return before, run_trainer(trainer, checkpoints, report)


def _likelihoods(model: Any, pairs: Sequence[Pair], precision: Precision) -> _Likelihoods:
    chosen, rejected = (answer_losses(model, [p.row(side) for p in pairs], precision) for side in (True, False))
    return _Likelihoods(*(side[name].to_numpy() for name in ("loss", "tokens") for side in (chosen, rejected)))


def margins(before: _Likelihoods, after: _Likelihoods, beta: float) -> np.ndarray:
    """The reward margin of each pair (n,): beta times how much more likelihood the chosen answer won."""
    return beta * ((before.chosen - after.chosen) - (before.rejected - after.rejected))


def _metrics(
    prepared: PreparedPairs,
    train: Sequence[Pair],
    held_out: Sequence[Pair],
    fitted: Fitted,
    settings: DpoSettings,
    before: _Likelihoods,
    after: _Likelihoods,
) -> DpoMetrics:
    tokens = settings.epochs * sum(pair.n_tokens for pair in train)
    won = margins(before, after, settings.beta)
    return DpoMetrics(
        difference_before=before.difference,
        difference_after=after.difference,
        margin=float(won.mean()),
        accuracy=float((won > 0).mean()),
        likelier_before=before.likelier,
        likelier_after=after.likelier,
        held_out_rows=len(held_out),
        held_out_tokens=int(before.chosen_tokens.sum() + before.rejected_tokens.sum()),
        rows=len(train),
        cut=prepared.cut,
        dropped=len(prepared.dropped),
        tokens=tokens,
        answer_tokens=settings.epochs * sum(len(pair.chosen_ids) + len(pair.rejected_ids) for pair in train),
        steps=fitted.steps,
        seconds=round(fitted.seconds, 1),
        tokens_per_s=round(tokens * fitted.share / fitted.seconds, 1),
        peak_memory_gib=peak_memory(),
    )
