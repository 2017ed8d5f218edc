"""What goes wrong between a client and an endpoint, and whether asking again helps."""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from time import time
from typing import TYPE_CHECKING, Any

from deita_core.errors import cause

if TYPE_CHECKING:
    import openai

KEY_VARIABLES = ("DEITA_LLM__API_KEY", "OPENAI_API_KEY")
# A longer pause than this, in seconds, is a quota: better to stop and say so.
LONGEST_RETRY_AFTER = 300.0
# Parameters that a request can do without, or that newer endpoints know by another name.
OPTIONAL = ("response_format", "seed", "temperature", "max_tokens", "logit_bias", "logprobs")
# Parameters that are not left out but lowered, and how far.
LEAST = {"logprobs": 5}
# How servers say that a prompt is longer than what they take (OpenAI, vLLM, SGLang, llama.cpp, TGI).
TOO_LONG = r"context[ _](length|window|size)|maximum model length|max_new_tokens. must be <="
# The reason of what was not answered for no reason of its own.
NO_ANSWER = "no_answer"


class Unanswered(Exception):  # noqa: N818
    """One request that will get no answer by being asked again now; with `lasting`, nor at any other time."""

    def __init__(self, reason: str, detail: str, lasting: bool) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.lasting = reason, detail, lasting


class Passing(Exception):  # noqa: N818
    """A trouble that is worth another attempt, after `wait` seconds if the endpoint asks for that.

    `reason`: what stays of it where further attempts end the same way.
    """

    def __init__(
        self, detail: str, wait: float | None = None, unreachable: bool = False, reason: str = NO_ANSWER
    ) -> None:
        super().__init__(detail)
        self.detail, self.wait, self.unreachable, self.reason = detail, wait, unreachable, reason


class Unsupported(Exception):  # noqa: N818
    """An endpoint that does not know a parameter, which can be left out or named otherwise."""

    def __init__(self, parameter: str) -> None:
        super().__init__(parameter)
        self.parameter = parameter


class Ending(Exception):  # noqa: N818
    """A trouble that every other request would meet as well; its text goes on from "The endpoint X "."""


def judged(error: "openai.APIStatusError", wire: Mapping[str, Any], said: str) -> Exception:
    """What an error status means for the request `wire`; `said` is what the endpoint said, fit to be shown."""
    status = error.status_code
    wait = retry_after(error.response.headers)
    if status in (400, 422):
        return _refused(error, wire, said)
    if status == 413:
        return Unanswered("too_long", f"the request is too large (413: {said})", lasting=True)
    if status == 429 and error.code != "insufficient_quota":
        if wait is None or wait <= LONGEST_RETRY_AFTER:
            return Passing("too many requests (429)", wait)
        return Ending(f"asks to wait {wait:,.0f} seconds; what is done is kept, run the same command to go on then")
    if status in (408, 409, 425) or status >= 500:
        return Passing(f"status {status}", wait if wait is None or wait <= LONGEST_RETRY_AFTER else None)
    asked, named = "completions", "the address and the model's name after its #"
    if "messages" in wire:
        asked, named = "chat completions", "--model and --base-url"
    endings = {
        401: f"refuses the key (401); set {KEY_VARIABLES[0]} to a valid one",
        402: f"asks for payment (402: {said}); what is done is kept, run the same command to go on",
        403: f"does not allow this (403: {said}); check the key's rights",
        404: f"knows no model {wire['model']!r}, or has no {asked} there (404); check {named}",
        429: "says that the quota is used up (429); what is done is kept, run the same command to go on",
    }
    return Ending(endings.get(status, f"answers with status {status} ({said})"))


def _refused(error: "openai.APIStatusError", wire: Mapping[str, Any], said: str) -> Exception:
    """A request that the endpoint does not admit as it is."""
    if error.code == "context_length_exceeded" or re.search(TOO_LONG, said, re.IGNORECASE):
        return Unanswered("too_long", f"longer than the model's window ({said})", lasting=True)
    if error.code == "content_filter":
        return Unanswered("content_filter", "the endpoint's filter refuses the prompt", lasting=True)
    for name in OPTIONAL:
        if name in wire and wire[name] != LEAST.get(name) and (error.param == name or re.search(rf"\b{name}\b", said)):
            return Unsupported(name)
    return Unanswered("refused_request", f"status {error.status_code}: {said}", lasting=True)


def quoted(error: BaseException, key: str) -> str:
    """The beginning of what an error says, without the key, which some endpoints repeat."""
    said = _said(getattr(error, "body", None)) or _said(getattr(error, "response", None)) or str(error)
    # Before it is cut: half a key is a secret as well. An error may show it as Python writes it, or its bytes.
    for secret in (key, repr(key)[1:-1], repr(key.encode())[2:-1]):
        said = said.replace(secret, "***")
    return cause(Exception(said or type(error).__name__))


def _said(body: Any) -> str:
    """What a body says: its message, or all of it; each kind of server has its own place for it."""
    if isinstance(body, dict):
        for name in ("message", "detail", "error"):
            if name in body:
                return _said(body[name])
        return str(body)
    if isinstance(body, list):
        return str(body)
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
