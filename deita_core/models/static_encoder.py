"""Static encoders: unit vectors of texts as means of their tokens' vectors, hundreds of times faster on a CPU."""

from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Any

import numpy as np

from deita_core.models.cancellation import check_cancelled
from deita_core.models.causal_lm import load_tokenizer
from deita_core.models.encoder_spec import EncoderFiles, static_folder
from deita_core.models.sentence_encoder import Encoded, SentenceEncoder

# Tokens whose vectors are in memory at once: 0.4 GB with 384 dimensions.
TOKENS_PER_BATCH = 262_144


class StaticEncoder:
    """A loaded model whose first module is a StaticEmbedding: of sentence-transformers, or of model2vec.

    There is no window: every token of a text counts. A text without a token of the vocabulary has the zero vector.
    """

    def __init__(self, files: EncoderFiles) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        self.files = files
        self._torch, self._turn = torch, Lock()
        # The vectors are looked up, which a GPU does no faster than a CPU.
        if (files.path / "modules.json").exists():
            self._model = SentenceTransformer(str(files.path), device="cpu", local_files_only=True).eval()
        else:
            self._model = SentenceTransformer(
                modules=[StaticEmbedding.load(str(static_folder(files.path)))], device="cpu"
            )
        self._tokenizer: Any = self._model[0].tokenizer

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self.files.dim

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode texts of any length, in their order; a text's vector does not depend on the others."""
        with self._turn:
            encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
            tokens = [text.ids for text in encoded]
            parts = [self._forward(batch) for batch in _batches(tokens)]
        vectors = np.concatenate(parts) if parts else np.zeros((0, self.dim))
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
        return Encoded(vectors.astype(np.float32), np.array([len(ids) for ids in tokens], dtype=np.int32))

    def _forward(self, batch: list[list[int]]) -> np.ndarray:
        check_cancelled()
        lengths = [len(ids) for ids in batch]
        ids = np.fromiter((token for text in batch for token in text), dtype=np.int64, count=sum(lengths))
        offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        features = {"input_ids": self._torch.from_numpy(ids), "offsets": self._torch.from_numpy(offsets)}
        with self._torch.inference_mode():
            vectors = self._model(features)["sentence_embedding"].double().numpy()
        # Modules after the first may turn the vector of a text without tokens into another one.
        return np.where(np.array(lengths)[:, None] > 0, vectors, 0.0)


def count_tokens(files: EncoderFiles, texts: Sequence[str]) -> list[int]:
    """The number of tokens of each text, without special ones, by the tokenizer of any encoder."""
    if files.kind == "static":
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(static_folder(files.path) / "tokenizer.json"))  # type: ignore[operator]
        return [len(text.ids) for text in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
    rows = load_tokenizer(files.path)(
        list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
    )  # fmt: skip
    return list(map(len, rows["input_ids"]))


def _batches(tokens: list[list[int]]) -> Iterator[list[list[int]]]:
    batch: list[list[int]] = []
    size = 0
    for ids in tokens:
        if batch and size + len(ids) > TOKENS_PER_BATCH:
            yield batch
            batch, size = [], 0
        batch.append(ids)
        size += len(ids)
    if batch:
        yield batch


TextEncoder = SentenceEncoder | StaticEncoder


def load_text_encoder(
    files: EncoderFiles, device: str = "auto", max_tokens_per_batch: int | None = None
) -> TextEncoder:
    """Load an encoder of single texts."""
    return StaticEncoder(files) if files.kind == "static" else SentenceEncoder(files, device, max_tokens_per_batch)
