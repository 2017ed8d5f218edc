"""Causal language models: loaded from safetensors, on the best device, with their tokenizer and a fingerprint."""

from collections.abc import Sequence
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deita_core.conversation import content_id
from deita_core.errors import ModelError, cause
from deita_core.literals import Cut, Precision
from deita_core.models.devices import best_device

if TYPE_CHECKING:
    import torch

# A CPU's caches hold what about 1,000 tokens become on their way through a layer; a GPU wants far more to be busy.
TOKENS_PER_BATCH = {"cpu": 2_048, "mps": 8_192, "cuda": 32_768}
# Raised whenever the same model would give the same text another score: part of every fingerprint.
SCORING_VERSION = 1


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


def load_tokenizer(name: str | Path) -> Any:
    """The tokenizer of a model, by folder or hub name. Raises ModelError where there is none that gives offsets."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=Path(name).is_dir(), trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"The tokenizer of {name} cannot be loaded ({cause(error)}); check the model.") from error
    if not tokenizer.is_fast:
        raise ModelError(f"The tokenizer of {name} has no tokenizer.json; convert it to a fast one.")
    return tokenizer


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


def positions(model: Any) -> int | None:
    """How many tokens a model can tell apart by place, or None where it sets no bound."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def right_padded(rows: Sequence[Sequence[int]]) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Ids (n, width) padded after their end, and the mask (n, width) that is 1 on the ids.

    What a causal model makes of a token does not depend on those after it, so that any id may pad.
    """
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def causal_fingerprint(folder: Path, precision: Precision, max_tokens: int, cut: Cut) -> str:
    """A hash of a model's files, and of how it reads and in which precision it computes; not of the device."""
    parts = [precision, str(max_tokens), cut, str(SCORING_VERSION)]
    for path in sorted(p for kind in ("json", "model", "txt", "safetensors") for p in folder.glob(f"*.{kind}")):
        with path.open("rb") as file:
            parts.append(f"{path.name} {file_digest(file, 'sha256').hexdigest()}")
    return content_id("\n".join(parts).encode())
