"""The layers of static encoders. The usual kinds are loaded without sentence-transformers: its import takes seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from deita_core.models.encoder_spec import static_folder

if TYPE_CHECKING:
    from torch import Tensor

# Token ids of all texts (t,) and where each text begins (n,): the means of token vectors (n, d), and text vectors.
Forward = Callable[["Tensor", "Tensor"], tuple["Tensor", "Tensor"]]
Layer = Callable[["Tensor"], "Tensor"]
# The names of a table of token vectors: of sentence-transformers, and of model2vec if it has no weights beside it.
TABLES = ("embedding.weight", "embeddings")
# What usual layers read and write.
NAMES = {"module_input_name", "module_output_name"}


def load_layers(path: Path) -> tuple[Any, Forward]:
    """The tokenizer and the layers of a static encoder; sentence-transformers loads those of other kinds."""
    try:
        return _usual(path)
    except (OSError, LookupError, TypeError, ValueError):
        # It also says which file is missing or damaged.
        return _by_library(path)


def _usual(path: Path) -> tuple[Any, Forward]:
    """As `load_layers`, for token vectors, normalisation and linear layers. Raises ValueError for any other."""
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from torch.nn.functional import embedding_bag

    folder, modules = static_folder(path), path / "modules.json"
    if folder is None:
        raise ValueError(f"{path} is no static encoder")
    layers = [_layer(path, module) for module in (orjson.loads(modules.read_bytes())[1:] if modules.exists() else [])]
    tables = load_file(folder / "model.safetensors")
    if len(tables) != 1 or not tables.keys() <= set(TABLES):
        raise ValueError(f"{folder} has {', '.join(tables)}")
    [table] = tables.values()
    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()

    def forward(ids: "Tensor", offsets: "Tensor") -> tuple["Tensor", "Tensor"]:
        vectors = means = embedding_bag(ids, table, offsets, mode="mean")
        for layer in layers:
            vectors = layer(vectors)
        return means, vectors

    return tokenizer, forward


def _layer(path: Path, module: dict[str, Any]) -> Layer:
    """A layer after the first. Raises ValueError if it is of another kind, or has a setting that is not known here."""
    import torch
    from safetensors.torch import load_file
    from torch.nn.functional import linear, normalize

    kind, folder = module["type"].rpartition(".")[2], path / module["path"]
    stored = folder / "config.json"
    config = orjson.loads(stored.read_bytes()) if stored.exists() else {}
    if any(config.pop(name, "sentence_embedding") != "sentence_embedding" for name in NAMES):
        raise ValueError(f"{folder} reads no text vectors")
    if kind == "Normalize" and not config:
        return lambda vectors: normalize(vectors, p=2, dim=-1)
    activation = config.pop("activation_function", None)
    known: dict[Any, Layer] = {
        "torch.nn.modules.linear.Identity": torch.nn.Identity(),
        "torch.nn.modules.activation.Tanh": torch.tanh,
    }
    if kind != "Dense" or config.keys() != {"in_features", "out_features", "bias"} or activation not in known:
        raise ValueError(f"{folder} is a layer of another kind")
    weights, activate = load_file(folder / "model.safetensors"), known[activation]
    weight, bias = weights["linear.weight"], weights.get("linear.bias")
    return lambda vectors: activate(linear(vectors, weight, bias))


def _by_library(path: Path) -> tuple[Any, Forward]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    if (path / "modules.json").exists():
        model = SentenceTransformer(str(path), device="cpu", local_files_only=True).eval()
    else:
        model = SentenceTransformer(modules=[StaticEmbedding.load(str(static_folder(path)))], device="cpu")

    def forward(ids: "Tensor", offsets: "Tensor") -> tuple["Tensor", "Tensor"]:
        features = model[0]({"input_ids": ids, "offsets": offsets})
        means = features["sentence_embedding"]
        for module in list(model)[1:]:
            features = module(features)
        return means, features["sentence_embedding"]

    return model[0].tokenizer, forward
