"""A client for OpenAI-compatible endpoints that pays for nothing twice, keeps to its limits and knows its spend.

What an endpoint answers is kept under the hash of the request before anybody sees it. Passing troubles are retried
here; what will fail again is either the request's own (`Unanswered`) or everybody's (`LLMError`, after which no
further request is sent).
"""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from threading import Event
from time import monotonic
from urllib.parse import urlsplit
from weakref import WeakSet

from deita_core.answers import Answer, Answers
from deita_core.endpoint import LLMSettings, check_key, find_key
from deita_core.errors import LLMError
from deita_core.pace import Pace
from deita_core.troubles import NO_ANSWER, Ending, Passing, Unanswered, Unsupported, judged, quoted
from deita_core.wire import NextToken, Request, read_answer, sound

__all__ = ["LLM", "Answer", "LLMSettings", "Messages", "NextToken", "Request", "Unanswered", "find_key"]

Messages = Sequence[Mapping[str, str]]

LONGEST_PAUSE = 60.0
# So many requests in a row given up, and none answered between them: the endpoint may be down.
GIVEN_UP_IN_A_ROW = 8
# How often one request waits because the endpoint asks for it, which is no failure of either.
MOST_WAITS = 100
# An address at which nothing has ever answered is more likely wrong than busy, and a reply that lacks what it should
# hold will hardly come otherwise.
ATTEMPTS_TO_REACH = 3
INTERRUPTED = "The run was interrupted; what is done is kept, run the same command to go on."
_LIVE: "WeakSet[LLM]" = WeakSet()
_interrupted = Event()


def stop_clients() -> None:
    """Let every client of this process finish what it has sent and send nothing more; for a user who interrupts.

    Clients made later send nothing either, as shards still waiting would go on with them, until `resume_clients`.
    """
    _interrupted.set()
    for client in list(_LIVE):
        client.stop(INTERRUPTED)


def resume_clients() -> None:
    """Let clients made from now on send again."""
    _interrupted.clear()


class LLM:
    """A client for one job; use it as an async context manager, within one event loop."""

    def __init__(self, settings: LLMSettings, key: str, store: Path, job: str) -> None:
        self.settings = settings
        self._key, self._job = check_key(key), job
        self._answers = Answers(store)
        before = self._answers.usage(job)
        self._spent, self._answered, self._given_up = before.cost, before.requests, 0
        self._sending, self._reserved, self._freed = 0, 0.0, asyncio.Condition()
        self._slots, self._probing = asyncio.Semaphore(settings.concurrency), asyncio.Lock()
        self._asking: dict[str, asyncio.Lock] = {}
        self._requests, self._tokens = Pace(settings.requests_per_minute), Pace(settings.tokens_per_minute)
        self._turn, self._paused_until = asyncio.Lock(), 0.0
        self._without: set[str] = set()
        self._stop: str | None = None
        self._stopped = asyncio.Event()
        # Tokens used for so many characters of prompts, answers included: what a booking is guessed from.
        self._used, self._chars = 1.0, 2.0

    async def __aenter__(self) -> "LLM":
        import openai

        http = openai.DefaultAsyncHttpxClient(timeout=self.settings.timeout, follow_redirects=True)
        # Attempts are counted, paced and paid for here, so the library makes none of its own.
        self._client = openai.AsyncOpenAI(
            api_key=self._key, base_url=self.settings.base_url, max_retries=0, http_client=http
        )
        self._loop = asyncio.get_running_loop()
        # Only now can it be stopped; in this order, so that no interruption falls between the two.
        _LIVE.add(self)
        if _interrupted.is_set():
            self._stop = INTERRUPTED
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()
        self._answers.close()
        _LIVE.discard(self)

    def stop(self, sentence: str) -> None:
        """Send nothing more; what is waiting to be sent ends with LLMError, what is sent is still answered and kept.

        May be called from any thread.
        """
        self._stop = self._stop or sentence
        self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._stopped.set()
        self._waking = asyncio.ensure_future(self._notify())

    async def _notify(self) -> None:
        async with self._freed:
            self._freed.notify_all()

    def _check_stopped(self) -> None:
        if self._stop:
            raise LLMError(self._stop)

    async def ask(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        temperature: float | None = None,
        nth: int = 0,
        as_json: bool = False,
    ) -> Answer:
        """The kept answer to these messages, or a new one; `nth` tells repeated questions apart.

        Raises Unanswered where this request cannot be answered, LLMError where none can be any more.
        """
        settings = self.settings
        request = Request(
            model=model or settings.model,
            messages=tuple((m["role"], sound(m["content"])) for m in messages),
            temperature=settings.temperature if temperature is None else temperature,
            seed=settings.seed + nth,
            max_tokens=settings.max_tokens,
            as_json=as_json and settings.structured == "auto",
        )
        return await self.answer(request)

    async def answer(self, request: Request | NextToken) -> Answer:
        """The kept answer to a request, or a new one; raises as `ask` does."""
        id_ = request.id
        try:
            # Whoever asks the same at the same time waits for the first one's answer.
            async with self._asking.setdefault(id_, asyncio.Lock()):
                return self._answers.get(id_) or await self._persist(id_, request)
        finally:
            self._asking.pop(id_, None)

    async def _persist(self, id_: str, request: Request | NextToken) -> Answer:
        """Send a request until it is answered, and keep the answer.

        It keeps its place among those in flight while it pauses: an endpoint in trouble is not asked by others instead.
        """
        attempts = waits = 0
        async with self._slots:
            while True:
                try:
                    return await self._attempt(id_, request)
                except Unsupported as unsupported:
                    self._without.add(unsupported.parameter)
                except Passing as passing:
                    attempts, waits = attempts + (passing.wait is None), waits + (passing.wait is not None)
                    hopeless = passing.reason != NO_ANSWER or (passing.unreachable and not self._answered)
                    most = min(ATTEMPTS_TO_REACH, self.settings.attempts) if hopeless else self.settings.attempts
                    if attempts >= most or waits >= MOST_WAITS:
                        raise await self._give_up(request, passing, attempts + waits) from None
                    await self._pause(attempts + waits, passing)

    async def _attempt(self, id_: str, request: Request | NextToken) -> Answer:
        async with self._reservation(request):
            booked = await self._wait_turn(request)
            used = 0.0
            try:
                answer = await self._send(request)
                self._answers.put(self._job, request.model, answer)
                used = self._count(request, answer, booked)
            finally:
                # What was booked was a guess; a request that failed used nothing.
                self._tokens.correct(used - booked)
            return answer

    async def _wait_turn(self, request: Request | NextToken) -> float:
        """Wait for the limits per minute and for a pause meant for all; returns the tokens booked.

        One after the other, so that nothing is booked ahead at a guess that the answers before it will correct.
        """
        async with self._turn:
            booked, now = request.chars * self._used / self._chars, monotonic()
            due = now + max(self._requests.reserve(1, now), self._tokens.reserve(booked, now))
            while not self._stop and (left := max(due, self._paused_until) - monotonic()) > 0:
                await self._sleep(left)
            self._check_stopped()
            return booked

    async def _sleep(self, seconds: float) -> None:
        """Sleep, or wake as soon as all is stopped."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)

    def _count(self, request: Request | NextToken, answer: Answer, booked: float) -> float:
        """Enter an answer into the books; returns the tokens it used, or those booked where nobody counted them."""
        self._spent += answer.cost or 0.0
        self._answered, self._given_up = self._answered + 1, 0
        if answer.prompt_tokens is None or answer.completion_tokens is None:
            return booked
        used = answer.prompt_tokens + answer.completion_tokens
        self._used, self._chars = self._used + used, self._chars + request.chars
        return used

    @asynccontextmanager
    async def _reservation(self, request: Request | NextToken) -> AsyncIterator[None]:
        """Set aside the most that the answer can cost, so that the cap is never passed, once others leave room."""
        most, cap = self.settings.cost(request.most_tokens, request.max_tokens) or 0.0, self.settings.spend_cap

        def fits() -> bool:
            return cap is None or self._spent + self._reserved + most <= cap

        async with self._freed:
            await self._freed.wait_for(lambda: fits() or not self._sending or self._stop)
            if not (self._stop or fits()):
                self.stop(
                    f"The spend cap of {cap:g} is reached ({self._spent:.4g} spent, and the next request may cost "
                    f"{most:.2g}); what is done is kept, raise --spend-cap and run the same command to go on "
                    f"(DEITA_LLM__SPEND_CAP where there is no such option)."
                )
            self._check_stopped()
            self._sending, self._reserved = self._sending + 1, self._reserved + most
        try:
            yield
        finally:
            async with self._freed:
                self._sending, self._reserved = self._sending - 1, self._reserved - most
                self._freed.notify_all()

    async def _send(self, request: Request | NextToken) -> Answer:
        import openai

        started, wire = monotonic(), request.wire(self._without)
        try:
            async with asyncio.timeout(self.settings.timeout):
                reply = await self._client.post(request.path, cast_to=object, body=wire)
        except (TimeoutError, openai.APITimeoutError):
            raise Passing(f"no answer within {self.settings.timeout:g} s") from None
        except openai.APIStatusError as error:
            raise self._settled(judged(error, wire, quoted(error, self._key))) from None
        except openai.APIConnectionError as error:
            detail = quoted(error.__cause__ or error, self._key)
            raise Passing(f"no connection: {detail}", unreachable=True) from None
        except (openai.OpenAIError, ValueError, TypeError) as error:
            raise Passing(f"an answer that is no JSON: {quoted(error, self._key)}") from None
        return read_answer(self.settings, request, reply, round(monotonic() - started, 3))

    async def _pause(self, attempt: int, passing: Passing) -> None:
        if passing.wait is not None:
            # What the endpoint asks of one request it means for all.
            self._paused_until = max(self._paused_until, monotonic() + passing.wait)
        pause = min(self.settings.first_pause * 2 ** (attempt - 1), LONGEST_PAUSE)
        # Spread out, so that requests that failed together do not come back together.
        await self._sleep(max(0.0, pause * random.uniform(0.5, 1) - (passing.wait or 0.0)))  # noqa: S311

    async def _give_up(self, request: Request | NextToken, passing: Passing, attempts: int) -> Exception:
        """The end of one request; or of all, where a harmless question goes unanswered as well."""
        self._given_up += 1
        async with self._probing:
            if (self._answered and self._given_up < GIVEN_UP_IN_A_ROW) or await self._is_alive(request):
                lasting = passing.reason != NO_ANSWER
                return Unanswered(passing.reason, f"{passing.detail}, {attempts} times", lasting)
        what = f"gives no answers ({passing.detail})"
        return self._settled(Ending(f"{what}; what is done is kept, run the same command again"))

    async def _is_alive(self, request: Request | NextToken) -> bool:
        if self._stop:
            return False
        probe = request.probe()
        try:
            await self._attempt(probe.id, probe)
        except (Passing, Unsupported, Unanswered, LLMError):
            return False
        return True

    def _settled(self, trouble: Exception) -> Exception:
        """The trouble itself, or the end of everything where it stands for that."""
        if isinstance(trouble, Unanswered) and trouble.reason == "refused_request" and not self._answered:
            trouble = Ending(f"does not accept the requests ({trouble.detail})")
        if not isinstance(trouble, Ending):
            return trouble
        self.stop(f"The endpoint {self.address} {trouble}.")
        return LLMError(self._stop)

    @property
    def has_answered(self) -> bool:
        """Whether the endpoint has answered any request of this job, in this run or before."""
        return self._answered > 0

    @property
    def address(self) -> str:
        """Where requests go, as it may be shown."""
        parts = urlsplit(str(self._client.base_url))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
