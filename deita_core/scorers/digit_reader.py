"""Computes a causal language model's logits of six tokens after each prompt, batched by length and memory.

The common prefix of an axis's prompts is computed once and reused in the batches where that is faster.
"""

from collections.abc import Iterable
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deita_core.models.cancellation import check_cancelled
from deita_core.models.causal_lm import TOKENS_PER_BATCH, right_padded, within_memory

if TYPE_CHECKING:
    import torch
    from transformers import Cache

# A row shorter than this share of the widest starts a new batch, unless the current one would be tiny.
NEAR = 0.9
TINY_BATCH = 512
# Attention over a stored prefix needs a mask, which costs more than the prefix if the rows are much longer. Measured on
# 2 CPU cores with 25 common tokens: rows of 48 take 0.55 to 0.66 of the time, of 96 0.78 to 0.96, of 192 0.97 to 1.04;
# wider models gain more.
ROWS_PER_PREFIX = 16
WIDTHS_PER_PREFIX = 6


class Prefix(NamedTuple):
    """The common first tokens of rows, as each layer's keys and values (1, heads, n, d)."""

    n: int
    layers: "list[tuple[torch.Tensor, torch.Tensor]]"

    def cache(self, rows: int) -> "Cache":
        """Return a cache for one batch; tokens added to it do not change the prefix."""
        from transformers.cache_utils import DynamicCache

        cache = DynamicCache(self.layers)
        for layer in cache.layers:
            # Views: the rows share the prefix until their own tokens are appended.
            layer.keys, layer.values = (part.expand(rows, -1, -1, -1) for part in (layer.keys, layer.values))
        return cache


class DigitReader:
    """A loaded causal LM that computes only the logits of six tokens after each prompt."""

    def __init__(self, model: Any, digits: list[int], max_tokens_per_batch: int | None = None) -> None:
        self._model, self._digits = model, digits
        self._device = model.device
        self._budget = max_tokens_per_batch or TOKENS_PER_BATCH.get(self._device.type, TOKENS_PER_BATCH["mps"])
        self._decoder = model.get_decoder() or model.base_model
        self._six_rows = self._digits_follow_from_rows()
        self._resumes = self._six_rows and self._can_resume_from_prefix()

    def logits(self, rows: list[list[int]]) -> np.ndarray:
        """Return logits (n, 6) float64 of the digits after prompts of any lengths; batching does not affect them."""
        found = np.zeros((len(rows), len(self._digits)))
        # Longest first: if memory runs out, it does so at once.
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        common = self._common_prefix(rows)
        while order:
            check_cancelled()
            prefix = common if common and len(rows[order[0]]) <= WIDTHS_PER_PREFIX * common.n else None
            skipped = prefix.n if prefix else 0
            batch = order[: batch_size((len(rows[i]) - skipped for i in order), self._budget)]
            if (logits := self._within_memory([rows[i] for i in batch], prefix)) is not None:
                found[batch] = logits
                order = order[len(batch) :]
        return found

    def _within_memory(self, rows: list[list[int]], prefix: Prefix | None) -> np.ndarray | None:
        """Return the logits of one batch, or None if memory ran out; then the budget is halved."""
        width = len(rows[0]) - (prefix.n if prefix else 0)
        refusal = f"A text of {len(rows[0])} tokens does not fit in the memory of {self._device}; lower max_tokens."
        logits = within_memory(lambda: self._forward(rows, prefix), len(rows), refusal)
        if logits is None:
            self._budget = len(rows) * width // 2
        return logits

    def _forward(self, rows: list[list[int]], prefix: Prefix | None) -> np.ndarray:
        import torch

        with torch.inference_mode():
            logits = self._from_rows(rows, prefix) if self._six_rows else self._from_own_head(rows)
            return logits.double().cpu().numpy()

    def _from_rows(self, rows: list[list[int]], prefix: Prefix | None) -> "torch.Tensor":
        """Multiply the last hidden states by six rows of the output embedding in float32; skips the full vocabulary."""
        head = self._model.get_output_embeddings()
        state = self._last_states(rows, prefix).float()
        # A sum, not a matrix product: the same rounding for any number of rows, and float32 under autocast too.
        logits = (state[:, None, :] * head.weight[self._digits].float()).sum(dim=-1)
        return logits if head.bias is None else logits + head.bias[self._digits].float()

    def _last_states(self, rows: list[list[int]], prefix: Prefix | None) -> "torch.Tensor":
        """Return the hidden states (n, d) after the last token of each row."""
        import torch

        ids, last = self._padded([row[prefix.n :] for row in rows] if prefix else rows)[::2]
        past = {"past_key_values": prefix.cache(len(rows)), "use_cache": True} if prefix else {"use_cache": False}
        # No mask: causal attention ignores the padding after a row, and is faster without one.
        hidden = self._decoder(input_ids=ids, **past).last_hidden_state
        return hidden[torch.arange(len(ids), device=ids.device), last]

    def _from_own_head(self, rows: list[list[int]]) -> "torch.Tensor":
        return last_logits(self._model, *self._padded(rows))[:, self._digits].float()

    def _padded(self, rows: list[list[int]]) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
        """Return ids and mask (n, width), and the position of each row's last token (n,)."""
        ids, mask = (part.to(self._device) for part in right_padded(rows))
        return ids, mask, mask.sum(dim=1) - 1

    def _common_prefix(self, rows: list[list[int]]) -> Prefix | None:
        """Return the rows' common prefix, shorter than any row, or None if too few rows are short enough to benefit."""
        if not self._resumes or len(rows) < ROWS_PER_PREFIX:
            return None
        n = common_length(rows)
        if sum(len(row) <= WIDTHS_PER_PREFIX * n for row in rows) < ROWS_PER_PREFIX:
            return None
        return self._prefix(rows[0][:n])

    def _prefix(self, ids: list[int]) -> Prefix | None:
        """Return these tokens' keys and values, or None if the model does not store exactly those of every token."""
        import torch
        from transformers.cache_utils import DynamicLayer

        with torch.inference_mode():
            made = self._decoder(input_ids=torch.tensor([ids], device=self._device), use_cache=True)
        layers = getattr(getattr(made, "past_key_values", None), "layers", [])
        # Its subclasses drop tokens outside a window, or store other states.
        if not layers or any(type(layer) is not DynamicLayer or layer.keys is None for layer in layers):
            return None
        return Prefix(len(ids), [(layer.keys, layer.values) for layer in layers])

    def _can_resume_from_prefix(self) -> bool:
        """Whether this model computes the same states for tokens after a stored prefix as for all tokens at once."""
        import torch

        prefix = self._prefix(self._digits)
        if prefix is None:
            return False
        rows = [self._digits + self._digits[:n] for n in (3, 1)]
        with torch.inference_mode():
            plain, resumed = (self._last_states(rows, start).float() for start in (None, prefix))
        allowed = 1e-4 if self._model.dtype == torch.float32 else 0.05
        return bool((plain - resumed).norm() <= allowed * plain.norm())

    def _digits_follow_from_rows(self) -> bool:
        """Whether this model's logits are exactly its hidden states times its output embedding.

        Some models cap or scale them afterwards. The output layer is made to return known numbers; the model's logits
        then show any change, in any precision.
        """
        import torch

        head = self._model.get_output_embeddings()
        if not isinstance(head, torch.nn.Linear):
            return False
        ids, mask = (part.to(self._device) for part in right_padded([self._digits]))
        seen: list[torch.Tensor] = []

        def answer(_: Any, given: tuple["torch.Tensor"], made: "torch.Tensor") -> "torch.Tensor":
            seen.append(given[0])
            return torch.linspace(-64, 64, made.shape[-1]).to(made).expand_as(made).clone()

        handle = head.register_forward_hook(answer)
        try:
            with torch.inference_mode():
                own = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0, -1].float()
                hidden = self._decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        finally:
            handle.remove()
        returned = torch.linspace(-64, 64, len(own)).to(head.weight).float()
        alike = len(seen) == 1 and torch.allclose(seen[0][0, -1].float(), hidden[0, -1].float(), rtol=1e-2, atol=1e-3)
        return alike and torch.equal(own, returned)


def batch_size(lengths: Iterable[int], budget: int) -> int:
    """Return how many rows of descending lengths form the next batch: at least one, at most `budget` padded tokens.

    Rows much shorter than the first are left to the next batch, to avoid padding.
    """
    lengths = iter(lengths)
    width = next(lengths)

    def fits(row: tuple[int, int]) -> bool:
        tokens = row[0] * width
        return tokens <= budget and (tokens <= TINY_BATCH or row[1] >= NEAR * width)

    return 1 + sum(1 for _ in takewhile(fits, enumerate(lengths, start=2)))


def common_length(rows: list[list[int]]) -> int:
    """Return how many first ids all rows have in common, leaving at least one id in each."""
    least, most = min(rows), max(rows)
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(least, most, strict=False)))
    return min(alike, min(map(len, rows)) - 1)


def last_logits(model: Any, ids: "torch.Tensor", mask: "torch.Tensor", last: "torch.Tensor") -> "torch.Tensor":
    """Return a model's logits (n, vocabulary) after the token `last` (n,) of each row; only there, if supported."""
    import inspect

    import torch

    row = torch.arange(len(ids), device=ids.device)
    if "logits_to_keep" not in inspect.signature(type(without_adapter(model)).forward).parameters:
        return model(input_ids=ids, attention_mask=mask, use_cache=False).logits[row, last]
    places, place = last.unique(return_inverse=True)
    kept = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=places).logits
    return kept[row, place]


def without_adapter(model: Any) -> Any:
    """Return the language model without its LoRA wrapper; the adapter's layers stay in it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
