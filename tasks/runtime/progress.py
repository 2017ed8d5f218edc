"""A progress display on stderr, and the seconds of each stage."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Empty, Queue
from threading import Event, Thread
from time import monotonic, perf_counter
from types import TracebackType
from typing import Protocol

from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from deita_core.llm.client import resume_clients, stop_clients
from deita_core.llm.traffic import TRAFFIC, Traffic
from deita_core.models.cancellation import CANCELLED
from deita_core.stages.shards import Shard
from tasks.artifacts import StageProgress

# Ctrl-C, and Prefect's exception for the SIGTERM that cancels a run.
INTERRUPTIONS = (KeyboardInterrupt, TerminationSignal)
# Seconds between progress lines if no bar is shown.
REPORT = 15.0
# Maximum seconds until a signal is noticed.
CHECK_INTERVAL = 0.5


class Advance(Protocol):
    """Advances a stage's bar."""

    def __call__(self, rows: int, note: str = "", share: float | None = None) -> None:
        """Add finished rows; `share` of the work is done then, by default that of the rows."""


@dataclass
class Stage:
    """A running stage: its progress, a note, and the endpoint traffic since its start.

    `share` of its work is done, from 0 to 1. It tells the time that is left, as rows may differ in work.
    """

    name: str
    total: int
    bar: TaskID
    done: int = 0
    share: float = 0.0
    note: str = ""
    started: float = field(default_factory=perf_counter)
    traffic: Traffic = field(default_factory=TRAFFIC.copy)

    @property
    def detail(self) -> str:
        """The text beside the bar."""
        asked = TRAFFIC.since(self.traffic)
        return "; ".join(filter(None, [self.note, str(asked) if asked.sent or asked.waiting else ""]))

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return perf_counter() - self.started

    @property
    def line(self) -> str:
        """The full status line, for output without a bar."""
        left = self.seconds / self.share * (1 - self.share) if self.share else 0.0
        times = f"{spelled(self.seconds)} so far" + (f", about {spelled(left)} left" if left > 0 else "")
        return "; ".join(filter(None, [f"{self.name}: {self.amount or 'under way'}", self.detail, times]))

    @property
    def amount(self) -> str:
        """How much is done of how much; empty for a stage of one step."""
        if self.done > self.total:
            # More was done than expected, for example because rounds were retried.
            return f"{self.done:,}"
        return f"{self.done:,} of {self.total:,}" if self.total > 1 else ""


def spelled(seconds: float) -> str:
    """Format a duration: 45 s, 3 min, 2.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000 else f"{seconds / 3_600:.1f} h"


class Progress:
    """One line per stage: a bar on a terminal; elsewhere regular status lines and a final one.

    `seconds`: duration of each finished stage.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._console = Console(file=sys.stderr)
        columns = (
            TextColumn("{task.description:<20}"),
            BarColumn(),
            TextColumn("{task.fields[amount]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._bars = Bars(*columns, console=self._console, disable=not self._console.is_terminal)
        self._stage: Stage | None = None
        self._said, self._ended = monotonic(), Event()
        self._watcher = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Progress":
        self._bars.start()
        self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ended.set()
        self._watcher.join()
        self._bars.stop()

    def _watch(self) -> None:
        """Refresh the running stage's display, even while the run's own thread waits."""
        while not self._ended.wait(CHECK_INTERVAL):
            stage = self._stage
            if stage:
                self._bars.update(stage.bar, note=stage.detail)
            if monotonic() - self._said >= REPORT:
                self.say(stage.line if stage else "preparing the next stage")

    @contextmanager
    def step(self, name: str, total: int = 1) -> Iterator[Advance]:
        """Show and time one stage; yields a function that advances its bar and sets the note beside it."""
        stage = Stage(name, total, self._bars.add_task(name, total=1.0, note="", amount=""))

        def advance(rows: int, note: str = "", share: float | None = None) -> None:
            stage.done, stage.note = stage.done + rows, note
            stage.share = min(1.0, stage.done / max(1, total)) if share is None else share
            self._bars.update(stage.bar, completed=stage.share, amount=stage.amount, note=stage.detail)

        self._stage = stage
        try:
            yield advance
        finally:
            self._stage = None
        self._bars.update(stage.bar, completed=1.0)
        self.seconds[name] = round(stage.seconds, 3)
        amount = f"{stage.done:,} " if stage.done else ""
        self.say(f"{name}: {amount}done in {self.seconds[name]:.1f} s")

    @contextmanager
    def percent(self, name: str) -> Iterator[Callable[[float, str], None]]:
        """Show and time one stage that reports percentages; yields a function of percent and note."""
        with self.step(name, total=100) as advance:
            shown = 0

            def watch(percent: float, note: str) -> None:
                nonlocal shown
                gained, shown = int(percent) - shown, int(percent)
                advance(gained, note)

            yield watch

    def warn(self, line: str) -> None:
        """Print a warning, on a terminal or elsewhere."""
        self._console.print(line, highlight=False, markup=False, style="yellow", soft_wrap=True)

    def say(self, line: str) -> None:
        """Print a line if there is no terminal for a bar."""
        self._said = monotonic()
        if not self._console.is_terminal:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def shards(self, name: str, shards: Sequence[Shard], submit: Callable[[Shard], PrefectFuture[int]]) -> int:
        """Submit a stage's shards, wait for all, and return the sum of their results; raises the first failure.

        All shards are awaited before a failure is raised, so that all possible results are stored. Shards are about
        equal in work, and their rows are not: texts are encoded in the order of their length.
        """
        total = sum(shard.rows for shard in shards)
        with self.step(name, total) as advance, interruptible():
            artifact = StageProgress(name, total) if shards else None
            advance(0, f"0 of {len(shards):,} shards")
            rows_of = {submit(shard): shard.rows for shard in shards}
            for ended, future in enumerate(as_they_end(list(rows_of)), start=1):
                future.wait()
                share = ended / len(shards)
                advance(rows_of[future], f"{ended:,} of {len(shards):,} shards", share)
                if artifact:
                    artifact.advance(rows_of[future], share)
            return sum(future.result() for future in rows_of)


def as_they_end(futures: Sequence[PrefectFuture[int]]) -> Iterator[PrefectFuture[int]]:
    """Yield each future when it ends.

    Waits in short intervals: Prefect's `as_completed` waits without a limit and was seen to ignore ctrl-C.
    """
    ended: Queue[PrefectFuture[int]] = Queue()
    for future in futures:
        future.add_done_callback(ended.put)
    left = len(futures)
    while left:
        with suppress(Empty):
            yield ended.get(timeout=CHECK_INTERVAL)
            left -= 1


@contextmanager
def interruptible() -> Iterator[None]:
    """Let ctrl-C or SIGTERM stop requests to an endpoint, and a model between two batches.

    Otherwise each running or waiting shard would go on until it is done.
    """
    CANCELLED.clear()
    resume_clients()
    try:
        yield
    except INTERRUPTIONS:
        CANCELLED.set()
        stop_clients()
        raise
