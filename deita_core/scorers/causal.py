"""Scores texts with a causal language model: the expected value over the six digits that can follow the prompt.

Paper, section 2.2: score = sum over k of k * p_k, p the softmax over the logits of exactly the six digit tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Literal

import numpy as np
import polars as pl

from deita_core.errors import InputError
from deita_core.literals import Axis, Cut, Precision
from deita_core.models.causal_lm import causal_fingerprint, load_model, load_tokenizer, on_device, positions
from deita_core.models.encoder_spec import best_precision
from deita_core.scorers.digit_reader import DigitReader
from deita_core.scorers.digits import PromptTokenizer
from deita_core.scorers.heads import LEVELS, SCORE_SCHEMA
from deita_core.scorers.prompts import texts_of


class CausalScorer:
    """A causal LM in a local folder as the scorer of one axis: a released checkpoint, or one trained by `train_causal`.

    `max_tokens` limits the prompt and its digit. A longer text is shortened at its middle or its end (`cut`); the
    prompt around it stays whole. Raises ModelError if the folder holds no such model, or its tokenizer splits digits.
    """

    def __init__(
        self,
        folder: Path,
        axis: Axis,
        device: str = "auto",
        dtype: Precision | Literal["auto"] = "auto",
        max_tokens_per_batch: int | None = None,
        max_tokens: int = 2_048,
        cut: Cut = "middle",
    ) -> None:
        precision: Precision = best_precision() if dtype == "auto" else dtype
        self.axis = axis
        self.fingerprint = causal_fingerprint(folder, precision, max_tokens, cut)
        self._tokenizer = load_tokenizer(folder)
        model = on_device(load_model(folder, precision), device).eval()
        self._prompts = PromptTokenizer(self._tokenizer, axis, max_tokens, positions(model), cut, str(folder))
        self._reader = DigitReader(model, self._prompts.digits, max_tokens_per_batch)
        self._turn = Lock()

    def score(self, instructions: Sequence[str], responses: Sequence[str] | None = None) -> pl.DataFrame:
        """Return a frame of score (float64, null if unreadable) and status, one row per text in their order.

        Status: ok, truncated (scored on a shortened text), unreadable (blank or invalid text, or no finite logits). The
        complexity axis reads instructions only; the quality axis needs one response each. Threads take turns.
        """
        if self.axis == "quality" and (responses is None or len(responses) != len(instructions)):
            raise InputError(f"Quality is scored on answers; give one response for each of {len(instructions)} rows.")
        answers = responses if self.axis == "quality" and responses is not None else [None] * len(instructions)
        rows = [texts_of(self.axis, i, r) for i, r in zip(instructions, answers, strict=True)]
        # Duplicate texts are scored once; unreadable rows are not among the distinct ones.
        place = {row: i for i, row in enumerate(dict.fromkeys(row for row in rows if all(map(is_readable, row))))}
        with self._turn:
            prompts = self._prompts.encode(list(place))
            scores = expected_digit(self._reader.logits([prompt.ids for prompt in prompts]))
        known = [_result(float(s), prompt.truncated) for s, prompt in zip(scores, prompts, strict=True)]
        found = [known[place[row]] if row in place else (None, "unreadable") for row in rows]
        return pl.DataFrame(found, schema=SCORE_SCHEMA, orient="row")


def _result(score: float, truncated: bool) -> tuple[float | None, str]:
    if not np.isfinite(score):
        return None, "unreadable"
    return score, "truncated" if truncated else "ok"


def is_readable(text: str) -> bool:
    """Whether a text is not blank and has no unpaired surrogate, which is invalid Unicode."""
    return bool(text.strip()) and not any("\ud800" <= c <= "\udfff" for c in text)


def expected_digit(logits: np.ndarray) -> np.ndarray:
    """Return expected scores (n,) in [1, 6] from logits (n, 6) of the digits; NaN if the logits are not finite."""
    with np.errstate(invalid="ignore"):
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (weights * LEVELS).sum(axis=1) / weights.sum(axis=1)
