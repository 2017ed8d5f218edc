"""Converts texts to the token ids of their scoring prompt, shortened if too long, and finds the digits' ids."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from deita_core.errors import ModelError
from deita_core.literals import Axis, Cut
from deita_core.scorers.prompts import framed, scoring_prompt, text_start

DIGITS = "123456"
# If the question is too long, the answer keeps 1 / this of the limit: an unread answer cannot be scored.
KEPT_OF_RESPONSE = 4


class PromptIds(NamedTuple):
    """Token ids of a scoring prompt, and whether a text in it was shortened."""

    ids: list[int]
    truncated: bool


class PromptTokenizer:
    """Converts texts to prompt ids with one tokenizer, for scoring and training.

    `limit`: maximum tokens of a prompt; one of `max_tokens`, and of the model's `positions`, is reserved for the digit.
    """

    def __init__(
        self, tokenizer: Any, axis: Axis, max_tokens: int, positions: int | None, cut: Cut = "middle", name: str = ""
    ) -> None:
        self.axis, self.limit, self._cut = axis, min(max_tokens, positions or max_tokens) - 1, cut
        self._tokenizer = tokenizer
        self.digits = self._digit_ids(name)
        bare = len(self._ids(framed(axis, [""] * self._n_texts)))
        if self.limit <= bare:
            raise ModelError(
                f"The {axis} prompt alone takes {bare} tokens of {name} and {self.limit} are allowed; raise max_tokens "
                f"or take a model with a longer window."
            )

    def encode(self, texts: Sequence[tuple[str, ...]]) -> list[PromptIds]:
        """Return the prompt ids of each row's texts (`texts_of`), at most `limit` per row."""
        if not texts:
            return []
        prompts = [framed(self.axis, row) for row in texts]
        rows = self._tokenizer(prompts, return_attention_mask=False, truncation=False, verbose=False)["input_ids"]
        return [
            PromptIds(ids, False) if len(ids) <= self.limit else PromptIds(self._shortened(row), True)
            for ids, row in zip(rows, texts, strict=True)
        ]

    @property
    def _n_texts(self) -> int:
        return 1 if self.axis == "complexity" else 2

    def _digit_ids(self, name: str) -> list[int]:
        """Return the token of each digit directly after the prompt."""
        prompt = scoring_prompt(self.axis, "What is water?", "A liquid.")
        ids, followed = self._ids(prompt), [self._ids(prompt + digit) for digit in DIGITS]
        found = {row[-1] for row in followed}
        if len(found) < len(DIGITS) or any(row[:-1] != ids for row in followed):
            raise ModelError(
                f"The tokenizer of {name} does not make each digit one token of its own after the {self.axis} prompt; "
                f"take a model whose tokenizer does, as LLaMA, Mistral and Qwen have."
            )
        return [row[-1] for row in followed]

    def _ids(self, prompt: str) -> list[int]:
        return list(self._tokenizer(prompt, return_attention_mask=False, verbose=False)["input_ids"])

    def _shortened(self, texts: tuple[str, ...]) -> list[int]:
        """Return the ids of a prompt shortened to fit: first the answer, down to a minimum; then the instruction."""
        floor = self.limit // KEPT_OF_RESPONSE
        stages = [(0, 0)] if len(texts) == 1 else [(1, floor), (0, 0), (1, 0)]
        for place, keep in stages:
            texts = self._cut_to_fit(texts, place, keep)
        return self._ids(framed(self.axis, texts))

    def _cut_to_fit(self, texts: tuple[str, ...], place: int, keep: int) -> tuple[str, ...]:
        """Shorten one text until the prompt fits or the text is down to `keep` tokens; returns all texts."""
        while True:
            encoded = self._tokenizer(
                framed(self.axis, texts), return_offsets_mapping=True, return_attention_mask=False, verbose=False
            )
            start, text = text_start(self.axis, texts, place), texts[place]
            # A token can extend beyond its text; only the part inside may be cut.
            spans = [(max(a - start, 0), min(b - start, len(text))) for a, b in encoded["offset_mapping"]]
            spans = [(a, b) for a, b in spans if a < b]
            excess = min(len(encoded["input_ids"]) - self.limit, len(spans) - keep)
            if excess <= 0 or not text:
                return texts
            texts = (*texts[:place], without(text, spans, excess, self._cut), *texts[place + 1 :])


def without(text: str, spans: list[tuple[int, int]], excess: int, cut: Cut) -> str:
    """Remove the characters of `excess` tokens from a text's middle or end; always at least one character."""
    kept = len(spans) - excess
    first = kept if cut == "end" else (kept + 1) // 2
    begin = spans[first][0]
    end = max(begin + 1, spans[first + excess - 1][1])
    return text[:begin] + ("" if cut == "end" else text[end:])
