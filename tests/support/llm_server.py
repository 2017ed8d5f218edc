"""A TEST DOUBLE of an OpenAI-compatible endpoint: chat completions on loopback, with faults by script and by chance.

There is no model in it: it evolves and ranks by the plain rules of llm_rules.py, which say nothing about how well a
model would do it. In a thread of its own, or as a process that outlives its clients:

    with LLMServer(latency=0.05) as server: ...  # server.url
    python tests/support/llm_server.py --port 0 --faults 0.2
"""

import asyncio
import json
import random
import socket
import struct
import subprocess
import sys
import threading
from argparse import ArgumentParser
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from email.utils import formatdate
from pathlib import Path
from time import monotonic, time
from typing import Any
from urllib.request import urlopen

try:
    from tests.support.llm_completions import LISTING_FAULTS, spoiled
    from tests.support.llm_rules import CONTENT_FAULTS, STATUSES, Reply, digest, drawn, reply
except ImportError:  # run as a script, from anywhere
    from llm_completions import LISTING_FAULTS, spoiled
    from llm_rules import CONTENT_FAULTS, STATUSES, Reply, digest, drawn, reply

# Faults of transport that another attempt can pass; the last two take as long as the client has patience.
QUICK_FAULTS = (
    "429", "429_retry_after", "429_date", "500", "502_html", "503_retry_after", "reset", "close", "truncated",
    "broken_json", "wrong_type", "empty_choices", "null_message",
)  # fmt: skip
SLOW_FAULTS = ("hang", "drip")
# Faults of a reply that holds an error in place of an answer, or loses it in the middle of a stream.
ERROR_FAULTS = ("error_in_reply", "error_in_choice", "error_in_stream", "stream_breaks_off", "stream_falls_silent")
# For scripts and poison only: they are meant to stay.
LASTING_FAULTS = (
    "quota",
    "credit_in_reply",
    "429_hour",
    "401",
    "402",
    "403",
    "404",
    "too_long",
    "413",
    "filtered_prompt",
    "400",
)
TRANSPORT_FAULTS = (*QUICK_FAULTS, *SLOW_FAULTS, *ERROR_FAULTS, *LASTING_FAULTS, *LISTING_FAULTS)
REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


@dataclass
class Entry:
    """One request as the server saw it; `answered` stays None unless the whole reply was written. Steady clock."""

    hash: str
    seen: int
    came: float
    authorization: str
    did: str = ""
    answered: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    streamed: bool = False


@dataclass
class Settings:
    """How the server behaves; `faults` are shares of requests by the names above."""

    latency: float = 0.0
    jitter: float = 0.0
    seed: int = 0
    keys: list[str] | None = None
    models: list[str] | None = None
    json_mode: bool = True
    streams: bool = True
    pieces: int = 3
    piece_seconds: float = 0.0
    one_at_a_time: bool = False
    rejects: tuple[str, ...] = ()
    usage: bool = True
    token_bytes: int = 0
    requests_per_minute: int | None = None
    minute: float = 60.0
    retry_after: float = 0.05
    faults: dict[str, float] | None = None
    script: tuple[str, ...] = ()
    poison: dict[str, str] | None = None
    noise: float = 0.0
    completions: Callable[[dict], tuple[int, dict]] | None = None
    chat: Callable[[str], str | Reply] | None = None


def evenly(total: float, names: Iterable[str] = (*QUICK_FAULTS, *CONTENT_FAULTS)) -> dict[str, float]:
    """Each fault with the same share: transport faults with `total` in all, those of content likewise."""
    names = list(names)
    counts = Counter(name in CONTENT_FAULTS for name in names)
    return {name: total / counts[name in CONTENT_FAULTS] for name in names}


class LLMServer:
    """The server in a thread of its own; settings as in Settings.

    `faults`: shares by name. `script`: faults for the first requests, in order, "" for none. `poison`: the fault that
    always meets a request whose messages hold a text. `keys`, `models`: those known, None for any. `rejects`:
    parameters answered with a 400 that names them. `streams`: whether a stream is sent where one is asked for, in so
    many `pieces`, `piece_seconds` apart. `one_at_a_time`: the latency of a request begins when that of the one before
    has ended, and each is computed to its end, also where nobody waits for it any more. `token_bytes`: bytes of a
    prompt that are a token; 0: four characters are one. `requests_per_minute`: 429 beyond, in any `minute` seconds.
    `completions`: makes status and body for a request of /v1/completions; none: there are no completions. `chat`: makes
    the reply to a chat's last message in place of the rules.
    """

    def __init__(self, port: int = 0, **settings: Any) -> None:
        self.settings = Settings(**settings)
        unknown = set(self.settings.faults or ()) - {*TRANSPORT_FAULTS, *CONTENT_FAULTS}
        if unknown:
            raise ValueError(f"no such faults: {unknown}")
        self.log: list[Entry] = []
        self.in_flight = self.most_in_flight = 0
        self._port, self._seen, self._script = port, Counter[str](), deque(self.settings.script)
        self._admitted: deque[float] = deque()
        self._connections: set[asyncio.Task] = set()
        self._ready, self._computing = threading.Event(), asyncio.Lock()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> "LLMServer":
        self._thread.start()
        if not self._ready.wait(30):
            raise RuntimeError("the server did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(30)

    @property
    def url(self) -> str:
        """Address up to /v1."""
        return f"http://127.0.0.1:{self._port}/v1"

    def answered(self) -> Counter[str]:
        """How often each request was answered in full with a good 200, by its hash."""
        return answered(self.log)

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", self._port, limit=2**26, backlog=1024)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ended.wait()
        server.close()
        for task in self._connections:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._connections.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._one(reader, writer):
                    pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False where the connection ends with it."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        came = monotonic()
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        path = first.split()[1]
        served = "/chat/completions" if self.settings.completions is None else "/completions"
        if not path.endswith(served):
            found = path == "/log"
            await _write(writer, 200 if found else 404, self._report() if found else _error("400", "", ""))
            return True
        sent = json.loads(body)
        parts = ("model", "prompt") if "prompt" in sent else ("model", "messages", "temperature", "seed")
        key = digest(*(json.dumps(sent.get(name)) for name in parts))
        entry = Entry(key, self._seen[key], came, headers.get("authorization", ""))
        self._seen[key] += 1
        self.log.append(entry)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._answer(sent, entry, reader, writer)
        finally:
            self.in_flight -= 1

    async def _answer(self, sent: dict, entry: Entry, reader: Any, writer: Any) -> bool:
        settings, key = self.settings, entry.authorization.removeprefix("Bearer ")
        refusal = self._refusal(sent, key)
        if refusal:
            entry.did, status, body, headers = refusal
            await _write(writer, status, body, headers)
            return True
        fault = self._transport_fault(sent, entry)
        shaken = random.Random(f"{settings.seed} {entry.hash} {entry.seen}").random()
        await self._compute(settings.latency + settings.jitter * shaken)
        if reader.at_eof():
            entry.did = "gone"
            return False
        entry.did = fault or "good"
        if fault:
            return await self._fail(fault, sent, key, reader, writer)
        status, completion = self._good(sent, entry)
        usage = completion.get("usage", {})
        entry.prompt_tokens, entry.completion_tokens = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
        entry.streamed = status == 200 and self._streams(sent)
        if entry.streamed:
            await self._stream(completion, writer)
        else:
            await _write(writer, status, completion)
        entry.answered = monotonic() if status == 200 else None
        return True

    def _streams(self, sent: dict) -> bool:
        return self.settings.streams and bool(sent.get("stream"))

    async def _compute(self, seconds: float) -> None:
        """Take so long, and wait for the others where one is computed at a time."""
        if not self.settings.one_at_a_time:
            await asyncio.sleep(seconds)
            return
        async with self._computing:
            await asyncio.sleep(seconds)

    async def _stream(self, completion: dict, writer: Any, fault: str = "") -> None:
        """A good reply as events; a `fault` comes after the first piece."""
        [choice] = completion["choices"]
        shared = {**completion, "object": "chat.completion.chunk"}
        usage = shared.pop("usage", None)
        text = choice["message"]["content"]
        size = max(1, -(-len(text) // self.settings.pieces))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")

        def chunk(delta: dict, finish: str | None = None) -> dict:
            return {**shared, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

        events: list[Any] = [chunk({"role": "assistant", "content": ""})]
        events += [chunk({"content": text[at : at + size]}) for at in range(0, len(text), size)]
        if fault:
            await _events(writer, events[:2])
            if fault == "error_in_stream":
                await _events(writer, [{"error": {"message": "The worker was lost.", "code": 502}}], end=True)
            elif fault == "stream_breaks_off":
                await _events(writer, [], end=True)
            return
        events += [chunk({}, choice["finish_reason"]), *([{**shared, "choices": [], "usage": usage}] if usage else [])]
        if not self.settings.piece_seconds:
            await _events(writer, [*events, "[DONE]"], end=True)
            return
        for event in events:
            await _events(writer, [event])
            await asyncio.sleep(self.settings.piece_seconds)
        await _events(writer, ["[DONE]"], end=True)

    def _good(self, sent: dict, entry: Entry) -> tuple[int, dict]:
        """Status and body of what is said when nothing goes wrong on the way."""
        if "prompt" in sent:
            return self.settings.completions(sent)
        asked = sent["messages"][-1]["content"]
        if self.settings.chat:
            said = self.settings.chat(asked)
            said = Reply(said) if isinstance(said, str) else said
        else:
            said = reply(asked, entry.hash, self.settings.faults or {}, self.settings.noise)
        entry.did = said.did
        return 200, self._completion(sent, said)

    def _refusal(self, sent: dict, key: str) -> tuple[str, int, dict, dict[str, str]] | None:
        """What the server refuses at once: what was done, status, body and headers."""
        settings = self.settings
        fault = None
        if settings.keys is not None and key not in settings.keys:
            fault = "401"
        elif settings.models is not None and sent.get("model") not in settings.models:
            fault = "404"
        if fault:
            return fault, int(fault), _error(fault, key, sent.get("model", "")), {}
        for name in (*settings.rejects, *(() if settings.json_mode else ("response_format",))):
            if name in sent:
                message = f"Unsupported parameter: '{name}' is not supported with this model."
                error = {"message": message, "type": "invalid_request_error", "param": name, "code": None}
                return f"rejects {name}", 400, {"error": error}, {}
        if wait := self._over_limit():
            return "429", 429, _error("429", key, ""), {"Retry-After": f"{wait:.3f}"}
        return None

    def _over_limit(self) -> float:
        """Seconds until the server's own limit admits another request; 0 if it admits this one."""
        settings, now = self.settings, monotonic()
        if settings.requests_per_minute is None:
            return 0.0
        while self._admitted and self._admitted[0] <= now - settings.minute:
            self._admitted.popleft()
        if len(self._admitted) >= settings.requests_per_minute:
            return self._admitted[0] + settings.minute - now + 0.001
        self._admitted.append(now)
        return 0.0

    def _transport_fault(self, sent: dict, entry: Entry) -> str | None:
        said = sent.get("prompt") or " ".join(str(message["content"]) for message in sent["messages"])
        for text, fault in (self.settings.poison or {}).items():
            if text in said:
                return fault
        if self._script:
            return self._script.popleft() or None
        return drawn(self.settings.faults or {}, TRANSPORT_FAULTS, "transport", entry.hash, entry.seen)

    async def _fail(self, fault: str, sent: dict, key: str, reader: Any, writer: Any) -> bool:
        unseen = Reply("Never to be seen.")
        good = self.settings.completions(sent)[1] if "prompt" in sent else self._completion(sent, unseen)
        if fault in ERROR_FAULTS[2:] and self._streams(sent):
            await self._stream(self._completion(sent, unseen), writer, fault)
            if fault == "stream_falls_silent":
                await reader.read(1)
            return fault != "stream_falls_silent"
        good = json.dumps(good).encode()
        if fault == "reset":
            # Closed at once, with a reset in place of the goodbye.
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            return False
        if fault == "close":
            return False
        if fault == "truncated":
            await _write(writer, 200, good[: len(good) // 2], length=len(good))
            return False
        if fault in SLOW_FAULTS:
            await self._linger(fault, good, reader, writer)
            return False
        status, body, headers = self._wrong(fault, good, sent, key)
        await _write(writer, status, body, headers)
        return True

    async def _linger(self, fault: str, good: bytes, reader: Any, writer: Any) -> None:
        """Nothing at all, or a byte a second, until the client goes away."""
        if fault == "hang":
            await reader.read(1)
            return
        await _write(writer, 200, b"", length=len(good))
        for byte in good:
            await asyncio.sleep(1)
            if reader.at_eof():
                return
            writer.write(bytes([byte]))
            await writer.drain()

    def _wrong(self, fault: str, good: bytes, sent: dict, key: str) -> tuple[int, Any, dict[str, str]]:
        """Status, body and headers of a reply that is whole but useless."""
        html = b"<html><body><h1>Bad gateway</h1></body></html>"
        changed = json.loads(good)
        if fault in LISTING_FAULTS:
            return 200, spoiled(fault, changed), {}
        error = {"message": f"Provider returned error for {key}.", "code": 502}
        if fault == "error_in_choice":
            return 200, {**changed, "choices": [{**changed["choices"][0], "message": None, "error": error}]}, {}
        if fault in ERROR_FAULTS:
            return 200, {"error": error}, {}
        if fault == "credit_in_reply":
            return 200, {"error": {"message": f"Insufficient credits of {key}, add more.", "code": 402}}, {}
        changed["choices"] = [] if fault == "empty_choices" else [{**changed["choices"][0], "message": None}]
        whole = {
            "502_html": (502, html, {"Content-Type": "text/html"}),
            "wrong_type": (200, html, {"Content-Type": "text/html"}),
            "broken_json": (200, good[: len(good) // 2], {}),
            "empty_choices": (200, changed, {}),
            "null_message": (200, changed, {}),
        }
        if fault in whole:
            return whole[fault]
        name, _, rest = fault.partition("_")
        named = fault if fault in STATUSES else name
        waits = {
            "retry_after": f"{self.settings.retry_after:g}",
            "hour": "3600",
            # Whole seconds, so one more than asked for.
            "date": formatdate(time() + self.settings.retry_after + 1, usegmt=True),
        }
        headers = {"Retry-After": waits[rest]} if rest in waits else {}
        return STATUSES[named][0], _error(named, key, sent.get("model", "")), headers

    def _completion(self, sent: dict, said: Reply) -> dict:
        """The body of a good reply, no longer than the request allows; four characters of it are a token."""
        longest = 4 * sent.get("max_tokens", sent.get("max_completion_tokens", 10**6))
        text, finish = said.text[:longest], "length" if len(said.text) > longest else said.finish
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        body = {"id": "chatcmpl-double", "object": "chat.completion", "created": 0, "model": sent["model"]}
        if not self.settings.usage:
            return {**body, "choices": [choice]}
        prompt = sum(self._tokens(str(message["content"])) for message in sent["messages"])
        counts = {"prompt_tokens": prompt, "completion_tokens": -(-len(text) // 4)}
        return {**body, "choices": [choice], "usage": {**counts, "total_tokens": sum(counts.values())}}

    def _tokens(self, content: str) -> int:
        """Tokens of a prompt's message: by four characters, or by bytes and with some more for its role."""
        size = self.settings.token_bytes
        return len(content.encode()) // size + 8 if size else len(content) // 4 + 1

    def _report(self) -> dict:
        return {"log": [asdict(entry) for entry in self.log], "most_in_flight": self.most_in_flight}


class ServerProcess:
    """The server as a process of its own, so that clients can be killed, or measured without it; settings likewise."""

    def __init__(self, **settings: Any) -> None:
        self._line = [sys.executable, str(Path(__file__).resolve()), "--settings", json.dumps(settings)]

    def __enter__(self) -> "ServerProcess":
        self._process = subprocess.Popen(self._line, stdout=subprocess.PIPE, text=True)
        self.url = self._process.stdout.readline().strip()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def report(self) -> tuple[list[Entry], int]:
        """The log so far, and the most requests that were in flight at once."""
        with urlopen(self.url.removesuffix("/v1") + "/log") as answer:
            told = json.load(answer)
        return [Entry(**entry) for entry in told["log"]], told["most_in_flight"]


def answered(log: Iterable[Entry]) -> Counter[str]:
    """How often each request was answered in full with a good 200, by its hash."""
    return Counter(entry.hash for entry in log if entry.answered is not None)


async def _write(writer: Any, status: int, body: Any, headers: Mapping[str, str] | None = None, length: int = 0):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Content-Type": "application/json", "Content-Length": str(length or len(data)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    writer.write(f"HTTP/1.1 {status} {REASONS.get(status, 'Error')}\r\n{head}\r\n".encode() + data)
    await writer.drain()


async def _events(writer: Any, events: Iterable[Any], end: bool = False) -> None:
    """Server-sent events, each an HTTP chunk of its own."""
    for event in events:
        data = f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode()
        writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    if end:
        writer.write(b"0\r\n\r\n")
    await writer.drain()


def _error(name: str, key: str, model: str) -> dict:
    _, code, message = STATUSES[name]
    return {"error": {"message": message.format(key=key, model=model), "type": "error", "param": None, "code": code}}


def main() -> None:
    """Serve until killed; the first line printed is the address."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--faults", type=float, default=0.0, help="share of transport faults, and of faults of content")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    parser.add_argument("--settings", type=json.loads, default={}, help="everything else, as JSON")
    options = parser.parse_args()
    faults = evenly(options.faults) if options.faults else None
    with LLMServer(options.port, **{"latency": options.latency, "faults": faults, **options.settings}) as server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
