"""Sends a request and reads its reply, streamed if the endpoint supports it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import httpx2
import orjson

from deita_core.llm.errors import RetryableError, UnsupportedParameterError
from deita_core.llm.requests import text_of
from deita_core.llm.traffic import TRAFFIC

if TYPE_CHECKING:
    import openai


async def exchange(client: "openai.AsyncOpenAI", path: str, wire: Mapping[str, Any]) -> Any:
    """Send the parameters `wire` and return the reply as JSON; streamed chunks are joined.

    Raises what the client raises, ValueError for a reply that is not JSON, RetryableError for an incomplete reply, and
    UnsupportedParameterError if a stream has no readable chunk.
    """
    import openai

    if "stream" not in wire:
        return await client.post(path, cast_to=object, body=wire)
    stream = await client.post(
        path, cast_to=object, body=wire, stream=True, stream_cls=openai.AsyncStream[object]
    )  # fmt: skip
    async with stream:
        if "event-stream" in stream.response.headers.get("content-type", ""):
            return await _whole(stream)
        # The endpoint ignores `stream`.
        try:
            return orjson.loads(await stream.response.aread())
        except httpx2.TimeoutException as error:
            raise openai.APITimeoutError(request=stream.response.request) from error
        except httpx2.RequestError as error:
            raise openai.APIConnectionError(request=stream.response.request) from error


async def _whole(stream: "openai.AsyncStream[object]") -> dict[str, Any]:
    """Return the reply that the chunks of a stream form."""
    texts: dict[str, list[str]] = {"content": [], "refusal": []}
    usage: Any = None
    finish: Any = None
    chunks = 0
    async for chunk in stream:
        if not isinstance(chunk, dict):
            continue
        usage = chunk.get("usage") or usage
        choice = _first(chunk.get("choices"))
        if choice is None:
            continue
        if choice.get("error"):
            return {"error": choice["error"]}
        TRAFFIC.pieces += 1
        chunks, finish = chunks + 1, choice.get("finish_reason") or finish
        delta = choice.get("delta") or choice.get("message") or {}
        for name, parts in texts.items():
            if isinstance(delta, dict) and isinstance(text := text_of(delta.get(name)), str):
                parts.append(text)
    if not chunks:
        raise UnsupportedParameterError("stream")
    if finish is None:
        raise RetryableError("an answer that broke off")
    message = {name: "".join(parts) for name, parts in texts.items()}
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}


def _first(choices: Any) -> dict[str, Any] | None:
    """Return the first choice of a chunk, or None; the last chunk may hold only the usage."""
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, dict) and not choice.get("index") else None
