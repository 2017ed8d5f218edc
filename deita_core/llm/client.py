"""A client for OpenAI-compatible endpoints with a cache, rate limits and a spend budget.

Every answer is cached under the hash of its request before it is returned. Errors that may be temporary are retried
here. Lasting errors either concern one request (`PermanentRequestError`) or all requests (`LLMError`; after it no
further request is sent).
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakSet

from deita_core.errors import INTERRUPTED, LLMError
from deita_core.llm.cache import Answer, Answers
from deita_core.llm.errors import (
    NO_ANSWER,
    FatalEndpointError,
    PermanentRequestError,
    RetryableError,
    UnsupportedParameterError,
    error_in_reply,
    error_of,
    quoted,
    said_by,
)
from deita_core.llm.in_flight import InFlight
from deita_core.llm.rate_limit import RateLimit
from deita_core.llm.requests import NextToken, Request, read_answer, valid_unicode
from deita_core.llm.retry_policy import RetryPolicy, Tries
from deita_core.llm.settings import LLMSettings, check_key, find_key
from deita_core.llm.spend_budget import SpendBudget
from deita_core.llm.stopping import Stop
from deita_core.llm.streaming import exchange
from deita_core.llm.traffic import TRAFFIC

__all__ = ["LLM", "Answer", "LLMSettings", "Messages", "NextToken", "PermanentRequestError", "Request", "find_key"]

Messages = Sequence[Mapping[str, str]]

# A reply that takes longer than this many timeouts is given up, even if parts of it still arrive.
LONGEST_REPLY = 30
_LIVE: "WeakSet[LLM]" = WeakSet()
_interrupted = Event()


def stop_clients() -> None:
    """Let every client of this process finish the requests it has sent and send no more; for a user's interrupt.

    Clients created later send nothing either, until `resume_clients`; otherwise waiting shards would continue.
    """
    _interrupted.set()
    for client in list(_LIVE):
        client.stop(INTERRUPTED)


def resume_clients() -> None:
    """Allow clients created from now on to send requests."""
    _interrupted.clear()


class LLM:
    """A client for one job. Use it as an async context manager, within one event loop."""

    def __init__(self, settings: LLMSettings, key: str, store: Path, job: str) -> None:
        self.settings = settings
        self._key, self._job = check_key(key), job
        self._answers = Answers(store)
        before = self._answers.usage(job)
        self._stop = Stop()
        self._budget = SpendBudget(before.cost, settings.spend_cap, self.stop, self._stop.check)
        self._retries = RetryPolicy(settings.attempts, settings.first_pause, before.requests)
        self._rate = RateLimit(settings.requests_per_minute, settings.tokens_per_minute, self._stop)
        self._in_flight = InFlight(settings.concurrency, settings.timeout)
        self._asking: dict[str, asyncio.Lock] = {}
        self._probing = asyncio.Lock()
        # Parameters that the endpoint does not support.
        self._without: set[str] = set()

    async def __aenter__(self) -> "LLM":
        import openai

        # The timeout applies to connecting and to each read: a long answer may take longer as long as parts arrive.
        http = openai.DefaultAsyncHttpxClient(timeout=self.settings.timeout, follow_redirects=True)
        # Retries, rate limits and the budget are handled here, so the library must not retry.
        self._client = openai.AsyncOpenAI(
            api_key=self._key, base_url=self.settings.base_url, max_retries=0, http_client=http
        )
        self._loop = asyncio.get_running_loop()
        # Register first and check second, so that no interrupt between the two is missed.
        _LIVE.add(self)
        if _interrupted.is_set():
            self._stop.sentence = INTERRUPTED
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()
        self._answers.close()
        _LIVE.discard(self)

    def stop(self, sentence: str) -> None:
        """Send no more requests. Waiting requests end with LLMError; the answers to sent requests are still cached.

        May be called from any thread.
        """
        self._stop.sentence = self._stop.sentence or sentence
        self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._stop.wake()
        self._waking = asyncio.ensure_future(self._budget.wake())

    async def ask(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        temperature: float | None = None,
        nth: int = 0,
        schema: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Return the cached answer to these messages, or request one; `nth` distinguishes repeats of the same messages.

        `schema`: the JSON schema of the answer; without it, a text. An endpoint that does not support schemas is asked
        without one, so the answer may have any form. Raises PermanentRequestError if this request cannot be answered,
        LLMError if no further request can be.
        """
        settings = self.settings
        request = Request(
            model=model or settings.model,
            messages=tuple((m["role"], valid_unicode(m["content"])) for m in messages),
            temperature=settings.temperature if temperature is None else temperature,
            seed=settings.seed + nth,
            max_tokens=settings.max_tokens,
            schema=schema if settings.structured == "auto" else None,
        )
        return await self.answer(request)

    async def answer(self, request: Request | NextToken) -> Answer:
        """Return the cached answer to a request, or send it; raises as `ask` does."""
        id_ = request.id
        try:
            # Concurrent callers with the same request wait for the first one's answer.
            async with self._asking.setdefault(id_, asyncio.Lock()):
                return self._answers.get(id_) or await self._persist(id_, request)
        finally:
            self._asking.pop(id_, None)

    async def _persist(self, id_: str, request: Request | NextToken) -> Answer:
        """Send a request until it is answered, and cache the answer.

        It keeps its place during retry pauses, so that no other request is sent to a failing endpoint instead.
        """
        tries = Tries()
        async with self._in_flight.place():
            while True:
                try:
                    return await self._attempt(id_, request)
                except UnsupportedParameterError as unsupported:
                    self._without.add(unsupported.parameter)
                except RetryableError as error:
                    tries.add(error)
                    if self._retries.is_exhausted(tries, error):
                        raise await self._give_up(request, error, tries.total) from None
                    if error.wait is not None:
                        self._rate.pause(error.wait)
                    await self._stop.sleep(self._retries.pause(tries, error))
                    await self._in_flight.yield_surplus()

    async def _attempt(self, id_: str, request: Request | NextToken) -> Answer:
        most = self.settings.cost(request.most_tokens, request.max_tokens) or 0.0
        async with self._budget.reserve(most):
            booked = await self._rate.wait_turn(request.chars)
            used = 0.0
            try:
                answer = await self._send(request)
                self._answers.put(self._job, request.model, answer)
                used = self._count(request, answer, booked)
            finally:
                # The reserved tokens were an estimate; a failed request used none.
                self._rate.correct(used - booked)
            return answer

    def _count(self, request: Request | NextToken, answer: Answer, booked: float) -> float:
        """Record an answer's cost and tokens; returns the tokens used, or `booked` if the endpoint counts none."""
        self._budget.spent += answer.cost or 0.0
        self._retries.count_answer()
        if answer.prompt_tokens is None or answer.completion_tokens is None:
            if self.settings.counts_tokens:
                # Some endpoints count tokens only without streaming.
                self._without.add("stream")
            return booked
        used = answer.prompt_tokens + answer.completion_tokens
        self._rate.count(request.chars, used)
        return used

    async def _send(self, request: Request | NextToken) -> Answer:
        started, wire, sent = monotonic(), request.wire(self._without), self._in_flight.sent()
        TRAFFIC.sent, TRAFFIC.waiting = TRAFFIC.sent + 1, TRAFFIC.waiting + 1
        try:
            reply = await self._exchange(request.path, wire)
            if error := error_in_reply(reply, wire, self._key):
                raise self._settled(error)
            answer = read_answer(self.settings, request, reply, round(monotonic() - started, 3))
        except TimeoutError:
            TRAFFIC.timed_out += 1
            self._in_flight.timed_out(sent)
            silence = f"nothing came for {self.settings.timeout:g} s"
            raise RetryableError(silence, doubtful=True) from None
        finally:
            TRAFFIC.waiting -= 1
        self._in_flight.answered(answer.seconds)
        TRAFFIC.answered, TRAFFIC.seconds = TRAFFIC.answered + 1, TRAFFIC.seconds + answer.seconds
        return answer

    async def _exchange(self, path: str, wire: Mapping[str, object]) -> object:
        """Return the reply to a request as JSON; raises TimeoutError if it takes too long."""
        import openai

        try:
            async with asyncio.timeout(LONGEST_REPLY * self.settings.timeout):
                return await exchange(self._client, path, wire)
        except openai.APITimeoutError:
            raise TimeoutError from None
        except openai.APIStatusError as error:
            found = error_of(error.status_code, wire, said_by(error, self._key), error.response.headers)
            raise self._settled(found) from None
        except openai.APIConnectionError as error:
            detail = quoted(error.__cause__ or error, self._key)
            raise RetryableError(f"no connection: {detail}", doubtful=True) from None
        except openai.APIError as error:
            # An error inside a stream.
            return {"error": error.body or error.message}
        except (openai.OpenAIError, ValueError, TypeError) as error:
            raise RetryableError(f"an answer that is no JSON: {quoted(error, self._key)}") from None

    async def _give_up(self, request: Request | NextToken, error: RetryableError, attempts: int) -> Exception:
        """Return the error that ends one request, or all of them if a test request fails as well."""
        self._retries.count_given_up()
        async with self._probing:
            if not self._retries.doubts_endpoint or await self._is_alive(request):
                lasting = error.reason != NO_ANSWER
                return PermanentRequestError(error.reason, f"{error.detail}, {attempts} times", lasting)
        what = f"gives no answers ({error.detail})"
        return self._settled(FatalEndpointError(f"{what}; what is done is kept, run the same command again"))

    async def _is_alive(self, request: Request | NextToken) -> bool:
        if self._stop.sentence:
            return False
        probe = request.probe()
        try:
            await self._attempt(probe.id, probe)
        except (RetryableError, UnsupportedParameterError, PermanentRequestError, LLMError):
            return False
        return True

    def _settled(self, error: Exception) -> Exception:
        """Return the error, or stop the client and return an LLMError if the error concerns all requests."""
        if isinstance(error, PermanentRequestError) and error.reason == "refused_request" and not self.has_answered:
            error = FatalEndpointError(f"does not accept the requests ({error.detail})")
        if not isinstance(error, FatalEndpointError):
            return error
        sentence = f"The endpoint {self.address} {error}."
        self.stop(sentence)
        return LLMError(self._stop.sentence or sentence)

    @property
    def has_answered(self) -> bool:
        """Whether the endpoint has answered any request of this job, in this run or before."""
        return self._retries.answered > 0

    @property
    def address(self) -> str:
        """The endpoint's address, without credentials."""
        parts = urlsplit(str(self._client.base_url))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
