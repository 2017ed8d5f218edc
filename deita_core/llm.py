"""A client for OpenAI-compatible chat endpoints that pays for nothing twice, keeps to its limits and knows its spend.

What an endpoint answers is kept under the hash of the request before anybody sees it. Passing troubles are retried
here; what will fail again is either the request's own (`Unanswered`) or everybody's (`LLMError`, after which no
further request is sent).
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Literal
from urllib.parse import urlsplit
from weakref import WeakSet

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from deita_core.answers import Answer, Answers
from deita_core.conversation import content_id
from deita_core.errors import LLMError
from deita_core.pace import Pace
from deita_core.troubles import KEY_VARIABLES, Ending, Passing, Unanswered, Unsupported, judged, quoted

__all__ = ["LLM", "Answer", "LLMSettings", "Messages", "Request", "Unanswered", "find_key"]

Messages = Sequence[Mapping[str, str]]

LONGEST_PAUSE = 60.0
# So many requests in a row given up, and none answered between them: the endpoint is down.
GIVEN_UP_IN_A_ROW = 8
# An address at which nothing has ever answered is more likely wrong than busy.
ATTEMPTS_TO_REACH = 3
RENAMED = {"max_tokens": "max_completion_tokens"}
_LIVE: "WeakSet[LLM]" = WeakSet()


class LLMSettings(BaseModel):
    """Which model to ask, and how much of it. The key is no setting: it comes from the environment or a block."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str | None = Field(None, description="Address of the endpoint, up to /v1; none: that of OpenAI.")
    model: str = Field(min_length=1, description="Name of the model, as the endpoint knows it.")
    judge: str | None = Field(None, description="Model that ranks, at the same endpoint; none: the same model.")
    api_key_block: str | None = Field(None, description="A Prefect Secret block that holds the key.")
    temperature: float = Field(0.7, ge=0, le=2, description="Of evolution; ranking is always asked at 0.")
    seed: int = Field(0, ge=0, description="Sent with every request; a repeated request adds to it.")
    max_tokens: int = Field(2_048, ge=1, description="Longest answer, in tokens.")
    structured: Literal["auto", "off"] = Field("auto", description="Ask for JSON by response_format, where it works.")
    concurrency: int = Field(16, ge=1, le=1_000, description="Requests in flight at most.")
    requests_per_minute: float | None = Field(None, gt=0, description="Limit of requests; none: no limit.")
    tokens_per_minute: float | None = Field(None, gt=0, description="Limit of tokens, prompts and answers together.")
    timeout: float = Field(120.0, gt=0, description="Seconds for one request, from connecting to the last byte.")
    attempts: int = Field(8, ge=1, description="How often a request is sent before it is given up.")
    first_pause: float = Field(1.0, ge=0, description="Seconds before the second attempt; doubled for each one after.")
    input_price: float | None = Field(None, ge=0, description="Price of a million prompt tokens.")
    output_price: float | None = Field(None, ge=0, description="Price of a million answer tokens.")
    spend_cap: float | None = Field(None, gt=0, description="Spend at which a job stops, over all its runs.")

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str | None) -> str | None:
        """Nothing secret may stand in an address: it is shown and recorded."""
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an address begins with http:// or https://")
        if parts.username or parts.password or parts.query:
            raise ValueError(f"an address holds no key, user or query; set {KEY_VARIABLES[0]} instead")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _cap_has_prices(self) -> "LLMSettings":
        if self.spend_cap is not None and (self.input_price is None or self.output_price is None):
            raise ValueError("spend_cap needs input_price and output_price, in the cap's currency per million tokens")
        return self

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float | None:
        """Price of so many tokens, None where a price is not known."""
        if self.input_price is None or self.output_price is None:
            return None
        return (prompt_tokens * self.input_price + completion_tokens * self.output_price) / 1e6


@dataclass(frozen=True)
class Request:
    """One question, as it is known by: everything that an answer depends on, and neither address nor key."""

    model: str
    messages: tuple[tuple[str, str], ...]
    temperature: float
    seed: int
    max_tokens: int
    as_json: bool

    @property
    def id(self) -> str:
        """Content id of the request."""
        return content_id(orjson.dumps(self, option=orjson.OPT_SORT_KEYS))

    @property
    def chars(self) -> int:
        """Length of the prompt in characters."""
        return sum(len(content) for _, content in self.messages)

    def wire(self, without: set[str]) -> dict[str, Any]:
        """The parameters as they are sent, `without` those the endpoint does not know by that name."""
        sent: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": role, "content": content} for role, content in self.messages],
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
        }
        if self.as_json:
            sent["response_format"] = {"type": "json_object"}
        renamed = {new: sent[name] for name, new in RENAMED.items() if name in without}
        return {name: value for name, value in sent.items() if name not in without} | renamed


def find_key(settings: LLMSettings, from_block: str | None = None) -> str:
    """The key to send: from a block, else from the environment; a placeholder where the endpoint is no paid one.

    Raises LLMError where OpenAI's own endpoint is meant and there is no key.
    """
    for key in (from_block, *(os.environ.get(name) for name in KEY_VARIABLES)):
        if key and key.strip():
            return key.strip()
    if settings.base_url is None and not os.environ.get("OPENAI_BASE_URL"):
        raise LLMError(f"There is no key; set {' or '.join(KEY_VARIABLES)}, or give --base-url of another endpoint.")
    return "none"


def stop_clients() -> None:
    """Let every client of this process answer what it has sent and send nothing more; for a user who interrupts."""
    for client in list(_LIVE):
        client.stop("The run was interrupted; what is done is kept, run the same command to go on.")


class LLM:
    """A client for one job; use it as an async context manager, within one event loop."""

    def __init__(self, settings: LLMSettings, key: str, store: Path, job: str) -> None:
        _LIVE.add(self)
        self.settings = settings
        self._key, self._job = key, job
        self._answers = Answers(store)
        before = self._answers.usage(job)
        self._spent, self._answered, self._given_up = before.cost, before.requests, 0
        self._sending, self._reserved, self._freed = 0, 0.0, asyncio.Condition()
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._asking: dict[str, asyncio.Lock] = {}
        self._requests, self._tokens = Pace(settings.requests_per_minute), Pace(settings.tokens_per_minute)
        self._paused_until = 0.0
        self._without: set[str] = set()
        self._stop: LLMError | None = None
        # Tokens used for so many characters of prompts, answers included: what a reservation is guessed from.
        self._used, self._chars = 1.0, 2.0

    async def __aenter__(self) -> "LLM":
        import openai

        http = openai.DefaultAsyncHttpxClient(timeout=self.settings.timeout, follow_redirects=True)
        # Attempts are counted, paced and paid for here, so the library makes none of its own.
        self._client = openai.AsyncOpenAI(
            api_key=self._key, base_url=self.settings.base_url, max_retries=0, http_client=http
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()
        self._answers.close()

    def stop(self, sentence: str) -> None:
        """Send nothing more; what is waiting to be sent ends with LLMError, what is sent is still answered and kept."""
        self._stop = self._stop or LLMError(sentence)

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
            messages=tuple((m["role"], m["content"]) for m in messages),
            temperature=settings.temperature if temperature is None else temperature,
            seed=settings.seed + nth,
            max_tokens=settings.max_tokens,
            as_json=as_json and settings.structured == "auto",
        )
        id_ = request.id
        # Whoever asks the same at the same time waits for the first one's answer.
        async with self._asking.setdefault(id_, asyncio.Lock()):
            answer = self._answers.get(id_) or await self._persist(id_, request)
        self._asking.pop(id_, None)
        return answer

    async def _persist(self, id_: str, request: Request) -> Answer:
        """Send a request until it is answered, and keep the answer."""
        attempt = 0
        while True:
            try:
                return await self._attempt(id_, request)
            except Unsupported as unsupported:
                self._without.add(unsupported.parameter)
            except Passing as passing:
                attempt += 1
                unreached = passing.unreachable and not self._answered and attempt >= ATTEMPTS_TO_REACH
                if unreached or attempt >= self.settings.attempts:
                    raise self._give_up(passing.detail, attempt) from None
                await self._pause(attempt, passing)

    async def _attempt(self, id_: str, request: Request) -> Answer:
        async with self._slots, self._reservation(request):
            booked = await self._wait_turn(request)
            used = 0.0
            try:
                answer = await self._send(id_, request)
                self._answers.put(self._job, request.model, answer)
                used = self._count(request, answer, booked)
            finally:
                # What was booked was a guess; a request that failed used nothing.
                self._tokens.correct(used - booked)
            return answer

    async def _wait_turn(self, request: Request) -> float:
        """Wait for the limits per minute, and for a pause meant for all; returns the tokens booked."""
        now, booked = monotonic(), request.chars * self._used / self._chars
        wait = max(self._requests.reserve(1, now), self._tokens.reserve(booked, now), self._paused_until - now)
        if wait > 0:
            await asyncio.sleep(wait)
        if self._stop:
            raise self._stop
        return booked

    def _count(self, request: Request, answer: Answer, booked: float) -> float:
        """Enter an answer into the books; returns the tokens it used, or those booked where nobody counted them."""
        self._spent += answer.cost or 0.0
        self._answered, self._given_up = self._answered + 1, 0
        if answer.prompt_tokens is None or answer.completion_tokens is None:
            return booked
        used = answer.prompt_tokens + answer.completion_tokens
        self._used, self._chars = self._used + used, self._chars + request.chars
        return used

    @asynccontextmanager
    async def _reservation(self, request: Request) -> AsyncIterator[None]:
        """Set aside the most that the answer can cost, so that the cap is never passed, once others leave room."""
        most, cap = self.settings.cost(request.chars, request.max_tokens) or 0.0, self.settings.spend_cap

        def fits() -> bool:
            return cap is None or self._spent + self._reserved + most <= cap

        async with self._freed:
            await self._freed.wait_for(lambda: fits() or not self._sending or self._stop)
            if not (self._stop or fits()):
                self.stop(
                    f"The spend cap of {cap:g} is reached ({self._spent:.4g} spent, and the next request may cost "
                    f"{most:.2g}); what is done is kept, raise --spend-cap and run the same command to go on."
                )
            if self._stop:
                raise self._stop
            self._sending, self._reserved = self._sending + 1, self._reserved + most
        try:
            yield
        finally:
            async with self._freed:
                self._sending, self._reserved = self._sending - 1, self._reserved - most
                self._freed.notify_all()

    async def _send(self, id_: str, request: Request) -> Answer:
        import openai

        started, wire = monotonic(), request.wire(self._without)
        try:
            async with asyncio.timeout(self.settings.timeout):
                reply = await self._client.chat.completions.create(**wire)
        except (TimeoutError, openai.APITimeoutError):
            raise Passing(f"no answer within {self.settings.timeout:g} s") from None
        except openai.APIStatusError as error:
            raise self._settled(judged(error, wire, quoted(error, self._key))) from None
        except openai.APIConnectionError as error:
            detail = quoted(error.__cause__ or error, self._key)
            raise Passing(f"no connection: {detail}", unreachable=True) from None
        except (openai.OpenAIError, ValueError, TypeError) as error:
            raise Passing(f"an answer that is no JSON: {quoted(error, self._key)}") from None
        return self._read(id_, request, reply, round(monotonic() - started, 3))

    def _read(self, id_: str, request: Request, reply: Any, seconds: float) -> Answer:
        choices = getattr(reply, "choices", None)
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = getattr(choice, "message", None)
        text = (getattr(message, "content", None) or getattr(message, "refusal", None) or "") if message else None
        if not isinstance(text, str):
            raise Passing("an answer without a message")
        usage = getattr(reply, "usage", None)
        prompt, completion = (_count(usage, name) for name in ("prompt_tokens", "completion_tokens"))
        # Where the endpoint counts nothing, the spend is taken to be the most it can be.
        cost = self.settings.cost(
            request.chars if prompt is None else prompt, request.max_tokens if completion is None else completion
        )
        finish = str(getattr(choice, "finish_reason", None) or "stop")
        return Answer(id_, text.encode(errors="replace").decode(), finish, prompt, completion, seconds, cost)

    async def _pause(self, attempt: int, passing: Passing) -> None:
        if passing.wait is not None:
            # What the endpoint asks of one request it means for all.
            self._paused_until = max(self._paused_until, monotonic() + passing.wait)
            return
        pause = min(self.settings.first_pause * 2 ** (attempt - 1), LONGEST_PAUSE)
        # Spread out, so that requests that failed together do not come back together.
        await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311

    def _give_up(self, detail: str, attempts: int) -> Exception:
        self._given_up += 1
        if self._answered and self._given_up < GIVEN_UP_IN_A_ROW:
            return Unanswered("no_answer", f"{detail}, {attempts} times", lasting=False)
        ending = Ending(f"gives no answers ({detail}); what is done is kept, run the same command once it does")
        return self._settled(ending)

    def _settled(self, trouble: Exception) -> Exception:
        """The trouble itself, or the end of everything where it stands for that."""
        if isinstance(trouble, Unanswered) and trouble.reason == "refused_request" and not self._answered:
            trouble = Ending(f"does not accept the requests ({trouble.detail})")
        if isinstance(trouble, Ending):
            self.stop(f"The endpoint {self.address} {trouble}.")
        return self._stop if isinstance(trouble, Ending) and self._stop else trouble

    @property
    def address(self) -> str:
        """Where requests go, as it may be shown."""
        parts = urlsplit(str(self._client.base_url))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def _count(usage: Any, name: str) -> int | None:
    value = getattr(usage, name, None)
    return value if isinstance(value, int) and value >= 0 else None
