"""Scores texts with a served causal language model: the six digits' log probabilities from a completions endpoint.

Prompt and score are those of scorers/causal.py. The endpoint returns log probabilities of the most likely tokens after
the prompt (vLLM, SGLang, the server of llama.cpp).
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

# Increased whenever the same listing would give another score; part of every fingerprint.
SERVED_VERSION = 1
# Largest share of the digits' probability mass that may be unknown.
NEGLIGIBLE = 1e-4
# A log probability below this is a mask or stands for zero.
MASKED = -500.0
# Ways in which tokenizers and servers write the space before a digit.
SPACES = (" ", "▁", "Ġ")
# A text too long for the endpoint is repeatedly cut to this share of its characters until it fits.
KEPT = 0.8
# Seconds between checks of the lock.
CHECK_INTERVAL = 0.05

Outcome = tuple[float | None, str]
UNREADABLE: Outcome = (None, "unreadable")


class ServedLimits(LLMLimits):
    """Limits on the use of an endpoint for scoring; more requests at once, because a score takes one token."""

    concurrency: int = Field(32, ge=1, le=1_000, description="Requests in flight at most.")


class _ServedSettings(ServedLimits, LLMSettings):
    pass


class _Environment(BaseModel):
    llm: _ServedSettings


class Served(NamedTuple):
    """A parsed served scorer name: address, model, and the digits' token ids if a tokenizer is given."""

    address: str
    model: str
    digits: tuple[int, ...]
    limits: ServedLimits | None

    @property
    def settings(self) -> LLMSettings:
        """The endpoint settings: the given limits, then DEITA_LLM__* variables for the rest.

        Raises InputError for an invalid variable or address.
        """
        limits = self.limits.model_dump(exclude_unset=True) if self.limits else {}
        return load(_Environment, None, {"llm": {**limits, "base_url": self.address, "model": self.model}}).llm

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


class ServedScorer:
    """A causal scorer behind an OpenAI-compatible completions endpoint, named as in `find_served`.

    Answers are cached in answers.db in the folder `store`; without a store, for the scorer's lifetime. The fingerprint
    has the model's name instead of its weights, which are not accessible. The endpoint limits the length: a text that
    it reports as too long is shortened.
    """

    def __init__(
        self, name: str, axis: Axis, store: Path | None = None, limits: ServedLimits | None = None
    ) -> None:  # fmt: skip
        self.axis = axis
        self._served = find_served(name, axis, limits)
        self.fingerprint = self._served.fingerprint
        # A temporary store, removed with the scorer.
        self._own = None if store else TemporaryDirectory(prefix="deita-")
        self._store = store or Path(self._own.name if self._own else "")
        self._turn = Lock()

    def score(self, instructions: Sequence[str], responses: Sequence[str] | None = None) -> pl.DataFrame:
        """Return a frame of score (float64, null if unreadable) and status, one row per text in their order.

        Status: ok, truncated (scored on a shortened text), unreadable: a blank or invalid text, a token listing that
        does not determine the score, or a text that the endpoint will never accept. A text that merely got no answer
        gets no status, because a status is stored for good: LLMError is raised after all others are answered and
        cached, and the next call requests only the missing ones. Threads take turns, so that they share the limits.
        """
        if self.axis == "quality" and (responses is None or len(responses) != len(instructions)):
            raise InputError(f"Quality is scored on answers; give one response for each of {len(instructions)} rows.")
        answers = responses if self.axis == "quality" and responses is not None else [None] * len(instructions)
        rows = [texts_of(self.axis, i, r) for i, r in zip(instructions, answers, strict=True)]
        distinct = list(dict.fromkeys(row for row in rows if all(map(is_readable, row))))
        found = dict(zip(distinct, _run(self._ask_all(distinct)), strict=True)) if distinct else {}
        return pl.DataFrame([found.get(row, UNREADABLE) for row in rows], schema=SCORE_SCHEMA, orient="row")

    async def _ask_all(self, rows: Sequence[tuple[str, ...]]) -> list[Outcome]:
        """Request all rows concurrently, within the limits."""
        settings = self._served.settings
        async with LLM(settings, find_key(settings), self._store, self.fingerprint) as llm, self._in_turn():
            found = await asyncio.gather(*(self._ask(llm, row) for row in rows), return_exceptions=True)
            return self._settled(llm, found)

    @asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        """Wait for other threads while the client already exists, so that it can be stopped meanwhile."""
        while not self._turn.acquire(blocking=False):
            await asyncio.sleep(CHECK_INTERVAL)
        try:
            yield
        finally:
            self._turn.release()

    async def _ask(self, llm: LLM, texts: tuple[str, ...]) -> Outcome:
        """Score one row, shortened while it is too long. Raises PermanentRequestError, LLMError."""
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
        """Return the outcomes if every row is settled; otherwise raise the error that left one open.

        A row with a lasting error is unreadable, unless the endpoint has never answered anything: then the text is
        probably not the cause.
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
    """Run a coroutine to its end; in a new thread if this one has an event loop, as in a notebook."""
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


def shortened(texts: tuple[str, ...]) -> tuple[str, ...] | None:
    """Cut the longest text to four fifths at its middle; returns all texts, or None if nothing readable is left."""
    place = max(range(len(texts)), key=lambda i: len(texts[i]))
    text = texts[place]
    kept = int(len(text) * KEPT)
    cut = text[: (kept + 1) // 2] + text[len(text) - kept // 2 :]
    return (*texts[:place], cut, *texts[place + 1 :]) if is_readable(cut) else None
