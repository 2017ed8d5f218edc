"""What goes wrong between a client and an endpoint, and whether asking again helps."""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from time import time
from typing import TYPE_CHECKING, Any, NamedTuple

from deita_core.errors import cause

if TYPE_CHECKING:
    import openai

KEY_VARIABLES = ("DEITA_LLM__API_KEY", "OPENAI_API_KEY")
# A longer pause than this, in seconds, is a quota: better to stop and say so.
LONGEST_RETRY_AFTER = 300.0
# Parameters that a request can do without, or that newer endpoints know by another name.
OPTIONAL = (
    "response_format", "seed", "temperature", "max_tokens", "logit_bias", "logprobs", "stream_options", "stream",
)  # fmt: skip
# Parameters that are not left out but lowered, and how far.
LEAST = {"logprobs": 5}
# How servers say that a prompt is longer than what they take (OpenAI, vLLM, SGLang, llama.cpp, TGI).
TOO_LONG = r"context[ _](length|window|size)|maximum model length|max_new_tokens. must be <="
# How servers say that it is a limit for some time (OpenAI, Gemini, Groq), which may name the plan and billing as well.
RATE_LIMIT = r"(re)?try (again )?(in|after)\b|rate.?limit|too many requests|per.?(second|minute|hour|day)|\b[RT]P[MD]\b"
# How servers say that nothing is left to pay with (OpenAI, Anthropic, DeepSeek, OpenRouter, xAI, Moonshot).
NO_CREDIT = (
    r"insufficient.?(quota|funds|balance|credits?)|exceeded.{0,12}current.?quota|\bcredits?\b|billing|payment|"
    r"balance|prepaid|out of funds|(spend(ing)?|hard|usage) limit|quota.{0,20}(exhausted|used up|exceeded)"
)
# Of a 400, which may repeat what was asked, only what nobody else says.
NO_CREDIT_IN_400 = r"credit balance|insufficient.?(quota|funds|balance|credits?)"
# Codes in an error that stands in a reply in place of an answer, as statuses; others are statuses already, or unknown.
STATUS_OF = {
    "rate_limit_exceeded": 429,
    "insufficient_quota": 402,
    "invalid_api_key": 401,
    "model_not_found": 404,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "invalid_request_error": 400,
}
# The reason of what was not answered for no reason of its own.
NO_ANSWER = "no_answer"


class PermanentRequestError(Exception):
    """One request that will get no answer by being asked again now; with `lasting`, nor at any other time."""

    def __init__(self, reason: str, detail: str, lasting: bool) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.lasting = reason, detail, lasting


class RetryableError(Exception):
    """A trouble that is worth another attempt, after `wait` seconds if the endpoint asks for that.

    `reason`: what stays of it where further attempts end the same way. `doubtful`: worth only a few attempts as long as
    the endpoint has never answered, since it is more likely wrong than busy.
    """

    def __init__(self, detail: str, wait: float | None = None, doubtful: bool = False, reason: str = NO_ANSWER) -> None:
        super().__init__(detail)
        self.detail, self.wait, self.doubtful, self.reason = detail, wait, doubtful, reason


class UnsupportedParameterError(Exception):
    """An endpoint that does not know a parameter, which can be left out or named otherwise."""

    def __init__(self, parameter: str) -> None:
        super().__init__(parameter)
        self.parameter = parameter


class FatalEndpointError(Exception):
    """A trouble that every other request would meet as well; its text goes on from "The endpoint X "."""


class Said(NamedTuple):
    """What an endpoint says about an error: in words fit to be shown, and by code and parameter."""

    words: str
    code: str = ""
    kind: str = ""
    param: str = ""

    @property
    def in_brackets(self) -> str:
        """The words after a colon, where there are any."""
        return f": {self.words}" if self.words else ""


def judged(status: int, wire: Mapping[str, Any], said: Said, headers: Mapping[str, str]) -> Exception:
    """What an error status means for the request `wire`."""
    wait = retry_after(headers)
    if _is_out_of_credit(status, said, wait):
        return FatalEndpointError(
            f"says that its credit or quota is used up ({status}{said.in_brackets}); what is done is kept, see to the "
            f"account and run the same command to go on"
        )
    if status in (400, 422):
        return _refused(status, wire, said)
    if status == 413:
        return PermanentRequestError("too_long", f"the request is too large (413{said.in_brackets})", lasting=True)
    if status == 429:
        if wait is None or wait <= LONGEST_RETRY_AFTER:
            return RetryableError(f"too many requests (429{said.in_brackets})", wait)
        return FatalEndpointError(
            f"asks to wait {wait:,.0f} seconds; what is done is kept, run the same command to go on then"
        )
    if "stream" in wire and (status == 501 or (status >= 500 and _names(said, "stream"))):
        return UnsupportedParameterError("stream")
    if status in (408, 409, 425) or status >= 500:
        short = wait if wait is None or wait <= LONGEST_RETRY_AFTER else None
        return RetryableError(f"status {status}{said.in_brackets}", short)
    return FatalEndpointError(_ending(status, wire, said))


def _ending(status: int, wire: Mapping[str, Any], said: Said) -> str:
    asked, named = "completions", "the address and the model's name after its #"
    if "messages" in wire:
        asked, named = "chat completions", "--model and --base-url"
    endings = {
        401: f"refuses the key (401{said.in_brackets}); set {KEY_VARIABLES[0]} to a valid one",
        403: f"does not allow this (403{said.in_brackets}); check the key's rights",
        404: f"knows no model {wire['model']!r}, or has no {asked} there (404{said.in_brackets}); check {named}",
    }
    return endings.get(status, f"answers with status {status}{said.in_brackets and f' ({said.words})'}")


def _is_out_of_credit(status: int, said: Said, wait: float | None = None) -> bool:
    """Whether an error says that no money or quota is left, and not that the endpoint is asked too fast."""
    named = f"{said.code} {said.kind}"
    if status == 402 or (status == 429 and re.search(r"insufficient|current_quota", named)):
        return True
    if status == 400:
        return bool(re.search(NO_CREDIT_IN_400, said.words, re.IGNORECASE))
    if status != 429 or (wait is not None and wait <= LONGEST_RETRY_AFTER):
        return False
    words = f"{named} {said.words}"
    return not re.search(RATE_LIMIT, words, re.IGNORECASE) and bool(re.search(NO_CREDIT, words, re.IGNORECASE))


def _refused(status: int, wire: Mapping[str, Any], said: Said) -> Exception:
    """A request that the endpoint does not admit as it is."""
    if said.code == "context_length_exceeded" or re.search(TOO_LONG, said.words, re.IGNORECASE):
        return PermanentRequestError("too_long", f"longer than the model's window ({said.words})", lasting=True)
    if said.code == "content_filter":
        return PermanentRequestError("content_filter", "the endpoint's filter refuses the prompt", lasting=True)
    for name in OPTIONAL:
        if name in wire and wire[name] != LEAST.get(name) and _names(said, name):
            return UnsupportedParameterError(name)
    return PermanentRequestError("refused_request", f"status {status}{said.in_brackets}", lasting=True)


def _names(said: Said, parameter: str) -> bool:
    spelled = "stream(ing)?" if parameter == "stream" else parameter
    return said.param == parameter or bool(re.search(rf"\b{spelled}\b", said.words, re.IGNORECASE))


def judged_reply(reply: Any, wire: Mapping[str, Any], key: str) -> Exception | None:
    """What an error means that a reply of status 200 holds in place of an answer; None where it holds none.

    Some gateways answer so, in the whole reply, in its choice or in the middle of a stream.
    """
    if not isinstance(reply, dict) or not (error := _error_in(reply)):
        return None
    fields = error if isinstance(error, dict) else {}
    said = Said(shown(_said(error), key), *(str(fields.get(name) or "") for name in ("code", "type", "param")))
    status = int(said.code) if re.fullmatch("[45][0-9][0-9]", said.code) else STATUS_OF.get(said.code)
    status = status or STATUS_OF.get(said.kind)
    if status is None and _is_out_of_credit(429, said):
        status = 402
    if status is None:
        return RetryableError(f"an error in place of an answer{said.in_brackets}", doubtful=True)
    return judged(status, wire, said, {})


def _error_in(reply: Mapping[str, Any]) -> Any:
    choices = reply.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(first, dict):
        return reply.get("error") or first.get("error")
    return next((reply[name] for name in ("error", "detail", "message") if reply.get(name)), None)


def said_by(error: "openai.APIStatusError", key: str) -> Said:
    """What an endpoint says with an error status."""
    words = _said(error.body) or _said(error.response)
    return Said(shown(words, key), *(str(name or "") for name in (error.code, error.type, error.param)))


def quoted(error: BaseException, key: str) -> str:
    """The beginning of what an error of the connection says."""
    return shown(str(error) or type(error).__name__, key)


def shown(words: str, key: str) -> str:
    """The beginning of what an endpoint says, without the key, which some repeat, and without HTML."""
    if words.lstrip().startswith("<"):
        words = " ".join(re.sub(r"<(style|script|title)\b.*?</\1>|<[^>]*>", " ", words, flags=re.S | re.I).split())
    # Before it is cut: half a key is a secret as well. An error may show it as Python writes it, or its bytes.
    for secret in (key, repr(key)[1:-1], repr(key.encode())[2:-1]):
        words = words.replace(secret, "***")
    return cause(Exception(words)) if words.strip() else ""


def _said(body: Any) -> str:
    """What a body says: its message, or all of it; each kind of server has its own place for it."""
    if isinstance(body, dict):
        for name in ("message", "detail", "error"):
            if body.get(name):
                return _said(body[name])
        return str(body) if body else ""
    if isinstance(body, list):
        return str(body) if body else ""
    if isinstance(body, str):
        return body
    try:
        return _said(body.json())
    except (AttributeError, ValueError):
        return str(getattr(body, "text", "") or "")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds an endpoint asks to wait: Retry-After as a number or a date, or None."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (TypeError, ValueError):
        return None
