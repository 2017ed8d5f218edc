"""Scoring with a causal language model: the expected value over the six digits it may print after the prompt.

Paper, section 2.2: score = sum over k of k * p_k, p the softmax over the logits of exactly the six digit tokens.
"""

from collections.abc import Sequence
from hashlib import file_digest
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import polars as pl

from deita_core.conversation import content_id
from deita_core.devices import best_device
from deita_core.encoders import Precision, best_precision
from deita_core.errors import InputError, ModelError, cause
from deita_core.scorers.digit_reader import DigitReader
from deita_core.scorers.digits import Cut, PromptTokenizer, load_tokenizer
from deita_core.scorers.heads import LEVELS, SCORE_SCHEMA, Axis
from deita_core.scorers.prompts import texts_of

# Raised whenever the same model would give the same text another score: part of every fingerprint.
SCORING_VERSION = 1


class CausalScorer:
    """A causal LM in a local folder as a scorer of one axis: a released checkpoint, or one that `train_causal` made.

    `max_tokens` bounds the prompt and its digit; a longer text is shortened at its middle or its end (`cut`), never
    the prompt around it. Raises ModelError where the folder holds no such model, or its tokenizer splits digits.
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
        """Score texts: a frame of score (float64, null when unread) and status, one row each in their order.

        Status: ok, truncated (scored on a shortened text), unreadable (blank or broken text, or no finite logits). The
        complexity axis reads instructions only; the quality axis needs a response for each. Threads take turns.
        """
        if self.axis == "quality" and (responses is None or len(responses) != len(instructions)):
            raise InputError(f"Quality is scored on answers; give one response for each of {len(instructions)} rows.")
        answers = responses if self.axis == "quality" and responses is not None else [None] * len(instructions)
        rows = [texts_of(self.axis, i, r) for i, r in zip(instructions, answers, strict=True)]
        # Doubled texts are scored once; a row that cannot be read has no place among the distinct ones.
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
    """Whether there is anything in a text, and no half of a surrogate pair, which is no Unicode."""
    return bool(text.strip()) and not any("\ud800" <= c <= "\udfff" for c in text)


def expected_digit(logits: np.ndarray) -> np.ndarray:
    """Expected scores (n,) in [1, 6] of logits (n, 6) over the digits; NaN where the logits are not finite."""
    with np.errstate(invalid="ignore"):
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (weights * LEVELS).sum(axis=1) / weights.sum(axis=1)


def causal_fingerprint(folder: Path, precision: Precision, max_tokens: int, cut: Cut) -> str:
    """A hash of a model's files, and of how it reads and in which precision it computes; not of the device."""
    parts = [precision, str(max_tokens), cut, str(SCORING_VERSION)]
    for path in sorted(p for kind in ("json", "model", "txt", "safetensors") for p in folder.glob(f"*.{kind}")):
        with path.open("rb") as file:
            parts.append(f"{path.name} {file_digest(file, 'sha256').hexdigest()}")
    return content_id("\n".join(parts).encode())


def on_device(model: Any, device: str) -> Any:
    """A model moved to a device, by default `best_device`, with the quickest attention there. Raises ModelError."""
    if device == "auto":
        device = best_device()
    try:
        model = model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"The model cannot be moved to {device} ({cause(error)}); try another device.") from error
    if may_flash(model):
        use_flash(model)
    return model


def may_flash(model: Any) -> bool:
    """Whether flash attention is installed and may compute this model where it is: on a GPU, in half precision."""
    import torch
    from transformers.utils import is_flash_attn_2_available

    half = model.device.type == "cuda" and model.dtype in (torch.bfloat16, torch.float16)
    # Models that ask for a kernel of their own would have it downloaded.
    own = getattr(model, "_compatible_flash_implementations", None)
    return half and is_flash_attn_2_available() and model._supports_flash_attn and not own


def use_flash(model: Any) -> None:
    """Compute attention with flash attention, where that can be done with this model on this GPU."""
    import torch

    usual = model.config._attn_implementation
    try:
        model.set_attn_implementation("flash_attention_2")
        with torch.inference_mode():
            model(input_ids=torch.zeros((1, 2), dtype=torch.long, device=model.device))
    except (ImportError, ValueError, RuntimeError):
        # An older GPU, or heads too wide: nothing but a try tells.
        model.set_attn_implementation(usual)


def load_model(name: str | Path, precision: Precision) -> Any:
    """A causal LM by folder or hub name, from safetensors, with all its weights; raises ModelError."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=getattr(torch, precision),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=Path(name).is_dir(),
            output_loading_info=True,
        )
    except Exception as error:
        raise ModelError(
            f"No causal model can be loaded from {name} ({cause(error)}); give a folder with its safetensors."
        ) from error
    if lost := [*found["missing_keys"], *found["mismatched_keys"]]:
        # The library fills these with random numbers; so would be the scores.
        raise ModelError(f"The model in {name} lacks {len(lost)} weights, as {lost[0]}; download it again.")
    return model


def positions(model: Any) -> int | None:
    """How many tokens a model can tell apart by place, or None where it sets no bound."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)
