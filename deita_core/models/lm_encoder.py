"""A causal language model as an encoder: unit vectors of whole conversations, pooled from its last layer's states.

Paper, section 2.4: the last token's state of a conversation cut at 2,048 tokens.
"""

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from deita_core.conversation import JOINT, Conversation
from deita_core.errors import InputError, ModelError
from deita_core.literals import Pooling, Reasoning
from deita_core.models.cancellation import check_cancelled
from deita_core.models.causal_lm import (
    TOKENS_PER_BATCH,
    load_model,
    load_tokenizer,
    on_device,
    positions,
    right_padded,
    within_memory,
)
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.models.sentence_encoder import Encoded

if TYPE_CHECKING:
    import torch

# Some templates insert today's date, which would change a conversation's vector every day.
SAME_DATE = "{%- macro strftime_now(format) -%}01 Jan 2024{%- endmacro -%}"


def render(conversation: Conversation, tokenizer: Any, reasoning: Reasoning = "ignore") -> str:
    """Return a conversation as the model's input text: from the tokenizer's chat template, else in a plain role format.

    The plain format has one line "User: ...", "Assistant: ...", "System: ..." or "Tool: ..." per message. It is used if
    the model has no template or its template rejects the conversation; many reject system or tool messages. Blank
    messages are removed, and consecutive messages of the same role are joined.
    """
    return _by_template(_parts(conversation, reasoning), tokenizer) or plain_text(conversation, reasoning)


def plain_text(conversation: Conversation, reasoning: Reasoning = "score") -> str:
    """Return a conversation as `render` does without a chat template."""
    return "\n".join(f"{role.capitalize()}: {text}" for role, text in _parts(conversation, reasoning))


def _parts(conversation: Conversation, reasoning: Reasoning) -> list[tuple[str, str]]:
    spoken = [message for message in conversation.messages if not message.is_blank]
    return [
        (role, JOINT.join(message.read_text(reasoning) for message in run))
        for role, run in groupby(spoken, lambda message: message.role)
    ]


def _by_template(parts: Sequence[tuple[str, str]], tokenizer: Any) -> str | None:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        return None
    messages = [{"role": role, "content": text} for role, text in parts]
    try:
        template = SAME_DATE + tokenizer.get_chat_template()
        return str(tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False))
    except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        # A template is a program and can fail in many ways.
        return None


class LanguageModelEncoder:
    """A loaded causal language model that encodes whole conversations.

    A conversation longer than `files.max_tokens`, or than the model's positions, is cut at its end. The other texts in
    a batch change a vector only by rounding: in float32 by less than 1e-5, in bfloat16 by about 5e-5 of cosine (a
    random Llama of 12 layers), about as much as bfloat16 differs from float32.
    """

    def __init__(self, files: EncoderFiles, device: str = "auto", max_tokens_per_batch: int | None = None) -> None:
        self.files = files
        self.tokenizer = load_tokenizer(files.path)
        model = on_device(load_model(files.path, files.precision), device).eval()
        self._decoder, self._device = model.get_decoder() or model.base_model, model.device
        self._longest = min(files.max_tokens, positions(model) or files.max_tokens)
        self._budget = max_tokens_per_batch or TOKENS_PER_BATCH.get(self._device.type, TOKENS_PER_BATCH["mps"])
        self._turn = Lock()

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode conversations rendered by `render`, in their order; threads take turns, because tokenizers require it.

        Special tokens are added unless a text already begins with the model's first one, as templates' texts do. Raises
        ModelError if a text does not fit in memory or has no finite vector in this precision.
        """
        with self._turn:
            rows = self._tokenize(texts)
            vectors = self._states([row[: self._longest] for row in rows])
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if lost := int((~np.isfinite(norms) | (norms == 0)).sum()):
            raise ModelError(
                f"The encoder {self.files.name} gives {lost} texts no finite vector in {self.files.precision}; set "
                f"another precision."
            )
        return Encoded((vectors / norms).astype(np.float32), np.array([len(row) for row in rows], dtype=np.int32))

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        rows: list[list[int]] = [[] for _ in texts]
        first = self.tokenizer.bos_token
        begun = [bool(first) and text.startswith(first) for text in texts]
        for has_first in (False, True):
            places = [i for i, found in enumerate(begun) if found is has_first]
            given = [texts[i] for i in places]
            found = self._ids(given, add_special_tokens=not has_first) if given else []
            for place, ids in zip(places, found, strict=True):
                rows[place] = ids
        if not all(rows):
            raise InputError(f"Text {rows.index([])} of {len(rows)} has no token; give conversations with text.")
        return rows

    def _ids(self, texts: list[str], add_special_tokens: bool) -> list[list[int]]:
        # verbose=False: no warning about texts longer than the model's window, because they are cut.
        encoded = self.tokenizer(
            texts, add_special_tokens=add_special_tokens, return_attention_mask=False, truncation=False, verbose=False
        )
        return list(encoded["input_ids"])

    def _states(self, rows: list[list[int]]) -> np.ndarray:
        """Return pooled states (n, d) float64 of rows of token ids, computed in batches of similar length."""
        states = np.zeros((len(rows), self.files.dim))
        # Longest first: if memory runs out, it does so at once.
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        while order:
            check_cancelled()
            width = len(rows[order[0]])
            batch = order[: max(1, self._budget // width)]
            refusal = (
                f"A conversation of {width} tokens does not fit in the memory of {self._device} beside the encoder "
                f"{self.files.name}; take a smaller model."
            )
            found = within_memory(partial(self._forward, [rows[i] for i in batch]), len(batch), refusal)
            if found is None:
                self._budget = len(batch) * width // 2
                continue
            states[batch] = found
            order = order[len(batch) :]
        return states

    def _forward(self, rows: list[list[int]]) -> np.ndarray:
        import torch

        ids, mask = (part.to(self._device) for part in right_padded(rows))
        with torch.inference_mode():
            # The decoder only: no logits over the vocabulary.
            states = self._decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            return pooled(states, mask, self.files.pooling).double().cpu().numpy()


def pooled(states: "torch.Tensor", mask: "torch.Tensor", pooling: Pooling) -> "torch.Tensor":
    """Return one pooled state (n, d) float32 per row of states (n, width, d), over tokens with mask (n, width) 1.

    Rows are right padded. "weighted" gives the i-th of n tokens the weight i / (1 + ... + n).
    """
    import torch

    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1].float()
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device) if pooling == "weighted" else 1
    weights = (mask * places).float()
    # A sum, not a matrix product: float32 on every device.
    return (states.float() * (weights / weights.sum(dim=1, keepdim=True))[..., None]).sum(dim=1)
