"""Loads causal language models and classifiers from safetensors, with tokenizer and fingerprint, onto a device."""

from collections.abc import Callable, Sequence
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from deita_core.conversation import content_id
from deita_core.errors import ModelError, cause
from deita_core.literals import Cut, Precision
from deita_core.models.devices import best_device
from deita_core.models.small_lm import local_model

if TYPE_CHECKING:
    import torch

# A CPU's caches hold a layer's activations for about 1,000 tokens; a GPU needs far larger batches to be busy.
TOKENS_PER_BATCH = {"cpu": 2_048, "mps": 8_192, "cuda": 32_768}
# Increased whenever the same model would give the same text another score; part of every fingerprint.
SCORING_VERSION = 1
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_KINDS = {"causal": "causal model", "classifier": "sequence classifier"}


def load_model(name: str | Path, precision: Precision, kind: Literal["causal", "classifier"] = "causal") -> Any:
    """Load a model of a kind and all its weights from a folder or the hub, in safetensors; raises ModelError.

    kind: a causal LM, or a sequence classifier.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    name = local_model(name)
    loader = AutoModelForCausalLM if kind == "causal" else AutoModelForSequenceClassification
    try:
        model, found = loader.from_pretrained(
            name,
            dtype=getattr(torch, precision),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=Path(name).is_dir(),
            output_loading_info=True,
        )
    except Exception as error:
        raise ModelError(
            f"No {_KINDS[kind]} can be loaded from {name} ({cause(error)}); give a folder with its safetensors."
        ) from error
    if lost := [*found["missing_keys"], *found["mismatched_keys"]]:
        # The library fills missing weights with random numbers, so scores would be random.
        raise ModelError(f"The model in {name} lacks {len(lost)} weights, as {lost[0]}; download it again.")
    return model


def model_folder(name: str | Path) -> Path:
    """The folder of a model: as given, of smollm2-135m, or of a hub name, downloaded. Raises ModelError if none."""
    if (folder := Path(local_model(name)).expanduser()).is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=HUB_FILES))
    except Exception as error:
        raise ModelError(
            f"The model {name} is neither a folder, nor on the hub as seen from here ({cause(error)}); check the name, "
            f"or give a folder."
        ) from error


def load_tokenizer(name: str | Path) -> Any:
    """Load a model's tokenizer from a folder or the hub. Raises ModelError if there is none with character offsets."""
    from transformers import AutoTokenizer

    name = local_model(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=Path(name).is_dir(), trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"The tokenizer of {name} cannot be loaded ({cause(error)}); check the model.") from error
    if not tokenizer.is_fast:
        raise ModelError(f"The tokenizer of {name} has no tokenizer.json; convert it to a fast one.")
    return tokenizer


def on_device(model: Any, device: str) -> Any:
    """Move a model to a device, by default `best_device`, and use its fastest attention. Raises ModelError."""
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
    """Whether flash attention is installed and supports this model on its device: a GPU, in half precision."""
    import torch
    from transformers.utils import is_flash_attn_2_available

    half = model.device.type == "cuda" and model.dtype in (torch.bfloat16, torch.float16)
    # Models with a kernel of their own would download it.
    own = getattr(model, "_compatible_flash_implementations", None)
    return half and is_flash_attn_2_available() and model._supports_flash_attn and not own


def use_flash(model: Any) -> None:
    """Use flash attention if it works for this model on this GPU."""
    import torch

    usual = model.config._attn_implementation
    try:
        model.set_attn_implementation("flash_attention_2")
        with torch.inference_mode():
            model(input_ids=torch.zeros((1, 2), dtype=torch.long, device=model.device))
    except (ImportError, ValueError, RuntimeError):
        # An older GPU, or attention heads that are too wide: only a test run can tell.
        model.set_attn_implementation(usual)


def positions(model: Any) -> int | None:
    """Return the maximum number of positions of a model, or None if it has no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def within_memory(compute: Callable[[], np.ndarray], rows: int, refusal: str) -> np.ndarray | None:
    """Return what a batch of rows gives, or None if the GPU's memory ran out: then a smaller batch may fit.

    Raises ModelError with the sentence `refusal` if it ran out for a single row.
    """
    import torch

    try:
        return compute()
    except torch.cuda.OutOfMemoryError:
        if rows == 1:
            raise ModelError(refusal) from None
    # Outside the handler, which keeps the failed batch's tensors alive.
    torch.cuda.empty_cache()
    return None


def right_padded(rows: Sequence[Sequence[int]]) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return ids (n, width), right padded, and the mask (n, width) that is 1 on the ids.

    A causal model's states do not depend on later tokens, so any id can be padding.
    """
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def causal_fingerprint(folder: Path, precision: Precision, max_tokens: int, cut: Cut) -> str:
    """Return a hash of a model's files, `max_tokens`, `cut` and precision; not of the device."""
    parts = [precision, str(max_tokens), cut, str(SCORING_VERSION)]
    return content_id("\n".join([*parts, *_digests(folder, "json", "model", "txt", "safetensors")]).encode())


def weights_id(name: str | Path) -> str:
    """A hash of the files of a model or an adapter in a folder; of its name alone for a model on the hub."""
    folder = Path(local_model(name)).expanduser()
    digests = _digests(folder, "json", "model", "txt", "jinja", "safetensors") if folder.is_dir() else [str(name)]
    return content_id("\n".join(digests).encode())


def _digests(folder: Path, *kinds: str) -> list[str]:
    """Name and SHA-256 of each file of these kinds in a folder."""
    digests = []
    for path in sorted(p for kind in kinds for p in folder.glob(f"*.{kind}")):
        with path.open("rb") as file:
            digests.append(f"{path.name} {file_digest(file, 'sha256').hexdigest()}")
    return digests
