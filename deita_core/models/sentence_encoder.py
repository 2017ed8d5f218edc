"""Sentence encoders: texts of any length to unit vectors, batched by tokens."""

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

# Batches of about 2,000 tokens keep a CPU's caches warm; a GPU wants them far larger.
TOKENS_PER_BATCH = {"cpu": 2_048, "mps": 8_192, "cuda": 65_536}
# The rounding of bfloat16 averages out over the tokens of a text; in shorter ones it does not, so they stay float32.
SHORT_TEXT_TOKENS = 16


@dataclass(frozen=True)
class Encoded:
    """Vectors (n, d) float32 of length 1, and how many tokens each text has in full (n,) int32."""

    vectors: np.ndarray
    n_tokens: np.ndarray


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
            check_cancelled()
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
