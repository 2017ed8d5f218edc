"""Requests to an endpoint and their replies: a chat, or a prompt for the next token only."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import orjson
from pydantic import BaseModel, Field, ValidationError

from deita_core.conversation import content_id
from deita_core.llm.cache import Answer
from deita_core.llm.errors import LEAST, RetryableError
from deita_core.llm.settings import LLMSettings

# Upper bound on the tokens that a chat template adds to a message.
TOKENS_AROUND_MESSAGE = 16
# Sent to check whether an endpoint answers at all.
PROBE = (("user", "Reply with the word OK."),)
PROMPT_PROBE = "Count: 1, 2, "
RENAMED = {"max_tokens": "max_completion_tokens"}
# vLLM's default maximum.
MOST_LISTED = 20
# The largest bias that endpoints accept.
MOST_BIAS = 100
# Log probability of zero, because JSON has no infinity.
NO_CHANCE = -9_999.0
# Rounding may put a probability this much above one.
ROUNDING = 1e-3


@dataclass(frozen=True)
class Request:
    """One chat request: everything that its answer depends on, without address and key.

    `schema`: the JSON schema of the answer; none: a text.
    """

    path: ClassVar[str] = "/chat/completions"

    model: str
    messages: tuple[tuple[str, str], ...]
    temperature: float
    seed: int
    max_tokens: int
    schema: Mapping[str, Any] | None

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
        """Upper bound on the prompt's tokens: one per byte, plus those of the chat template."""
        return sum(len(content.encode()) + TOKENS_AROUND_MESSAGE for _, content in self.messages)

    def probe(self) -> "Request":
        """A minimal request of the same kind."""
        return replace(self, messages=PROBE, schema=None)

    def wire(self, without: set[str]) -> dict[str, Any]:
        """Return the parameters to send, except those the endpoint does not support (`without`)."""
        sent: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": role, "content": content} for role, content in self.messages],
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
        }
        if self.schema:
            form = {"name": "answer", "strict": True, "schema": self.schema}
            sent["response_format"] = {"type": "json_schema", "json_schema": form}
        if "stream" not in without:
            # Streamed parts show that an answer is coming, however long it is.
            sent |= {"stream": True, "stream_options": {"include_usage": True}}
        return _known(sent, without)

    def read(self, choice: Mapping[str, Any]) -> str:
        """Return the message in a reply's choice. Raises RetryableError if there is none."""
        message = choice.get("message")
        text = (text_of(message.get("content")) or message.get("refusal") or "") if isinstance(message, dict) else None
        if not isinstance(text, str):
            raise RetryableError("an answer without a message")
        return valid_unicode(text)


@dataclass(frozen=True)
class NextToken:
    """A request for the most likely next tokens after a prompt; the answer's text is a Listing as JSON.

    `favoured`: ids of tokens that all get the same bias, which keeps the differences among them.
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
        """Upper bound on the prompt's tokens: one per byte, plus one at its start."""
        return len(self.prompt.encode()) + 1

    def probe(self) -> "NextToken":
        """A minimal request of the same kind."""
        return replace(self, prompt=PROMPT_PROBE)

    def wire(self, without: set[str]) -> dict[str, Any]:
        """Return the parameters to send; asks for fewer tokens if the endpoint cannot list so many."""
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
        """Return the listing in a reply's choice as JSON. Raises RetryableError if it is missing or invalid."""
        try:
            return read_listing(choice).model_dump_json()
        except ValidationError:
            raise RetryableError(
                "a reply without log probabilities of its token, as vLLM, SGLang and llama.cpp give them",
                reason="no_logprobs",
            ) from None


Logprob = Annotated[float, Field(le=ROUNDING)]


class Listing(BaseModel):
    """The most likely tokens at one position with their log probabilities; a text may occur twice.

    `chosen`: the sampled token, which may be listed although tokens that are not listed are more likely.
    """

    chosen: str | None
    tokens: list[tuple[str, Logprob]] = Field(min_length=1)


class _Legacy(BaseModel):
    """Log probabilities in the completions layout (OpenAI, vLLM, SGLang)."""

    top_logprobs: list[dict[str, Logprob]] = Field(min_length=1)
    tokens: list[str] | None = None
    token_logprobs: list[Logprob | None] | None = None


class _Token(BaseModel):
    token: str
    logprob: Logprob


class _Place(_Token):
    top_logprobs: list[_Token]


class _Spelled(BaseModel):
    """Log probabilities in the chat layout; llama.cpp uses it for completions too."""

    content: list[_Place] = Field(min_length=1)


def read_listing(choice: Mapping[str, Any]) -> Listing:
    """Return the listing of a choice's first token, from either layout. Raises ValidationError if there is none.

    A log probability that is missing or positive makes the whole reply invalid.
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
    # Two tokens with the same text share one key of the mapping, so the chosen one may be missing.
    if tokens and chosen is not None and likely is not None and (chosen, likely) not in tokens:
        tokens.append((chosen, likely))
    return Listing(chosen=chosen, tokens=[(token, round(max(logprob, NO_CHANCE), 7)) for token, logprob in tokens])


def _known(sent: Mapping[str, Any], without: set[str]) -> dict[str, Any]:
    renamed = {new: sent[name] for name, new in RENAMED.items() if name in without}
    return {name: value for name, value in sent.items() if name not in without} | renamed


def read_answer(settings: LLMSettings, request: Request | NextToken, reply: Any, seconds: float) -> Answer:
    """Return the answer in a reply. Raises RetryableError if there is none."""
    choices = reply.get("choices") if isinstance(reply, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        raise RetryableError("an answer without a choice")
    usage = reply.get("usage")
    prompt, completion = (_tokens(usage, name) for name in ("prompt_tokens", "completion_tokens"))
    # Without token counts, assume the highest possible cost.
    cost = settings.cost(
        request.most_tokens if prompt is None else prompt, request.max_tokens if completion is None else completion
    )
    finish = str(choice.get("finish_reason") or "stop")
    return Answer(request.id, request.read(choice), finish, prompt, completion, seconds, cost)


def text_of(content: Any) -> Any:
    """Return a message's content as text; of a list of parts, join the text parts and drop reasoning."""
    if not isinstance(content, list):
        return content
    parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
    return "".join(part for part in parts if isinstance(part, str))


def _tokens(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and value >= 0 else None


def valid_unicode(text: str) -> str:
    """Return the text without unpaired surrogates, which are invalid Unicode."""
    return text.encode(errors="replace").decode()
