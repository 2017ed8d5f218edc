"""A causal language model that answers conversations, with its own chat template, in batches.

It is a folder, a hub name or smollm2-135m. A folder may hold a LoRA adapter in place of a whole model.
"""

from collections.abc import Mapping, Sequence
from hashlib import file_digest
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from deita_core.conversation import content_id
from deita_core.errors import ModelError, cause
from deita_core.literals import Precision
from deita_core.models.causal_lm import load_model, load_tokenizer, on_device, positions
from deita_core.models.small_lm import local_model

ADAPTER = "adapter_config.json"
# The files that a model's answers depend on.
KINDS = ("json", "jinja", "txt", "model", "safetensors")
# Increased whenever the same model would give the same conversation another answer.
CHAT_VERSION = 1


class Generated(NamedTuple):
    """An answer: its text, whether it was cut off at the limit of tokens, and counts of tokens."""

    text: str
    is_cut: bool
    prompt_tokens: int
    completion_tokens: int


class ModelFiles(NamedTuple):
    """A model's folder, and that of its base model if it is a LoRA adapter."""

    folder: Path
    base: Path | None

    def fingerprint(self, precision: Precision) -> str:
        """A hash of the files and the precision; not of the device."""
        parts = [precision, str(CHAT_VERSION)]
        for folder in (self.folder, self.base):
            files = [path for kind in KINDS for path in sorted(folder.glob(f"*.{kind}"))] if folder else []
            for path in files:
                with path.open("rb") as file:
                    parts.append(f"{path.name} {file_digest(file, 'sha256').hexdigest()}")
        return content_id("\n".join(parts).encode())

    def load(self, precision: Precision, device: str = "auto") -> tuple[Any, Any]:
        """Load the model, with its adapter in it, and its tokenizer. Raises ModelError."""
        model = load_model(self.base or self.folder, precision)
        if self.base:
            from peft import PeftModel

            try:
                # Without the wrapper, which has generation settings of its own; the adapter's layers stay in the model.
                model = PeftModel.from_pretrained(model, self.folder).get_base_model()
            except Exception as error:
                raise ModelError(f"The adapter in {self.folder} cannot be loaded ({cause(error)}).") from error
        has_tokenizer = (self.folder / "tokenizer_config.json").exists()
        tokenizer = load_tokenizer(self.folder if has_tokenizer else self.base or self.folder)
        return on_device(model, device).eval(), tokenizer


def find_model(name: str | Path) -> ModelFiles:
    """Find a model, and its base model if it is an adapter; a hub name is downloaded. Raises ModelError."""
    folder = _folder(name)
    if not (folder / ADAPTER).exists():
        return ModelFiles(folder, None)
    try:
        base = str(orjson.loads((folder / ADAPTER).read_bytes())["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / ADAPTER} does not name the adapter's base model; save it with peft.") from error
    return ModelFiles(folder, _folder(base))


def _folder(name: str | Path) -> Path:
    if (folder := Path(local_model(name)).expanduser()).is_dir():
        return folder
    if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        raise ModelError(f"There is no model {name}; give a folder, a hub name or smollm2-135m.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=[f"*.{kind}" for kind in KINDS]))
    except Exception as error:
        raise ModelError(
            f"The model {name} is neither a folder nor on the hub as seen from here ({cause(error)}); check the name."
        ) from error


class ChatModel:
    """A loaded model that answers conversations. Raises ModelError if it has no chat template."""

    def __init__(self, files: ModelFiles, precision: Precision, device: str = "auto") -> None:
        self._model, self._tokenizer = files.load(precision, device)
        self._name = files.folder
        if not self._tokenizer.chat_template:
            raise ModelError(
                f"The tokenizer in {files.folder} has no chat template, so it is unknown how to put a question; give a "
                f"model that was trained on conversations."
            )
        self._positions = positions(self._model)
        self._ends = _ends(self._model, self._tokenizer)

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The ids of a conversation as its template writes it, up to where the answer begins. Raises ModelError."""
        try:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except Exception as error:
            raise ModelError(f"The chat template in {self._name} fails ({cause(error)}); check the model.") from error
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def longest(self, max_tokens: int) -> tuple[int | None, int]:
        """The longest prompt (None: any) and the longest answer in tokens; an answer has at most half the positions."""
        if self._positions is None:
            return None, max_tokens
        answer = min(max_tokens, self._positions // 2)
        return self._positions - answer, answer

    def generate(
        self, prompts: Sequence[Sequence[int]], max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Generated]:
        """Answer prompts as one batch; greedy at temperature 0, else sampled, the same for the same batch and seed."""
        import torch
        from transformers import GenerationConfig

        width = max(map(len, prompts))
        # A causal model goes on at the right end, so padding stands at the left.
        ids = torch.tensor([[self._ends[0]] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        # In place of the model's own settings, which may ask for sampling or a penalty.
        self._model.generation_config = GenerationConfig(
            max_new_tokens=max_tokens, eos_token_id=self._ends, pad_token_id=self._ends[0], **sampling
        )
        torch.manual_seed(seed)
        with torch.inference_mode():
            made = self._model.generate(
                input_ids=ids.to(self._model.device), attention_mask=mask.to(self._model.device)
            )
        rows = made[:, width:].tolist()
        return [self._read(prompt, row) for prompt, row in zip(prompts, rows, strict=True)]

    def _read(self, prompt: Sequence[int], row: list[int]) -> Generated:
        end = next((place for place, id_ in enumerate(row) if id_ in self._ends), None)
        text = self._tokenizer.decode(row[:end], skip_special_tokens=True).strip()
        return Generated(text, end is None, len(prompt), len(row) if end is None else end + 1)


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """The ids that end an answer: the tokenizer's, and those of the model's own settings."""
    given = model.generation_config.eos_token_id if model.generation_config else None
    ends = [tokenizer.eos_token_id, *(given if isinstance(given, list) else [given])]
    found = list(dict.fromkeys(id_ for id_ in ends if id_ is not None))
    if not found:
        raise ModelError("The model has no token that ends an answer (eos_token); check its tokenizer.")
    return found
