"""Scores texts with a served causal language model: the six digits' log probabilities from a completions endpoint.

Prompt and score are those of scorers/causal.py. The endpoint returns log probabilities of the most likely tokens after
the prompt (vLLM, SGLang, the server of llama.cpp).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deita_core.conversation import content_id
from deita_core.errors import ModelError
from deita_core.literals import Axis
from deita_core.llm.client import LLM, LLMSettings, NextToken, find_key
from deita_core.llm.requests import MOST_LISTED, Listing
from deita_core.models.causal_lm import load_tokenizer
from deita_core.scorers.causal import expected_digit
from deita_core.scorers.digits import DIGITS, PromptTokenizer
from deita_core.scorers.endpoint import EndpointScorer, Outcome, ServedLimits, endpoint_settings
from deita_core.scorers.prompts import framed

# Increased whenever the same listing would give another score; part of every fingerprint.
SERVED_VERSION = 1
# Largest share of the digits' probability mass that may be unknown.
NEGLIGIBLE = 1e-4
# A log probability below this is a mask or stands for zero.
MASKED = -500.0
# Ways in which tokenizers and servers write the space before a digit.
SPACES = (" ", "▁", "Ġ")


class Served(NamedTuple):
    """A parsed served scorer name: address, model, and the digits' token ids if a tokenizer is given."""

    address: str
    model: str
    digits: tuple[int, ...]
    limits: ServedLimits | None

    @property
    def settings(self) -> LLMSettings:
        """The endpoint settings, as `endpoint_settings` finds them."""
        return endpoint_settings(self.address, self.model, self.limits)

    @property
    def fingerprint(self) -> str:
        """A hash of the served model's name and of how it is queried, without its address.

        Its weights cannot be hashed: if they change, give the model another name, or old scores are reused.
        """
        parts = ["served", self.model, str(self.digits), str(MOST_LISTED), str(SERVED_VERSION)]
        return content_id("\n".join(parts).encode())


def is_served(name: str) -> bool:
    """Whether a scorer's name is an address."""
    return name.lower().startswith(("http://", "https://"))


def find_served(name: str, axis: Axis, limits: ServedLimits | None = None) -> Served:
    """Parse a served scorer's `name`: http://HOST:PORT/v1#MODEL, or with #TOKENIZER (folder or hub name) after that.

    With a tokenizer the digits' token ids are known, and requests favour them (`logit_bias`), so that all six are among
    the listed tokens. Sends nothing. Raises ModelError or InputError for an invalid name.
    """
    address, _, rest = name.partition("#")
    model, _, tokenizer = rest.partition("#")
    if not model.strip():
        raise ModelError(f"The {axis} scorer's address names no model; write it as http://HOST:PORT/v1#MODEL.")
    served = Served(address, model.strip(), _digit_ids(tokenizer, axis) if tokenizer else (), limits)
    # Raise for a missing key here, before any work is done.
    find_key(served.settings)
    return served


def _digit_ids(name: str, axis: Axis) -> tuple[int, ...]:
    folder = Path(name).expanduser()
    tokenizer = load_tokenizer(folder if folder.is_dir() else name)
    return tuple(PromptTokenizer(tokenizer, axis, max_tokens=2_048, positions=None, name=name).digits)


class ServedScorer(EndpointScorer):
    """A causal scorer behind an OpenAI-compatible completions endpoint, named as in `find_served`.

    The fingerprint has the model's name instead of its weights, which are not accessible.
    """

    def __init__(
        self, name: str, axis: Axis, store: Path | None = None, limits: ServedLimits | None = None
    ) -> None:  # fmt: skip
        self._served = find_served(name, axis, limits)
        super().__init__(axis, self._served.fingerprint, self._served.settings, store)

    async def _outcome(self, llm: LLM, texts: tuple[str, ...], status: str) -> Outcome:
        """Return (score, status), unreadable if a token listing does not determine the score."""
        request = NextToken(self._served.model, framed(self.axis, texts), self._served.digits)
        score = listed_score(Listing.model_validate_json((await llm.answer(request)).text))
        return self.unreadable if score is None else (score, status)


def listed_score(listing: Listing) -> float | None:
    """Return the expected digit in [1, 6] from a token listing, or None if over 1e-4 of the mass is unknown.

    Softmax needs only differences among the six, so it does not matter whether a bias is included. An unlisted token is
    at most as likely as the least likely listed one; the chosen token is excluded there, because it is listed even if
    it is unlikely.
    """
    tokens = [(token, logprob) for token, logprob in listing.tokens if logprob > MASKED]
    found = _digits(tokens)
    if not found:
        return None
    top = max(max(logprobs) for logprobs in found.values())
    likely = {digit: max(logprobs) for digit, logprobs in found.items()}
    # If nothing else is listed, the bound is a probability of one.
    floor = min((logprob for token, logprob in tokens if token != listing.chosen), default=0.0)
    doubled = [sorted(logprobs)[:-1] for logprobs in found.values()]
    unknown = [floor] * (len(DIGITS) - len(found)) + [logprob for logprobs in doubled for logprob in logprobs]
    mass = sum(math.exp(logprob - top) for logprob in likely.values())
    if sum(math.exp(logprob - top) for logprob in unknown) >= NEGLIGIBLE * mass:
        return None
    return float(expected_digit(np.array([[likely.get(digit, -np.inf) for digit in DIGITS]]))[0])


def _digits(tokens: Sequence[tuple[str, float]]) -> dict[str, list[float]]:
    """Return the log probabilities of the listed digits, in one spelling, because only one is the model's answer.

    The prompts end with a space, so the next token is the bare digit; if any bare digit is listed, digits after a space
    are ignored like all other tokens. If none is bare and all share one spelling, the endpoint uses that spelling. With
    several spellings the right one is unknown, and none is returned.
    """
    forms: dict[str, dict[str, list[float]]] = {}
    for token, logprob in tokens:
        space, digit = token[:-1], token[-1:]
        if digit and digit in DIGITS and (not space or space in SPACES):
            forms.setdefault(space, {}).setdefault(digit, []).append(logprob)
    return next(iter(forms.values())) if len(forms) == 1 else forms.get("", {})
