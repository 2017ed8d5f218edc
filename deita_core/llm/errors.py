"""Errors of an endpoint, and whether a retry can help."""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from time import time
from typing import TYPE_CHECKING, Any, NamedTuple

from deita_core.errors import cause

if TYPE_CHECKING:
    import openai

KEY_VARIABLES = ("DEITA_LLM__API_KEY", "OPENAI_API_KEY")
# A requested wait longer than this, in seconds, is a quota: stop and report it instead.
LONGEST_RETRY_AFTER = 300.0
# Parameters that a request does not need, or that newer endpoints have renamed.
OPTIONAL = (
    "response_format", "seed", "temperature", "max_tokens", "logit_bias", "logprobs", "stream_options", "stream",
)  # fmt: skip
# Parameters that are lowered to this value instead of left out.
LEAST = {"logprobs": 5}
# How servers report that a prompt is too long (OpenAI, vLLM, SGLang, llama.cpp, TGI).
TOO_LONG = r"context[ _](length|window|size)|maximum model length|max_new_tokens. must be <="
# How servers report a temporary rate limit (OpenAI, Gemini, Groq); the text may mention plan and billing as well.
RATE_LIMIT = r"(re)?try (again )?(in|after)\b|rate.?limit|too many requests|per.?(second|minute|hour|day)|\b[RT]P[MD]\b"
# How servers report that no credit is left (OpenAI, Anthropic, DeepSeek, OpenRouter, xAI, Moonshot).
NO_CREDIT = (
    r"insufficient.?(quota|funds|balance|credits?)|exceeded.{0,12}current.?quota|\bcredits?\b|billing|payment|"
    r"balance|prepaid|out of funds|(spend(ing)?|hard|usage) limit|quota.{0,20}(exhausted|used up|exceeded)"
)
# A 400 may quote the prompt, so only unambiguous phrases count.
NO_CREDIT_IN_400 = r"credit balance|insufficient.?(quota|funds|balance|credits?)"
# Status codes for error codes inside a 200 reply; other codes are status codes already, or unknown.
STATUS_OF = {
    "rate_limit_exceeded": 429,
    "insufficient_quota": 402,
    "invalid_api_key": 401,
    "model_not_found": 404,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "invalid_request_error": 400,
}
# The reason if a request got no answer for no specific reason.
NO_ANSWER = "no_answer"


class PermanentRequestError(Exception):
    """A request that the endpoint does not answer, so a retry now is useless; with `lasting`, so is a retry later."""

    def __init__(self, reason: str, detail: str, lasting: bool) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.lasting = reason, detail, lasting


class RetryableError(Exception):
    """An error worth a retry, after `wait` seconds if the endpoint asks for that.

    `reason`: recorded if the retries fail in the same way. `doubtful`: retried only a few times until the endpoint has
    answered once, because it is then more likely wrong than busy.
    """

    def __init__(self, detail: str, wait: float | None = None, doubtful: bool = False, reason: str = NO_ANSWER) -> None:
        super().__init__(detail)
        self.detail, self.wait, self.doubtful, self.reason = detail, wait, doubtful, reason


class UnsupportedParameterError(Exception):
    """The endpoint does not support a parameter that can be left out or renamed."""

    def __init__(self, parameter: str) -> None:
        super().__init__(parameter)
        self.parameter = parameter


class FatalEndpointError(Exception):
    """An error that affects every request; its text continues the sentence "The endpoint X ..."."""


class Said(NamedTuple):
    """An endpoint's error: a message that is safe to show, the code, the type and the parameter."""

    words: str
    code: str = ""
    kind: str = ""
    param: str = ""

    @property
    def in_brackets(self) -> str:
        """The message after a colon, or an empty string."""
        return f": {self.words}" if self.words else ""


def error_of(status: int, wire: Mapping[str, Any], said: Said, headers: Mapping[str, str]) -> Exception:
    """Return the exception for an error status of the request `wire`."""
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
    """Whether an error means that no credit or quota is left, not that requests come too fast."""
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
    """Return the exception for a request that the endpoint rejects."""
    if said.code == "context_length_exceeded" or re.search(TOO_LONG, said.words, re.IGNORECASE):
        return PermanentRequestError("too_long", f"longer than the model's window ({said.words})", lasting=True)
    if said.code == "content_filter":
        return PermanentRequestError("content_filter", "the endpoint's filter refuses the prompt", lasting=True)
    for name in OPTIONAL:
        if name in wire and wire[name] != LEAST.get(name) and _names(said, name):
            return UnsupportedParameterError(name)
    return PermanentRequestError("refused_request", f"status {status}{said.in_brackets}", lasting=True)


def _names(said: Said, parameter: str) -> bool:
    spelled = {"stream": "stream(ing)?", "response_format": "(response_format|json_schema)"}.get(parameter, parameter)
    return said.param == parameter or bool(re.search(rf"\b{spelled}\b", said.words, re.IGNORECASE))


def error_in_reply(reply: Any, wire: Mapping[str, Any], key: str) -> Exception | None:
    """Return the exception for an error inside a reply of status 200, or None.

    Some gateways put errors in the whole reply, in its choice or in the middle of a stream.
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
    return error_of(status, wire, said, {})


def _error_in(reply: Mapping[str, Any]) -> Any:
    choices = reply.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(first, dict):
        return reply.get("error") or first.get("error")
    return next((reply[name] for name in ("error", "detail", "message") if reply.get(name)), None)


def said_by(error: "openai.APIStatusError", key: str) -> Said:
    """Return the error that an endpoint sent with an error status."""
    words = _said(error.body) or _said(error.response)
    return Said(shown(words, key), *(str(name or "") for name in (error.code, error.type, error.param)))


def quoted(error: BaseException, key: str) -> str:
    """Return the beginning of a connection error's message."""
    return shown(str(error) or type(error).__name__, key)


def shown(words: str, key: str) -> str:
    """Return the beginning of an endpoint's message, without the key (some endpoints repeat it) and without HTML."""
    if words.lstrip().startswith("<"):
        words = " ".join(re.sub(r"<(style|script|title)\b.*?</\1>|<[^>]*>", " ", words, flags=re.S | re.I).split())
    # Before cutting: half a key is also a secret. The key may appear as Python's repr or as bytes.
    for secret in (key, repr(key)[1:-1], repr(key.encode())[2:-1]):
        words = words.replace(secret, "***")
    return cause(Exception(words)) if words.strip() else ""


def _said(body: Any) -> str:
    """Return the message in a body, or the whole body as text; servers put the message in different fields."""
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
    """Return the seconds of a Retry-After header (a number or a date), or None."""
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
