"""The encoder named `fast`: a static encoder, distilled from the laptop encoder at first use.

A token's vector is that of the token alone, reduced to the principal components of the vocabulary, with the weight
a / (a + p) of smooth inverse frequency (Arora et al. 2017), p being its share of the tokens of the example chains. A
text's vector is the sum over its tokens, normalised, without the mean and the first principal components of the
chains' texts, and normalised again. All of it is in the encoder's folder, so a vector never depends on the pool.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from deita_core.config.folders import cache_folder, example_chains, is_whole, make_once
from deita_core.conversation import content_id
from deita_core.errors import InputError, ModelError, cause
from deita_core.models.encoder_spec import FAST_ENCODER, LAPTOP_ENCODER, STATIC_VERSION, EncoderFiles, find_encoder

# Increased whenever the same model and texts would give another encoder; part of its fingerprint.
DISTILLATION_VERSION = 1
DIMENSIONS = 256
REMOVED = 3
SMOOTHING = 1e-4


def fast_spec() -> EncoderFiles:
    """Describe the encoder `fast` of this machine; makes nothing. Raises ModelError without the laptop encoder.

    Its identity is that of the model and the texts it is made from, not of its files: these differ in the last digits
    between processors, as the vectors of the laptop encoder do.
    """
    return distilled_spec(find_encoder(LAPTOP_ENCODER, "float32"), chain_texts())


def is_fast_made() -> bool:
    """True if the encoder `fast` is in this machine's cache."""
    return is_whole(fast_spec().path)


def find_fast() -> EncoderFiles:
    """Find the encoder `fast`; it is made at first use, which takes about 20 seconds on two cores."""
    return find_distilled(find_encoder(LAPTOP_ENCODER, "float32"), chain_texts())


def distilled_spec(teacher: EncoderFiles, texts: Sequence[str]) -> EncoderFiles:
    """Describe the static encoder that `distill` makes from a sentence encoder and texts."""
    tokenizer = content_id((teacher.path / "tokenizer.json").read_bytes())
    parts = [teacher.weights, tokenizer, *texts]
    recipe = content_id(orjson.dumps([DISTILLATION_VERSION, *parts]))
    return EncoderFiles(
        name=FAST_ENCODER,
        path=cache_folder() / "fast" / f"encoder-{recipe[:16]}",
        dim=min(DIMENSIONS, teacher.dim) - REMOVED,
        precision="float32",
        weights=recipe,
        fingerprint=content_id(f"distilled {recipe} {STATIC_VERSION}".encode()),
        kind="static",
    )


def find_distilled(teacher: EncoderFiles, texts: Sequence[str]) -> EncoderFiles:
    """The static encoder of a sentence encoder and texts, made unless the cache has it."""

    spec = distilled_spec(teacher, texts)
    what = f"the encoder {FAST_ENCODER} from {teacher.name}: about 20 seconds"
    make_once(spec.path, lambda folder: distill(teacher, texts, folder), what)
    return spec


def chain_texts() -> list[str]:
    """The distinct texts of the example chains: instructions and variants, in order."""
    texts: list[str] = []
    for file in sorted(example_chains().glob("*.jsonl")):
        try:
            chains = [orjson.loads(line) for line in file.read_bytes().splitlines()]
            for chain in chains:
                texts += [chain["instruction"]] if "instruction" in chain else []
                texts += [variant["text"] for variant in chain["variants"]]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InputError(
                f"The example chains {file} cannot be read ({cause(error)}); install the package again."
            ) from None
    return list(dict.fromkeys(texts))


def distill(teacher: EncoderFiles, texts: Sequence[str], folder: Path) -> None:
    """Write a static encoder made from a sentence encoder and texts, as sentence-transformers' modules."""
    from deita_core.models.sentence_encoder import SentenceEncoder

    # The same on every machine: no GPU, and single tokens are encoded in float32.
    encoder = SentenceEncoder(teacher, device="cpu")
    tokenizer = load_tokenizer(teacher.path)
    tokens = [text.ids for text in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    size = tokenizer.get_vocab_size()
    vectors = encoder.encode_tokens(range(size))
    vectors = vectors - vectors.mean(axis=0)
    reduced = vectors @ principal_components(vectors, min(DIMENSIONS, teacher.dim)).T

    counts = np.bincount([token for ids in tokens for token in ids], minlength=size)
    # Smoothed: a token that the texts lack counts as seen once.
    share = (counts + 1) / (counts.sum() + size)
    table = (reduced * (SMOOTHING / (SMOOTHING + share))[:, None]).astype(np.float32)
    unknown = tokenizer.token_to_id(getattr(tokenizer.model, "unk_token", None) or "")
    if unknown is not None:
        # A token that stands for anything says nothing.
        table[unknown] = 0

    sums = np.stack([table[ids].sum(axis=0, dtype=np.float64) for ids in tokens])
    known = sums[np.linalg.norm(sums, axis=1) > 0]
    units = known / np.linalg.norm(known, axis=1, keepdims=True)
    mean = units.mean(axis=0)
    # The space is rotated so that the components to remove are its first coordinates. The matrix that removes them then
    # holds ones and zeros only, and its product is exact: it does not depend on the texts in a batch, as others do.
    rotation, _ = np.linalg.qr(principal_components(units - mean, REMOVED).T, mode="complete")
    freeze(
        tokenizer,
        (table @ rotation).astype(np.float32),
        np.eye(len(mean))[REMOVED:],
        -(mean @ rotation)[REMOVED:],
        folder,
    )


def write_stand_in(spec: EncoderFiles, folder: Path) -> None:
    """Write an encoder without information of the shape and speed of `fast`, which need not be made."""
    tokenizer = load_tokenizer(find_encoder(LAPTOP_ENCODER, "float32").path)
    table = np.ones((tokenizer.get_vocab_size(), spec.dim), dtype=np.float32)
    freeze(tokenizer, table, np.eye(spec.dim), np.zeros(spec.dim), folder)


def principal_components(rows: np.ndarray, count: int) -> np.ndarray:
    """The first principal components (count, d) of centred rows (n, d); the largest coordinate of each is positive.

    The sign is fixed so that vectors from different machines, whose last digits differ, can be compared.
    """
    _, directions = np.linalg.eigh(rows.T @ rows / len(rows))
    first = directions[:, ::-1][:, :count].T
    largest = first[np.arange(len(first)), np.abs(first).argmax(axis=1)]
    return first * np.sign(largest)[:, None]


def load_tokenizer(folder: Path) -> Any:
    """A tokenizer that reads a text to its end."""
    from tokenizers import Tokenizer

    try:
        tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:
        raise ModelError(f"The tokenizer.json of {folder} cannot be loaded ({cause(error)}); check it.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def freeze(tokenizer: Any, table: np.ndarray, weight: np.ndarray, bias: np.ndarray, folder: Path) -> None:
    """Write a static encoder: the mean of token vectors, normalised, times a matrix plus a bias, normalised."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, StaticEmbedding

    linear = Dense(
        table.shape[1],
        len(weight),
        activation_function=torch.nn.Identity(),
        init_weight=torch.from_numpy(weight).float(),
        init_bias=torch.from_numpy(bias).float(),
    )
    modules = [StaticEmbedding(tokenizer, table), Normalize(), linear, Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
