"""Stages that request a language model: progress, usage and cost."""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import TypeVar

from prefect.futures import PrefectFuture, wait

from deita_core.llm.cache import Usage
from deita_core.llm.traffic import TRAFFIC, Traffic
from deita_core.stages.shards import Shard
from tasks.artifacts import ProgressArtifact
from tasks.runtime.progress import REPORT, Progress, interruptible

T = TypeVar("T")
# Seconds between checks for answers.
CHECK_INTERVAL = 0.5


class Meter:
    """Usage and request rate of a stage of `total` requests since its start."""

    def __init__(self, begun: Usage, total: int) -> None:
        self._begun, self._total = begun, total
        self._started = self._reported = monotonic()
        self.done = 0

    def read(self, usage: Usage) -> int:
        """Record the usage so far; returns the requests answered since the last call."""
        gained = usage.requests - self._begun.requests - self.done
        self.done += gained
        self._usage = usage
        return gained

    @property
    def percent(self) -> float:
        """Percentage of the stage that is done."""
        return min(100.0, 100 * self.done / self._total) if self._total else 100.0

    @property
    def rate(self) -> float:
        """Requests answered per second."""
        return self.done / max(monotonic() - self._started, 1e-9)

    def note(self) -> str:
        """Rate, tokens and spend."""
        used, begun = self._usage, self._begun
        tokens = used.prompt_tokens + used.completion_tokens - begun.prompt_tokens - begun.completion_tokens
        rate = f"{self.rate:.1f}/s" if self.rate >= 0.1 or not self.done else f"{1 / self.rate:.0f} s each"
        return f"{rate}, {tokens:,} tokens" + (f", {used.cost:.4g} spent in all" if used.cost else "")

    def line(self, name: str) -> str:
        """Summary of the finished stage."""
        return f"{name}: {self.done:,} of {self._total:,} requests, {self.note()}"

    def is_due(self) -> bool:
        """Whether a report is due, about every 15 seconds."""
        due = monotonic() - self._reported >= REPORT
        self._reported = monotonic() if due else self._reported
        return due


def slowness(traffic: Traffic, timeout: float) -> str:
    """Return the warning for the first timeouts: how long answers take, and which settings to change."""
    taken = "none has been answered yet"
    if traffic.answered:
        taken = f"answers take {traffic.seconds / traffic.answered:,.0f} s on average"
    return (
        f"The endpoint is slow: nothing came for {timeout:g} s ({traffic.timed_out:,} of {traffic.sent:,} requests, "
        f"which are sent again, with fewer in flight), and {taken}. If it needs longer, raise timeout (under llm: in "
        f"--config, or DEITA_LLM__TIMEOUT), or ask for shorter answers (max_tokens, DEITA_LLM__MAX_TOKENS)."
    )


def ask_shards(
    progress: Progress,
    name: str,
    shards: Sequence[Shard],
    each: int,
    submit: Callable[[Shard], PrefectFuture[T]],
    usage: Callable[[], Usage],
    timeout: float,
) -> list[T]:
    """Submit a stage's shards, with `each` requests per row; returns their results.

    Warns at the first request that timed out after `timeout` seconds.

    The first failure is raised after every shard has ended, so that all possible answers are cached.
    """
    total = each * sum(shard.rows for shard in shards)
    with progress.step(name, max(total, 1)) as advance, interruptible():
        futures = [submit(shard) for shard in shards]
        artifact = ProgressArtifact(name) if futures else None
        meter, traffic, warned = Meter(usage(), total), TRAFFIC.copy(), False
        while futures and wait(futures, timeout=CHECK_INTERVAL).not_done:
            advance(meter.read(usage()), meter.note())
            asked = TRAFFIC.since(traffic)
            if asked.timed_out and not warned:
                warned = True
                progress.warn(slowness(asked, timeout))
            if artifact and meter.is_due():
                artifact.update(meter.percent)
        advance(meter.read(usage()), meter.note())
        if artifact:
            artifact.update(meter.percent, meter.line(name))
        return [future.result() for future in futures]
