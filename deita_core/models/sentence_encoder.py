"""Sentence encoders: unit vectors of texts of any length, batched by tokens."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np

from deita_core.models.cancellation import check_cancelled
from deita_core.models.devices import best_device
from deita_core.models.encoder_spec import EncoderFiles

# Batches of about 2,000 tokens fit a CPU's caches; a GPU needs far larger ones.
TOKENS_PER_BATCH = {"cpu": 2_048, "mps": 8_192, "cuda": 65_536}
# bfloat16 rounding averages out over a text's tokens, but not in texts this short, so they use float32.
SHORT_TEXT_TOKENS = 16


@dataclass(frozen=True)
class Encoded:
    """Unit vectors (n, d) float32, and each text's full number of tokens (n,) int32."""

    vectors: np.ndarray
    n_tokens: np.ndarray


class SentenceEncoder:
    """A loaded sentence-transformers model.

    A text longer than the model's window is split into windows of even length. Its vector is their mean weighted by
    tokens, so that every part of a long answer counts.
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
        """Dimension of the vectors."""
        return int(self._model.get_embedding_dimension())

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode texts of any length, in their order; a text's vector does not depend on the others.

        Threads take turns, because tokenizers require it.
        """
        with self._turn:
            return self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> Encoded:
        tokens = self._tokenize(texts)
        windows = [(i, ids) for i, text in enumerate(tokens) for ids in split_evenly(text, self._window)]
        sums = np.zeros((len(texts), self.dim), dtype=np.float64)
        for width, batch in padded_batches(windows, self._specials, self._longest, self._budget):
            check_cancelled()
            owners = [i for i, _ in batch]
            lengths = np.array([max(1, len(ids)) for _, ids in batch], dtype=np.float64)
            np.add.at(sums, owners, self._forward([ids for _, ids in batch], width) * lengths[:, None])
        sums /= np.linalg.norm(sums, axis=1, keepdims=True)
        return Encoded(sums.astype(np.float32), np.array([len(t) + self._specials for t in tokens], dtype=np.int32))

    def encode_tokens(self, tokens: Sequence[int]) -> np.ndarray:
        """Unit vectors (n, d) float64 of single tokens of the vocabulary, each as a text of its own, in float32."""
        width = 1 + self._specials
        rows = self._budget // width
        batches = [tokens[start : start + rows] for start in range(0, len(tokens), rows)]
        with self._turn:
            return np.concatenate([self._forward([[token] for token in batch], width) for batch in batches])

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        # verbose=False: no warning about texts longer than the window, because they are split below.
        encoded = self._tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, truncation=False, verbose=False
        )
        return list(encoded["input_ids"])

    def _forward(self, batch: list[list[int]], width: int) -> np.ndarray:
        torch = self._torch
        rows = [[*self._prefix, *ids, *self._suffix] for ids in batch]
        # Always the full number of rows: rounding depends on a batch's shape, and a text's vector must not depend on
        # how many other texts are encoded with it.
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
    """Return the special tokens that the tokenizer adds before and after a text."""
    encoded = tokenizer("a", add_special_tokens=True, return_special_tokens_mask=True)
    ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
    first, last = special.index(0), len(special) - special[::-1].index(0)
    return ids[:first], ids[last:]


def split_evenly(items: list[int], size: int) -> Iterator[list[int]]:
    """Split a list into the fewest parts of at most `size`, of nearly equal length; an empty list is one part."""
    parts = max(1, -(-len(items) // size))
    bounds = [round(i * len(items) / parts) for i in range(parts + 1)]
    return (items[a:b] for a, b in pairwise(bounds))


def padded_width(tokens: int, longest: int) -> int:
    """Return the padded width of a window of so many tokens: one of a few widths, at most `longest`."""
    step = 8 if tokens <= 64 else 16 if tokens <= 128 else 32
    return min(-(-tokens // step) * step, max(longest, tokens))


def padded_batches(
    windows: Iterable[tuple[int, list[int]]], specials: int, longest: int, budget: int
) -> Iterator[tuple[int, list[tuple[int, list[int]]]]]:
    """Group windows by padded width; yields (width, windows) with at most `budget` tokens per batch (or one row).

    `specials` tokens are added to each window.
    """
    by_width: dict[int, list[tuple[int, list[int]]]] = {}
    for owner, ids in windows:
        by_width.setdefault(padded_width(len(ids) + specials, longest), []).append((owner, ids))
    for width, members in sorted(by_width.items()):
        rows = max(1, budget // width)
        yield from ((width, members[start : start + rows]) for start in range(0, len(members), rows))
