"""The negative log-likelihood of answers under a language model, per row."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import polars as pl

from deita_core.alignment.chat import IGNORED
from deita_core.alignment.rows import TrainingRow
from deita_core.literals import Precision
from deita_core.models.causal_lm import right_padded

# Tokens of a batch, by device: the logits of a vocabulary of 150,000 take 300 KB a token.
BATCH = {"cpu": 2_048, "mps": 4_096, "cuda": 16_384}


def answer_losses(
    model: Any,
    rows: Sequence[TrainingRow],
    precision: Precision = "float32",
    max_tokens_per_batch: int | None = None,
    watch: Callable[[int], None] = lambda _: None,
) -> pl.DataFrame:
    """Return a frame of id, loss (sum over the answer's tokens, in nats) and tokens, one row per row in their order.

    The model is in evaluation mode meanwhile, and computes in `precision` by autocast. `watch` gets the rows done.
    """
    import torch

    device = model.device
    autocast = torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()
    losses = np.zeros(len(rows))
    was_training = model.training
    model.eval()
    done = 0
    with torch.inference_mode(), autocast:
        for batch in _batches(rows, max_tokens_per_batch or BATCH.get(device.type, 2_048)):
            losses[batch] = _batch_losses(model, [rows[i] for i in batch])
            watch(done := done + len(batch))
    model.train(was_training)
    return pl.DataFrame(
        {"id": [row.id for row in rows], "loss": losses, "tokens": [row.n_labels for row in rows]},
        schema={"id": pl.String, "loss": pl.Float64, "tokens": pl.Int64},
    )


def mean_loss(losses: pl.DataFrame) -> float:
    """The mean over all answer tokens, in nats."""
    return float(losses["loss"].to_numpy().sum() / losses["tokens"].to_numpy().sum())


def _batches(rows: Sequence[TrainingRow], budget: int) -> Iterator[list[int]]:
    """Positions of rows of similar length, so that rows times the longest is within the budget."""
    batch: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: (len(rows[i].ids), i)):
        if batch and (len(batch) + 1) * len(rows[i].ids) > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _batch_losses(model: Any, rows: Sequence[TrainingRow]) -> list[float]:
    import torch
    from torch.nn.functional import cross_entropy

    ids, mask = right_padded([row.ids for row in rows])
    # Only positions before a label need logits: those of a large vocabulary cost as much as several layers.
    needed = sorted({i - 1 for row in rows for i, label in enumerate(row.labels) if label != IGNORED and i > 0})
    keep = torch.tensor(needed, device=model.device)
    logits = model(
        input_ids=ids.to(model.device), attention_mask=mask.to(model.device), logits_to_keep=keep, use_cache=False
    ).logits
    losses = []
    for row, of_row in zip(rows, logits, strict=True):
        labels = torch.tensor([row.labels[i + 1] if i + 1 < len(row.labels) else IGNORED for i in needed])
        losses.append(
            float(cross_entropy(of_row.float(), labels.to(model.device), ignore_index=IGNORED, reduction="sum"))
        )
    return losses
