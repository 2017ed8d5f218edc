"""How close does the client come to an endpoint's limits? Measured with the test server in a separate process.

    python -m benchmarks.llm [--requests 4000] [--seconds 75]

First the throughput at a fixed latency, then the limits per minute: the busiest minute at the server, and the share of
the limit used.
"""

import asyncio
import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deita_core.llm.client import LLM, LLMSettings
from tests.support.llm_server import Entry, ServerProcess

LATENCY = 0.5
IN_FLIGHT = 64
PROMPT = "Say in one sentence what follows from this, and why. " * 20
BURST_SECONDS = 1.0


@dataclass(frozen=True)
class Line:
    """One line of the table; limit and busiest minute in requests or tokens."""

    name: str
    requests: int
    rate: float
    share: float
    in_flight: int
    fullest: float | None = None
    limit: float | None = None


def main() -> None:
    """Print the table."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=4_000)
    parser.add_argument("--seconds", type=float, default=75, help="of each limit")
    options = parser.parse_args()
    head = f"{'':<28}{'requests':>9}{'a second':>10}{'of allowed':>12}{'in flight':>11}{'fullest 60 s':>14}"
    print(f"{head}{'limit':>9}{'over':>8}")
    show(throughput(options.requests))
    show(limited("requests", 600, options.seconds))
    show(limited("tokens", 150_000, options.seconds))


def show(line: Line) -> None:
    """Print one line."""
    minute = ""
    if line.fullest is not None and line.limit is not None:
        minute = f"{line.fullest:>14,.0f}{line.limit:>9,.0f}{line.fullest / line.limit - 1:>8.1%}"
    print(
        f"{line.name:<28}{line.requests:>9,}{line.rate:>10.1f}{line.share:>12.1%}{line.in_flight:>11}{minute}",
        flush=True,
    )


def throughput(requests: int) -> Line:
    """Throughput of concurrent requests at a fixed latency, without limits."""
    log, most = log_of(requests, concurrency=IN_FLIGHT)
    answered = np.array([entry.answered for entry in log if entry.answered is not None])
    # From the arrival of the first request to the last response, without the start of the client.
    rate = len(answered) / (answered.max() - min(entry.came for entry in log))
    return Line(f"{IN_FLIGHT} in flight, {LATENCY:g} s each", len(log), rate, rate / (IN_FLIGHT / LATENCY), most)


def limited(what: str, limit: float, seconds: float) -> Line:
    """A limit per minute for about `seconds`; the busiest minute is from the server's log."""
    each = 1.0 if what == "requests" else tokens_of_one()
    log, most = log_of(int(limit / 60 * seconds / each), concurrency=IN_FLIGHT, **{f"{what}_per_minute": limit})
    came = np.array([entry.came for entry in log])
    amounts = np.array([amount(entry, what) for entry in log])
    taken = came.max() - came.min()
    # The client may send one second's share ahead.
    share = amounts.sum() / (limit / 60 * (taken + BURST_SECONDS))
    return Line(f"{limit:,.0f} {what} a minute", len(log), len(log) / taken, share, most, fullest(came, amounts), limit)


def amount(entry: Entry, what: str) -> float:
    """The amount of a limit that one request uses."""
    return 1.0 if what == "requests" else entry.prompt_tokens + entry.completion_tokens


def tokens_of_one() -> float:
    """Tokens of one request of the benchmark."""
    log, _ = log_of(1)
    return amount(log[0], "tokens")


def fullest(came: np.ndarray, amounts: np.ndarray, seconds: float = 60.0) -> float:
    """The largest sum of amounts in any window of `seconds`."""
    order = np.argsort(came)
    came, sums = came[order], np.concatenate([[0.0], np.cumsum(amounts[order])])
    ends = np.searchsorted(came, came + seconds, "left")
    return float((sums[ends] - sums[: len(came)]).max())


def log_of(requests: int, **settings: float) -> tuple[Sequence[Entry], int]:
    """Send a number of requests to a new server; returns its log, and the most concurrent requests."""
    with ServerProcess(latency=LATENCY) as server, tempfile.TemporaryDirectory() as store:
        asyncio.run(ask(server.url, Path(store), requests, settings))
        return server.report()


async def ask(url: str, store: Path, requests: int, settings: dict[str, float]) -> None:
    """Send a number of requests concurrently."""
    async with LLM(LLMSettings(base_url=url, model="m", **settings), "none", store, "benchmark") as llm:
        asked = (llm.ask([{"role": "user", "content": f"{i}. {PROMPT}"}]) for i in range(requests))
        await asyncio.gather(*asked)


if __name__ == "__main__":
    main()
