"""What is sent to an endpoint and what is read from its reply: a conversation, or a prompt for its next token alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import orjson
from pydantic import BaseModel, Field, ValidationError

from deita_core.conversation import content_id
from deita_core.llm.cache import Answer
from deita_core.llm.errors import LEAST, RetryableError
from deita_core.llm.settings import LLMSettings

# What a chat template adds to a message, at most.
TOKENS_AROUND_MESSAGE = 16
# Asked to find out whether an endpoint answers anything at all.
PROBE = (("user", "Reply with the word OK."),)
PROMPT_PROBE = "Count: 1, 2, "
RENAMED = {"max_tokens": "max_completion_tokens"}
# As many as vLLM lists unless it is told otherwise.
MOST_LISTED = 20
# The largest bias that endpoints take.
MOST_BIAS = 100
# What a probability of nothing is written as, where JSON has no infinity.
NO_CHANCE = -9_999.0
# A probability of one may come out this much above it.
ROUNDING = 1e-3


@dataclass(frozen=True)
class Request:
    """One question, as it is known by: everything that an answer depends on, and neither address nor key."""

    path: ClassVar[str] = "/chat/completions"

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

    @property
    def most_tokens(self) -> int:
        """More tokens than the prompt can have: one a byte, and what a chat template adds."""
        return sum(len(content.encode()) + TOKENS_AROUND_MESSAGE for _, content in self.messages)

    def probe(self) -> "Request":
        """A harmless question of the same kind."""
        return replace(self, messages=PROBE, as_json=False)

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
        if "stream" not in without:
            # An answer that comes piece by piece is known to be on its way, however long it gets.
            sent |= {"stream": True, "stream_options": {"include_usage": True}}
        return _known(sent, without)

    def read(self, choice: Mapping[str, Any]) -> str:
        """The message in a reply's choice. Raises RetryableError where there is none."""
        message = choice.get("message")
        text = (text_of(message.get("content")) or message.get("refusal") or "") if isinstance(message, dict) else None
        if not isinstance(text, str):
            raise RetryableError("an answer without a message")
        return sound(text)


@dataclass(frozen=True)
class NextToken:
    """A prompt to go on from, asked for the most likely next tokens; the answer's text is a Listing as JSON.

    `favoured`: ids of tokens that are all given the same bias, which leaves the differences among them as they are.
    """

    path: ClassVar[str] = "/completions"
    max_tokens: ClassVar[int] = 1

    model: str
    prompt: str
    favoured: tuple[int, ...] = ()

    @property
    def id(self) -> str:
        """Content id of the request."""
        return content_id(orjson.dumps(self, option=orjson.OPT_SORT_KEYS))

    @property
    def chars(self) -> int:
        """Length of the prompt in characters."""
        return len(self.prompt)

    @property
    def most_tokens(self) -> int:
        """More tokens than the prompt can have: one a byte, and one at its start."""
        return len(self.prompt.encode()) + 1

    def probe(self) -> "NextToken":
        """A harmless prompt."""
        return replace(self, prompt=PROMPT_PROBE)

    def wire(self, without: set[str]) -> dict[str, Any]:
        """The parameters as they are sent; fewer tokens are asked for where the endpoint does not list so many."""
        sent: dict[str, Any] = {
            "model": self.model,
            "prompt": self.prompt,
            "temperature": 0,
            "max_tokens": self.max_tokens,
            "logprobs": LEAST["logprobs"] if "logprobs" in without else MOST_LISTED,
        }
        if self.favoured:
            sent["logit_bias"] = {str(id_): MOST_BIAS for id_ in self.favoured}
        return _known(sent, without - {"logprobs"})

    def read(self, choice: Mapping[str, Any]) -> str:
        """The listing in a reply's choice, as JSON. Raises RetryableError where there is none, or it cannot be one."""
        try:
            return read_listing(choice).model_dump_json()
        except ValidationError:
            raise RetryableError(
                "a reply without log probabilities of its token, as vLLM, SGLang and llama.cpp give them",
                reason="no_logprobs",
            ) from None


Logprob = Annotated[float, Field(le=ROUNDING)]


class Listing(BaseModel):
    """The most likely tokens at one place with their log probabilities, a token's text maybe twice; `chosen`: by the
    endpoint, which may list it although others that it does not list are more likely."""

    chosen: str | None
    tokens: list[tuple[str, Logprob]] = Field(min_length=1)


class _Legacy(BaseModel):
    """Log probabilities as completions have them (OpenAI, vLLM, SGLang)."""

    top_logprobs: list[dict[str, Logprob]] = Field(min_length=1)
    tokens: list[str] | None = None
    token_logprobs: list[Logprob | None] | None = None


class _Token(BaseModel):
    token: str
    logprob: Logprob


class _Place(_Token):
    top_logprobs: list[_Token]


class _Spelled(BaseModel):
    """Log probabilities as chats have them; llama.cpp gives them for completions too."""

    content: list[_Place] = Field(min_length=1)


def read_listing(choice: Mapping[str, Any]) -> Listing:
    """The listing of a choice's first token, in either layout. Raises ValidationError where there is none.

    No number or a positive one is no log probability, and then nothing else in the reply is believed either.
    """
    given = choice.get("logprobs")
    if isinstance(given, dict) and given.get("content"):
        place = _Spelled.model_validate(given, strict=True).content[0]
        tokens = [(entry.token, entry.logprob) for entry in place.top_logprobs]
        chosen: str | None = place.token
        likely: float | None = place.logprob
    else:
        legacy = _Legacy.model_validate(given, strict=True)
        tokens = list(legacy.top_logprobs[0].items())
        chosen = legacy.tokens[0] if legacy.tokens else choice.get("text")
        likely = legacy.token_logprobs[0] if legacy.token_logprobs else None
    # Two tokens of one text are one entry of a mapping: the chosen one may be the one that was lost.
    if tokens and chosen is not None and likely is not None and (chosen, likely) not in tokens:
        tokens.append((chosen, likely))
    return Listing(chosen=chosen, tokens=[(token, round(max(logprob, NO_CHANCE), 7)) for token, logprob in tokens])


def _known(sent: Mapping[str, Any], without: set[str]) -> dict[str, Any]:
    renamed = {new: sent[name] for name, new in RENAMED.items() if name in without}
    return {name: value for name, value in sent.items() if name not in without} | renamed


def read_answer(settings: LLMSettings, request: Request | NextToken, reply: Any, seconds: float) -> Answer:
    """The answer in a reply. Raises RetryableError where there is none."""
    choices = reply.get("choices") if isinstance(reply, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        raise RetryableError("an answer without a choice")
    usage = reply.get("usage")
    prompt, completion = (_tokens(usage, name) for name in ("prompt_tokens", "completion_tokens"))
    # Where the endpoint counts nothing, the spend is taken to be the most it can be.
    cost = settings.cost(
        request.most_tokens if prompt is None else prompt, request.max_tokens if completion is None else completion
    )
    finish = str(choice.get("finish_reason") or "stop")
    return Answer(request.id, request.read(choice), finish, prompt, completion, seconds, cost)


def text_of(content: Any) -> Any:
    """A message's content as text; of one in parts those that are text, which thoughts are not."""
    if not isinstance(content, list):
        return content
    parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
    return "".join(part for part in parts if isinstance(part, str))


def _tokens(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and value >= 0 else None


def sound(text: str) -> str:
    """The text without halves of surrogate pairs, which are no Unicode."""
    return text.encode(errors="replace").decode()
