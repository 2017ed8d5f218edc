"""Converts turns to the token ids that a sequence classifier reads, shortened at the middle if too long."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from deita_core.errors import ModelError, cause
from deita_core.literals import Axis, ClassifierText
from deita_core.models.lm_encoder import SAME_DATE
from deita_core.scorers.digits import KEPT_OF_RESPONSE, without
from deita_core.scorers.prompts import texts_of

ROLES = ("user", "assistant")


class ClassifierIds(NamedTuple):
    """Token ids of a text, their segments (0 or 1; none: the model has no segments), and whether it was shortened."""

    ids: list[int]
    segments: list[int] | None
    truncated: bool


class ClassifierTokenizer:
    """Converts turns to ids in one of four forms, of at most `limit` tokens.

    chat: the tokenizer's chat template with the instruction and the response, without a prompt to answer; pair: the
    tokenizer's pair of both; answer or instruction: that text alone. The complexity axis reads the instruction only: as
    a chat of one message, and in every other form as a text. By default a chat, or without a template a pair.
    """

    def __init__(self, tokenizer: Any, axis: Axis, form: ClassifierText | None, limit: int, name: str) -> None:
        self._tokenizer, self.limit = tokenizer, limit
        form = form or ("chat" if tokenizer.chat_template else "pair")
        if form == "chat" and not tokenizer.chat_template:
            raise ModelError(
                f"The tokenizer of {name} has no chat template; set classifier_text to pair, answer or instruction."
            )
        self._axis, self._form = axis, form
        try:
            bare = len(self._ids(self.texts("?", "?")))
        except Exception as error:
            # A template is a program and can fail in many ways.
            raise ModelError(
                f"The chat template of {name} refuses a question and an answer ({cause(error)}); set classifier_text "
                f"to pair, answer or instruction."
            ) from None
        if limit <= bare:
            raise ModelError(
                f"The classifier {name} reads {limit} tokens, and {bare} of them are around the texts; take a model "
                f"with a longer window."
            )

    def texts(self, instruction: str, response: str | None) -> tuple[str, ...]:
        """Return the texts that are read of a turn. Raises InputError if it needs a response."""
        texts = texts_of(self._axis, instruction, response)
        if self._form in ("chat", "pair") or len(texts) == 1:
            return texts
        return (texts[1],) if self._form == "answer" else (texts[0],)

    def encode(self, texts: Sequence[tuple[str, ...]]) -> list[ClassifierIds | None]:
        """Return the ids of each row of `texts`; None where the chat template refuses the texts."""
        found: list[ClassifierIds | None] = []
        for row in texts:
            try:
                ids = self._encoded(row)
                truncated = len(ids["input_ids"]) > self.limit
                ids = self._encoded(self._shortened(row)) if truncated else ids
            except Exception:
                found.append(None)
                continue
            found.append(ClassifierIds(list(ids["input_ids"]), ids.get("token_type_ids"), truncated))
        return found

    def _ids(self, texts: tuple[str, ...]) -> list[int]:
        return list(self._encoded(texts)["input_ids"])

    def _encoded(self, texts: tuple[str, ...]) -> dict[str, Any]:
        options = {"return_attention_mask": False, "truncation": False, "verbose": False}
        if self._form != "chat":
            return self._tokenizer(*texts, **options)
        messages = [{"role": role, "content": text} for role, text in zip(ROLES, texts, strict=False)]
        template = SAME_DATE + self._tokenizer.get_chat_template()
        text = self._tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
        return self._tokenizer(text, add_special_tokens=False, **options)

    def _shortened(self, texts: tuple[str, ...]) -> tuple[str, ...]:
        """Return texts that fit: first the answer gets shorter, down to a minimum; then the instruction."""
        floor = self.limit // KEPT_OF_RESPONSE
        stages = [(0, 0)] if len(texts) == 1 else [(1, floor), (0, 0), (1, 0)]
        for place, keep in stages:
            texts = self._cut_to_fit(texts, place, keep)
        return texts

    def _cut_to_fit(self, texts: tuple[str, ...], place: int, keep: int) -> tuple[str, ...]:
        """Shorten one text at its middle until all fit or it is down to `keep` tokens; returns all texts."""
        while (excess := len(self._ids(texts)) - self.limit) > 0:
            text = texts[place]
            offsets = self._tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
            )["offset_mapping"]
            spans = [(start, end) for start, end in offsets if start < end]
            excess = min(excess, len(spans) - keep)
            if excess <= 0:
                break
            texts = (*texts[:place], without(text, spans, excess, "middle"), *texts[place + 1 :])
        return texts
