"""Scoring with a causal language model that somebody else serves: its six digits' odds from a completions endpoint.

The prompt and the score are those of scorers/causal.py; only the numbers come over HTTP, as the log probabilities of
the most likely tokens after the prompt (vLLM, SGLang, the server of llama.cpp).
"""

import asyncio
import math
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from pydantic import BaseModel, Field

from deita_core.config.loader import load
from deita_core.conversation import content_id
from deita_core.errors import InputError, LLMError, ModelError
from deita_core.literals import Axis
from deita_core.llm.client import (
    LLM,
    LLMSettings,
    NextToken,
    PermanentRequestError,
    find_key,
    resume_clients,
    stop_clients,
)
from deita_core.llm.requests import MOST_LISTED, Listing
from deita_core.llm.settings import LLMLimits
from deita_core.models.causal_lm import load_tokenizer
from deita_core.scorers.causal import expected_digit, is_readable
from deita_core.scorers.digits import DIGITS, PromptTokenizer
from deita_core.scorers.heads import SCORE_SCHEMA
from deita_core.scorers.prompts import framed, texts_of

# Raised whenever the same listing would give another score: part of every fingerprint.
SERVED_VERSION = 1
# What a score may not depend on: this much of the digits' mass.
NEGLIGIBLE = 1e-4
# A log probability below this is no model's but a mask's, or stands for a probability of nothing.
MASKED = -500.0
# How tokenizers and servers write the space before a digit.
SPACES = (" ", "▁", "Ġ")
# A text too long for the endpoint is cut to this share of its characters until it fits.
KEPT = 0.8
# Seconds between looks whether it is a thread's turn.
LOOK = 0.05

Outcome = tuple[float | None, str]
UNREADABLE: Outcome = (None, "unreadable")


class ServedLimits(LLMLimits):
    """How much of an endpoint is asked for scores. One token each, so more in flight by default."""

    concurrency: int = Field(32, ge=1, le=1_000, description="Requests in flight at most.")


class _ServedSettings(ServedLimits, LLMSettings):
    pass


class _Environment(BaseModel):
    llm: _ServedSettings


class Served(NamedTuple):
    """A served scorer by its name: whom to ask, and ids of the digits' tokens where a tokenizer is given."""

    address: str
    model: str
    digits: tuple[int, ...]
    limits: ServedLimits | None

    @property
    def settings(self) -> LLMSettings:
        """How it is asked: within its limits, and by DEITA_LLM__* variables where those leave something open.

        Raises InputError for a variable or an address that cannot be one.
        """
        limits = self.limits.model_dump(exclude_unset=True) if self.limits else {}
        return load(_Environment, None, {"llm": {**limits, "base_url": self.address, "model": self.model}}).llm

    @property
    def fingerprint(self) -> str:
        """A hash of what can be known of a served model: its name, not its address, and how it is asked.

        Its weights cannot be hashed: whoever serves others gives them another name, or old scores are taken for theirs.
        """
        parts = ["served", self.model, str(self.digits), str(MOST_LISTED), str(SERVED_VERSION)]
        return content_id("\n".join(parts).encode())


def is_served(name: str) -> bool:
    """Whether a scorer's name is an address."""
    return name.lower().startswith(("http://", "https://"))


def find_served(name: str, axis: Axis, limits: ServedLimits | None = None) -> Served:
    """The scorer that `name` means: http://HOST:PORT/v1#MODEL, or with #TOKENIZER (a folder or hub name) after that.

    With a tokenizer the digits' token ids are known, and the endpoint is asked to favour them (`logit_bias`), so that
    all six are among the tokens it lists. Nothing is sent. Raises ModelError or InputError for a name that is no such.
    """
    address, _, rest = name.partition("#")
    model, _, tokenizer = rest.partition("#")
    if not model.strip():
        raise ModelError(f"The {axis} scorer's address names no model; write it as http://HOST:PORT/v1#MODEL.")
    served = Served(address, model.strip(), _digit_ids(tokenizer, axis) if tokenizer else (), limits)
    # Refused here, where nothing is begun yet.
    find_key(served.settings)
    return served


def _digit_ids(name: str, axis: Axis) -> tuple[int, ...]:
    folder = Path(name).expanduser()
    tokenizer = load_tokenizer(folder if folder.is_dir() else name)
    return tuple(PromptTokenizer(tokenizer, axis, max_tokens=2_048, positions=None, name=name).digits)


class ServedScorer:
    """A causal scorer behind an OpenAI-compatible completions endpoint, named as `find_served` has it.

    What is answered is kept in answers.db in the folder `store`, and asked no more; without a store, as long as the
    scorer lives. Its fingerprint has the model's name and no weights: they are not to be seen from here. How much text
    is read is the endpoint's to say: what it calls too long for its window is shortened.
    """

    def __init__(
        self, name: str, axis: Axis, store: Path | None = None, limits: ServedLimits | None = None
    ) -> None:  # fmt: skip
        self.axis = axis
        self._served = find_served(name, axis, limits)
        self.fingerprint = self._served.fingerprint
        # Removed with the scorer.
        self._own = None if store else TemporaryDirectory(prefix="deita-")
        self._store = store or Path(self._own.name if self._own else "")
        self._turn = Lock()

    def score(self, instructions: Sequence[str], responses: Sequence[str] | None = None) -> pl.DataFrame:
        """Score texts: a frame of score (float64, null when unread) and status, one row each in their order.

        Status: ok, truncated (scored on a shortened text), unreadable: a blank or broken text, a listing of tokens that
        leaves the score open, or a text that the endpoint will never take. A text that merely stayed without an answer
        gets no status, since that would be kept for good: LLMError is raised once all others are answered and kept, and
        the next call asks for the missing ones alone. Threads take turns, so that the limits hold for them together.
        """
        if self.axis == "quality" and (responses is None or len(responses) != len(instructions)):
            raise InputError(f"Quality is scored on answers; give one response for each of {len(instructions)} rows.")
        answers = responses if self.axis == "quality" and responses is not None else [None] * len(instructions)
        rows = [texts_of(self.axis, i, r) for i, r in zip(instructions, answers, strict=True)]
        distinct = list(dict.fromkeys(row for row in rows if all(map(is_readable, row))))
        found = dict(zip(distinct, _run(self._ask_all(distinct)), strict=True)) if distinct else {}
        return pl.DataFrame([found.get(row, UNREADABLE) for row in rows], schema=SCORE_SCHEMA, orient="row")

    async def _ask_all(self, rows: Sequence[tuple[str, ...]]) -> list[Outcome]:
        """Ask about all rows at once, as the limits allow."""
        settings = self._served.settings
        async with LLM(settings, find_key(settings), self._store, self.fingerprint) as llm, self._in_turn():
            found = await asyncio.gather(*(self._ask(llm, row) for row in rows), return_exceptions=True)
            return self._settled(llm, found)

    @asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        """Wait for other threads with a client that is there already, so that it can be told to stop meanwhile."""
        while not self._turn.acquire(blocking=False):
            await asyncio.sleep(LOOK)
        try:
            yield
        finally:
            self._turn.release()

    async def _ask(self, llm: LLM, texts: tuple[str, ...]) -> Outcome:
        """The score of one row, shortened for as long as it is too long. Raises PermanentRequestError, LLMError."""
        status = "ok"
        while True:
            request = NextToken(self._served.model, framed(self.axis, texts), self._served.digits)
            try:
                score = listed_score(Listing.model_validate_json((await llm.answer(request)).text))
                return UNREADABLE if score is None else (score, status)
            except PermanentRequestError as trouble:
                shorter = shortened(texts)
                if trouble.reason != "too_long" or shorter is None:
                    raise
                texts, status = shorter, "truncated"

    def _settled(self, llm: LLM, found: Sequence[Outcome | BaseException]) -> list[Outcome]:
        """The outcomes, where no row is left open; raises what leaves one open.

        A row that no further request will settle is unreadable; but not where the endpoint has never answered anything,
        for then the fault is hardly the text's.
        """
        troubles = [one for one in found if isinstance(one, PermanentRequestError)]
        for one in found:
            if isinstance(one, BaseException) and not isinstance(one, PermanentRequestError):
                raise one
        left = [one for one in troubles if not (one.lasting and llm.has_answered)]
        if left:
            raise LLMError(
                f"The endpoint {llm.address} leaves {len(left):,} of {len(found):,} texts without {self.axis} scores "
                f"({left[0].detail}); what is answered is kept, run the same command again."
            )
        return [UNREADABLE if isinstance(one, BaseException) else one for one in found]


def _run(work: Coroutine[Any, Any, list[Outcome]]) -> list[Outcome]:
    """Run to the end, in a thread of its own where this one has an event loop already, as a notebook's has."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    resume_clients()
    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(asyncio.run, work).result()
        except KeyboardInterrupt:
            stop_clients()
            raise


def listed_score(listing: Listing) -> float | None:
    """The expected digit in [1, 6] by a listing of tokens, or None where it leaves more than 1e-4 of the mass open.

    Softmax needs only the differences among the six, so it makes none whether a bias was added before or after. A
    token that is not listed is at most as likely as the least likely one that is, the chosen token aside, which is
    listed however unlikely it is.
    """
    tokens = [(token, logprob) for token, logprob in listing.tokens if logprob > MASKED]
    found = _digits(tokens)
    if not found:
        return None
    top = max(max(logprobs) for logprobs in found.values())
    likely = {digit: max(logprobs) for digit, logprobs in found.items()}
    # Nothing is more likely than certain: the bound where nothing else is listed.
    floor = min((logprob for token, logprob in tokens if token != listing.chosen), default=0.0)
    doubled = [sorted(logprobs)[:-1] for logprobs in found.values()]
    unknown = [floor] * (len(DIGITS) - len(found)) + [logprob for logprobs in doubled for logprob in logprobs]
    mass = sum(math.exp(logprob - top) for logprob in likely.values())
    if sum(math.exp(logprob - top) for logprob in unknown) >= NEGLIGIBLE * mass:
        return None
    return float(expected_digit(np.array([[likely.get(digit, -np.inf) for digit in DIGITS]]))[0])


def _digits(tokens: Sequence[tuple[str, float]]) -> dict[str, list[float]]:
    """Log probabilities of the digits listed; of one way of writing them, as only one is the model's answer.

    The prompts end with a space, so the digit after it is the bare one: where any is bare, those after a space are
    other tokens, left out as every other token is. Where none is, and all that are listed are written in one way, this
    is how the endpoint writes them; where there are several, it cannot be known which is meant, and none is found.
    """
    forms: dict[str, dict[str, list[float]]] = {}
    for token, logprob in tokens:
        space, digit = token[:-1], token[-1:]
        if digit and digit in DIGITS and (not space or space in SPACES):
            forms.setdefault(space, {}).setdefault(digit, []).append(logprob)
    return next(iter(forms.values())) if len(forms) == 1 else forms.get("", {})


def shortened(texts: tuple[str, ...]) -> tuple[str, ...] | None:
    """The texts with the longest one cut to four fifths at its middle; None where that leaves nothing to read."""
    place = max(range(len(texts)), key=lambda i: len(texts[i]))
    text = texts[place]
    kept = int(len(text) * KEPT)
    cut = text[: (kept + 1) // 2] + text[len(text) - kept // 2 :]
    return (*texts[:place], cut, *texts[place + 1 :]) if is_readable(cut) else None
