"""What scorers behind an endpoint share: limits, cached answers, long texts, and texts that get no answer."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, ClassVar

import polars as pl
from pydantic import BaseModel, Field

from deita_core.config.loader import load
from deita_core.errors import InputError, LLMError
from deita_core.literals import Axis
from deita_core.llm.client import LLM, LLMSettings, PermanentRequestError, find_key, resume_clients, stop_clients
from deita_core.llm.settings import LLMLimits
from deita_core.scorers.causal import is_readable
from deita_core.scorers.heads import SCORE_SCHEMA
from deita_core.scorers.prompts import texts_of

# A text too long for the endpoint is repeatedly cut to this share of its characters until it fits.
KEPT = 0.8
# Seconds between checks of the lock.
CHECK_INTERVAL = 0.05

# A row of the frame of scores.
Outcome = tuple[Any, ...]


class ServedLimits(LLMLimits):
    """Limits on the use of an endpoint for scoring; more requests at once, because a score takes few tokens."""

    concurrency: int = Field(32, ge=1, le=1_000, description="Requests in flight at most.")


class _ServedSettings(ServedLimits, LLMSettings):
    pass


class _Environment(BaseModel):
    llm: _ServedSettings


def endpoint_settings(address: str | None, model: str, limits: ServedLimits | None) -> LLMSettings:
    """The settings of a model at an address: the given limits, then DEITA_LLM__* variables for the rest.

    Without an address the model is at DEITA_LLM__BASE_URL, or else at OpenAI. Raises InputError for an invalid variable
    or address.
    """
    given = limits.model_dump(exclude_unset=True) if limits else {}
    return load(_Environment, None, {"llm": {**given, "base_url": address, "model": model}}).llm


class EndpointScorer(ABC):
    """A scorer whose model is behind an OpenAI-compatible endpoint.

    Answers are cached in answers.db in the folder `store`; without a store, for the scorer's lifetime. The endpoint
    limits the length: a text that it reports as too long is shortened.
    """

    schema: ClassVar[Mapping[str, Any]] = SCORE_SCHEMA
    unreadable: ClassVar[Outcome] = (None, "unreadable")

    def __init__(self, axis: Axis, fingerprint: str, settings: LLMSettings, store: Path | None) -> None:
        self.axis, self.fingerprint, self._settings = axis, fingerprint, settings
        # A temporary store, removed with the scorer.
        self._own = None if store else TemporaryDirectory(prefix="deita-")
        self._store = store or Path(self._own.name if self._own else "")
        self._turn = Lock()

    @abstractmethod
    async def _outcome(self, llm: LLM, texts: tuple[str, ...], status: str) -> Outcome:
        """Return a row of `schema` for the texts, with `status` if they can be scored.

        Raises PermanentRequestError, LLMError.
        """

    def score(self, instructions: Sequence[str], responses: Sequence[str] | None = None) -> pl.DataFrame:
        """Return a frame of score (float64, null if unreadable) and status, one row per text in their order.

        Status: ok, truncated (scored on a shortened text), unreadable: a blank or invalid text, an answer that does not
        determine the score, or a text that the endpoint will never accept. A text that merely got no answer gets no
        status, because a status is stored for good: LLMError is raised after all others are answered and cached, and
        the next call requests only the missing ones. Threads take turns, so that they share the limits.
        """
        if self.axis == "quality" and (responses is None or len(responses) != len(instructions)):
            raise InputError(f"Quality is scored on answers; give one response for each of {len(instructions)} rows.")
        answers = responses if self.axis == "quality" and responses is not None else [None] * len(instructions)
        rows = [texts_of(self.axis, i, r) for i, r in zip(instructions, answers, strict=True)]
        distinct = list(dict.fromkeys(row for row in rows if all(map(is_readable, row))))
        found = dict(zip(distinct, _run(self._ask_all(distinct)), strict=True)) if distinct else {}
        return pl.DataFrame([found.get(row, self.unreadable) for row in rows], schema=self.schema, orient="row")

    async def _ask_all(self, rows: Sequence[tuple[str, ...]]) -> list[Outcome]:
        """Request all rows concurrently, within the limits."""
        async with LLM(self._settings, find_key(self._settings), self._store, self.fingerprint) as llm, self._in_turn():
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
            try:
                return await self._outcome(llm, texts, status)
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
        return [self.unreadable if isinstance(one, BaseException) else one for one in found]


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


def shortened(texts: tuple[str, ...]) -> tuple[str, ...] | None:
    """Cut the longest text to four fifths at its middle; returns all texts, or None if nothing readable is left."""
    place = max(range(len(texts)), key=lambda i: len(texts[i]))
    text = texts[place]
    kept = int(len(text) * KEPT)
    cut = text[: (kept + 1) // 2] + text[len(text) - kept // 2 :]
    return (*texts[:place], cut, *texts[place + 1 :]) if is_readable(cut) else None
