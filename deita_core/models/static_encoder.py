"""Static encoders: unit vectors of texts as means of their tokens' vectors, hundreds of times faster on a CPU."""

from collections.abc import Iterator, Sequence
from threading import Lock

import numpy as np

from deita_core.models.cancellation import check_cancelled
from deita_core.models.causal_lm import load_tokenizer
from deita_core.models.encoder_spec import EncoderFiles, static_folder
from deita_core.models.sentence_encoder import Encoded, SentenceEncoder
from deita_core.models.static_layers import load_layers

# Characters of the texts that are tokenized at once: some hundred megabytes of tokens.
CHARS_PER_BATCH = 2_000_000


class StaticEncoder:
    """A loaded model whose first module is a StaticEmbedding: of sentence-transformers, or of model2vec.

    There is no window: every token of a text counts. A text without a known token has the zero vector.
    """

    def __init__(self, files: EncoderFiles) -> None:
        import torch

        self.files = files
        self._torch, self._turn = torch, Lock()
        # On the CPU: the vectors are looked up, which a GPU does no faster.
        self._tokenizer, self._forward = load_layers(files.path)

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self.files.dim

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode texts of any length, in their order; a text's vector does not depend on the others."""
        with self._turn:
            parts = [self._encode(batch) for batch in _batches(texts)]
        if not parts:
            return Encoded(np.zeros((0, self.dim), np.float32), np.zeros(0, np.int32))
        vectors, n_tokens = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Encoded(vectors, n_tokens)

    def _encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (n, d) float32 and numbers of tokens (n,) int32 of one batch."""
        check_cancelled()
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ids = [np.array(text.ids, dtype=np.int64) for text in encoded]
        lengths = np.array([len(text) for text in ids], dtype=np.int32)
        offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        with self._torch.inference_mode():
            means, found = self._forward(self._torch.from_numpy(np.concatenate(ids)), self._torch.from_numpy(offsets))
            # Layers after the first may turn the vector of a text without known tokens into another one.
            vectors = found.double().masked_fill(~means.any(dim=1, keepdim=True), 0.0).numpy()
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
        return vectors.astype(np.float32), lengths


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


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and size + len(text) > CHARS_PER_BATCH:
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch


TextEncoder = SentenceEncoder | StaticEncoder


def load_text_encoder(
    files: EncoderFiles, device: str = "auto", max_tokens_per_batch: int | None = None
) -> TextEncoder:
    """Load an encoder of single texts."""
    return StaticEncoder(files) if files.kind == "static" else SentenceEncoder(files, device, max_tokens_per_batch)
