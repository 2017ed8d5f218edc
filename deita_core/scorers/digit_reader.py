"""What a causal language model would say of six tokens after each prompt: batched by length and memory."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deita_core.errors import ModelError

if TYPE_CHECKING:
    import torch

TOKENS_PER_BATCH = {"cpu": 2_048, "mps": 8_192, "cuda": 32_768}


class DigitReader:
    """A loaded causal LM, asked for nothing but the logits of six tokens after each prompt."""

    def __init__(self, model: Any, digits: list[int], max_tokens_per_batch: int | None = None) -> None:
        self._model, self._digits = model, digits
        self._device = model.device
        self._budget = max_tokens_per_batch or TOKENS_PER_BATCH.get(self._device.type, TOKENS_PER_BATCH["mps"])
        self._decoder = model.get_decoder() or model.base_model
        self._six_rows = self._digits_follow_from_rows()

    def logits(self, rows: list[list[int]]) -> np.ndarray:
        """Logits (n, 6) float64 of the digits after prompts of any lengths; does not depend on how they are batched."""
        import torch

        found = np.zeros((len(rows), len(self._digits)))
        # Longest first: memory that runs out does so at once.
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        while order:
            width = len(rows[order[0]])
            batch = order[: max(1, self._budget // width)]
            try:
                found[batch] = self._forward([rows[i] for i in batch])
                order = order[len(batch) :]
                continue
            except torch.cuda.OutOfMemoryError:
                if len(batch) == 1:
                    raise ModelError(
                        f"A text of {width} tokens does not fit in the memory of {self._device}; lower max_tokens."
                    ) from None
            self._budget = len(batch) * width // 2
            torch.cuda.empty_cache()
        return found

    def _forward(self, rows: list[list[int]]) -> np.ndarray:
        import torch

        ids, mask = right_padded(rows)
        ids, mask = ids.to(self._device), mask.to(self._device)
        last = mask.sum(dim=1) - 1
        with torch.inference_mode():
            read = self._from_rows if self._six_rows else self._from_own_head
            return read(ids, mask, last).double().cpu().numpy()

    def _from_rows(self, ids: "torch.Tensor", mask: "torch.Tensor", last: "torch.Tensor") -> "torch.Tensor":
        """The last hidden states times six rows of the output embedding, in float32: no vocabulary of logits."""
        import torch

        hidden = self._decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        head = self._model.get_output_embeddings()
        state = hidden[torch.arange(len(ids), device=ids.device), last].float()
        # A sum and no matrix product: rounded alike for any number of rows, and in float32 under autocast too.
        logits = (state[:, None, :] * head.weight[self._digits].float()).sum(dim=-1)
        return logits if head.bias is None else logits + head.bias[self._digits].float()

    def _from_own_head(self, ids: "torch.Tensor", mask: "torch.Tensor", last: "torch.Tensor") -> "torch.Tensor":
        return last_logits(self._model, ids, mask, last)[:, self._digits].float()

    def _digits_follow_from_rows(self) -> bool:
        """Whether this model's logits are its hidden states times its output embedding, and no function of that.

        Some cap or scale them afterwards. The head is made to answer with known numbers: what the model makes of them
        tells, in any precision.
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
        told = torch.linspace(-64, 64, len(own)).to(head.weight).float()
        alike = len(seen) == 1 and torch.allclose(seen[0][0, -1].float(), hidden[0, -1].float(), rtol=1e-2, atol=1e-3)
        return alike and torch.equal(own, told)


def right_padded(rows: Sequence[Sequence[int]]) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Ids (n, width) padded after their end, and the mask (n, width) that is 1 on the ids.

    What a causal model makes of a token does not depend on those after it, so that any id may pad.
    """
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def last_logits(model: Any, ids: "torch.Tensor", mask: "torch.Tensor", last: "torch.Tensor") -> "torch.Tensor":
    """A model's own logits (n, vocabulary) after the token `last` (n,) of each row; at no other place, if it can."""
    import inspect

    import torch

    row = torch.arange(len(ids), device=ids.device)
    if "logits_to_keep" not in inspect.signature(type(without_adapter(model)).forward).parameters:
        return model(input_ids=ids, attention_mask=mask, use_cache=False).logits[row, last]
    places, place = last.unique(return_inverse=True)
    kept = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=places).logits
    return kept[row, place]


def without_adapter(model: Any) -> Any:
    """The language model itself, with the layers of a LoRA adapter in it but not the adapter around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
