"""Scores turns with a sequence classifier: a reward model or a regressor, or labels read as an expected value."""

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from deita_core.conversation import content_id
from deita_core.errors import InputError
from deita_core.literals import Axis, ClassifierText, Precision
from deita_core.models.cancellation import check_cancelled
from deita_core.models.causal_lm import (
    TOKENS_PER_BATCH,
    load_model,
    load_tokenizer,
    on_device,
    positions,
    weights_id,
    within_memory,
)
from deita_core.models.encoder_spec import best_precision
from deita_core.scorers.causal import is_readable
from deita_core.scorers.classifier_text import ClassifierIds, ClassifierTokenizer
from deita_core.scorers.digit_reader import batch_size
from deita_core.scorers.heads import SCORE_SCHEMA
from deita_core.scorers.label_values import are_scores, label_values

if TYPE_CHECKING:
    import torch

RAW_SCHEMA = {**SCORE_SCHEMA, "raw": pl.Float64}
# Tokens after which a text is shortened, unless the model's window is smaller.
MAX_TOKENS = 4_096
# Texts of different lengths.
PROBE = ("Why?", "Why is it so, and since when?")
# Increased whenever the same classifier would give the same text another value; part of every fingerprint.
VERSION = 1


def classifier_fingerprint(folder: Path, precision: Precision, text: ClassifierText | None) -> str:
    """Return a hash of a classifier's files, its precision and what it reads; not of the device."""
    parts = ["classifier", precision, str(text), str(MAX_TOKENS), str(VERSION), weights_id(folder)]
    return content_id("\n".join(parts).encode())


class ClassifierScorer:
    """A sequence classifier in a local folder as the scorer of one axis.

    Its value of a text is its output, or with several labels their expected value: the sum over all labels of the
    label's value times its softmax probability. `raw` says whether the values have a scale of their own; they are
    scores if the labels are the numbers 1 to 6. `text`: what is read of a turn, as in `ClassifierTokenizer`. Raises
    ModelError if the folder holds no such model.
    """

    def __init__(
        self,
        folder: Path,
        axis: Axis,
        device: str = "auto",
        dtype: Precision | Literal["auto"] = "auto",
        max_tokens_per_batch: int | None = None,
        text: ClassifierText | None = None,
    ) -> None:
        precision: Precision = best_precision() if dtype == "auto" else dtype
        self.axis = axis
        self.fingerprint = classifier_fingerprint(folder, precision, text)
        self._values = label_values(folder)
        self.raw = not are_scores(self._values)
        tokenizer = load_tokenizer(folder)
        model = on_device(load_model(folder, precision, "classifier"), device).eval()
        limit = min(MAX_TOKENS, _window(model), tokenizer.model_max_length)
        self._tokenizer = ClassifierTokenizer(tokenizer, axis, text, limit, str(folder))
        probe = [self._tokenizer.texts(text, text) for text in PROBE]
        self._reader = OutputReader(model, [row for row in self._tokenizer.encode(probe) if row], max_tokens_per_batch)
        self._turn = Lock()

    def score(self, instructions: Sequence[str], responses: Sequence[str] | None = None) -> pl.DataFrame:
        """Return a frame of score (float64, 1 to 6) and status, one row per text in their order.

        If the scale is its own, there is a column `raw` (float64) with its values, and every score is null: a value
        becomes a score among those of a pool. Status: ok, truncated (a shortened text), unreadable (null: blank or
        invalid text, no finite output). The quality axis needs one response each. Threads take turns.
        """
        if self.axis == "quality" and (responses is None or len(responses) != len(instructions)):
            raise InputError(f"Quality is scored on answers; give one response for each of {len(instructions)} rows.")
        answers = [None] * len(instructions) if responses is None else responses
        rows = [self._tokenizer.texts(i, r) for i, r in zip(instructions, answers, strict=True)]
        # Duplicate texts are scored once; unreadable rows are not among the distinct ones.
        place = {row: i for i, row in enumerate(dict.fromkeys(row for row in rows if all(map(is_readable, row))))}
        known = self._known(list(place))
        found = [known[place[row]] if row in place else (None, "unreadable") for row in rows]
        if not self.raw:
            return pl.DataFrame(found, schema=SCORE_SCHEMA, orient="row")
        return pl.DataFrame([(None, status, value) for value, status in found], schema=RAW_SCHEMA, orient="row")

    def _known(self, texts: list[tuple[str, ...]]) -> list[tuple[float | None, str]]:
        """The value and status of distinct readable texts."""
        with self._turn:
            encoded = self._tokenizer.encode(texts)
            outputs = self._reader.outputs([row for row in encoded if row is not None])
        values = iter(outputs[:, 0] if self._values is None else expected_values(outputs, self._values))
        return [(None, "unreadable") if row is None else _result(next(values), row.truncated) for row in encoded]


def _result(value: float, truncated: bool) -> tuple[float | None, str]:
    return (float(value), "truncated" if truncated else "ok") if np.isfinite(value) else (None, "unreadable")


def expected_values(logits: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return expected values (n,), within those of the labels (k,), from logits (n, k); NaN if these are not finite."""
    with np.errstate(invalid="ignore"):
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.clip((weights * values).sum(axis=1) / weights.sum(axis=1), values.min(), values.max())


def _window(model: Any) -> int:
    """Return the number of tokens that a model can read."""
    window = positions(model)
    if window is None or window < 1:
        return MAX_TOKENS
    embedding = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(embedding, "padding_idx", None)
    # RoBERTa and its kin count positions from behind that of padding.
    return window if padding is None else window - padding - 1


class OutputReader:
    """A loaded sequence classifier that computes the outputs of rows of token ids, batched by length and memory.

    `probe`: rows of different lengths, which show whether padding changes this model's outputs. Then rows of one length
    share a batch.
    """

    def __init__(self, model: Any, probe: list[ClassifierIds], max_tokens_per_batch: int | None = None) -> None:
        import inspect

        self._model, self._config, self._device = model, model.config.get_text_config(), model.device
        self._budget = max_tokens_per_batch or TOKENS_PER_BATCH.get(self._device.type, TOKENS_PER_BATCH["mps"])
        self._reads_segments = "token_type_ids" in inspect.signature(model.forward).parameters
        self._pad = self._config.pad_token_id
        if self._pad is not None and not 0 <= self._pad < self._config.vocab_size:
            self._pad = None
        _compute_head_in_float32(model)
        self._may_pad = self._is_padding_harmless(probe)

    def outputs(self, rows: list[ClassifierIds]) -> np.ndarray:
        """Return outputs (n, k) float64 of rows of any lengths; batching changes them by rounding only."""
        found = np.zeros((len(rows), self._model.config.num_labels))
        # Longest first: if memory runs out, it does so at once.
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
        while order:
            check_cancelled()
            batch = order[: batch_size((len(rows[i].ids) for i in order), self._budget)]
            if not self._may_pad:
                batch = [i for i in batch if len(rows[i].ids) == len(rows[batch[0]].ids)]
            if (outputs := self._within_memory([rows[i] for i in batch])) is not None:
                found[batch] = outputs
                order = order[len(batch) :]
        return found

    def _within_memory(self, rows: list[ClassifierIds]) -> np.ndarray | None:
        """Return the outputs of one batch, or None if memory ran out; then the budget is halved."""
        width = len(rows[0].ids)
        refusal = (
            f"A text of {width} tokens does not fit in the memory of {self._device} beside the classifier; take a "
            f"smaller model."
        )
        outputs = within_memory(lambda: self._forward(rows), len(rows), refusal)
        if outputs is None:
            self._budget = len(rows) * width // 2
        return outputs

    def _forward(self, rows: list[ClassifierIds]) -> np.ndarray:
        import torch

        pad = self._padding_id(rows)
        width = max(len(row.ids) for row in rows)

        def padded(lists: list[list[int]], value: int) -> "torch.Tensor":
            return torch.tensor([[*part, *[value] * (width - len(part))] for part in lists], device=self._device)

        given = {
            "input_ids": padded([row.ids for row in rows], pad),
            "attention_mask": padded([[1] * len(row.ids) for row in rows], 0),
        }
        if self._reads_segments and rows[0].segments is not None:
            given["token_type_ids"] = padded([row.segments or [] for row in rows], 0)
        with torch.inference_mode():
            return self._model(**given).logits.double().cpu().numpy()

    def _padding_id(self, rows: list[ClassifierIds]) -> int:
        """Return the id to pad with.

        Causal classifiers read their value at the last id that is not padding. Where the model names no padding, a row
        alone has it at its last id, so padding is an id that ends no row of the batch.
        """
        if self._pad is not None:
            return self._pad
        ends = {row.ids[-1] for row in rows}
        self._config.pad_token_id = next(id_ for id_ in range(len(ends) + 1) if id_ not in ends)
        return self._config.pad_token_id

    def _is_padding_harmless(self, rows: list[ClassifierIds]) -> bool:
        """Whether these rows have the outputs together that they have alone."""
        import torch

        together, alone = self._forward(rows), np.concatenate([self._forward([row]) for row in rows])
        allowed = 1e-3 if self._model.dtype == torch.float32 else 0.1
        return bool((abs(together - alone) <= allowed * (1 + abs(alone))).all())


def _compute_head_in_float32(model: Any) -> None:
    """Keep a causal classifier's last layer from rounding its values to bfloat16, which would make many of them tie."""
    import torch

    if isinstance(head := getattr(model, "score", None), torch.nn.Linear):
        head.float()
        head.register_forward_pre_hook(lambda _, given: (given[0].float(),))
