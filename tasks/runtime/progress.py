"""One calm progress display on stderr, and the seconds each stage took."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Empty, Queue
from threading import Event, Thread
from time import monotonic, perf_counter
from types import TracebackType
from typing import Protocol, TypeVar

from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from deita_core.llm.client import resume_clients, stop_clients
from deita_core.llm.traffic import TRAFFIC, Traffic
from deita_core.stages.shards import Shard
from tasks.artifacts import StageProgress

T = TypeVar("T")
# Ctrl-C, and what Prefect makes of the SIGTERM by which a run is cancelled.
INTERRUPTIONS = (KeyboardInterrupt, TerminationSignal)
# Seconds between lines on work in progress, where no bar shows it.
REPORT = 15.0
# Seconds within which a signal is noticed.
LOOK = 0.5


class Advance(Protocol):
    """What moves a stage's bar on."""

    def __call__(self, rows: int, note: str = "") -> None:
        """So many rows more are done."""


@dataclass
class Stage:
    """A stage under way: how much of it is done, a note on it, and what endpoints were asked since it began."""

    name: str
    total: int
    bar: TaskID
    done: int = 0
    note: str = ""
    started: float = field(default_factory=perf_counter)
    traffic: Traffic = field(default_factory=TRAFFIC.copy)

    @property
    def detail(self) -> str:
        """What stands beside the bar."""
        asked = TRAFFIC.since(self.traffic)
        return "; ".join(filter(None, [self.note, str(asked) if asked.sent or asked.waiting else ""]))

    @property
    def seconds(self) -> float:
        """Since it began."""
        return perf_counter() - self.started

    @property
    def line(self) -> str:
        """All of it, where no bar shows the rest."""
        left = self.seconds / self.done * (self.total - self.done) if self.done else 0.0
        times = f"{spelled(self.seconds)} so far" + (f", about {spelled(left)} left" if left > 0 else "")
        amount = f"{self.done:,} of {self.total:,}" if self.total > 1 else "under way"
        if self.done > self.total:
            # What was expected is less than it takes, as when rounds are tried again.
            amount = f"{self.done:,}"
        return "; ".join(filter(None, [f"{self.name}: {amount}", self.detail, times]))


def spelled(seconds: float) -> str:
    """A duration: 45 s, 3 min, 2.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000 else f"{seconds / 3_600:.1f} h"


class Progress:
    """A line for each stage: a bar on a terminal; elsewhere a line now and then, and when it is done.

    `seconds` by stage.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._console = Console(file=sys.stderr)
        columns = (
            TextColumn("{task.description:<20}"),
            BarColumn(),
            MofNCompleteColumn(),
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
        """Show the stage under way, whatever the run's own thread waits for."""
        while not self._ended.wait(LOOK):
            stage = self._stage
            if stage:
                self._bars.update(stage.bar, note=stage.detail)
            if monotonic() - self._said >= REPORT:
                self.say(stage.line if stage else "preparing the next stage")

    @contextmanager
    def step(self, name: str, total: int = 1) -> Iterator[Advance]:
        """Show and time one stage; yields what advances its bar and sets the note beside it."""
        stage = Stage(name, total, self._bars.add_task(name, total=total, note=""))

        def advance(rows: int, note: str = "") -> None:
            stage.done, stage.note = stage.done + rows, note
            self._bars.update(stage.bar, completed=stage.done, note=stage.detail)

        self._stage = stage
        try:
            yield advance
        finally:
            self._stage = None
        self._bars.update(stage.bar, completed=total)
        self.seconds[name] = round(stage.seconds, 3)
        amount = f"{stage.done:,} " if stage.done else ""
        self.say(f"{name}: {amount}done in {self.seconds[name]:.1f} s")

    @contextmanager
    def percent(self, name: str) -> Iterator[Callable[[float, str], None]]:
        """Show and time one stage that knows how many percent of it are done, with a note on it."""
        with self.step(name, total=100) as advance:
            shown = 0

            def watch(percent: float, note: str) -> None:
                nonlocal shown
                gained, shown = int(percent) - shown, int(percent)
                advance(gained, note)

            yield watch

    def warn(self, line: str) -> None:
        """A line that is to be read, on a terminal or elsewhere."""
        self._console.print(line, highlight=False, markup=False, style="yellow", soft_wrap=True)

    def say(self, line: str) -> None:
        """A line where there is no terminal to show a bar on."""
        self._said = monotonic()
        if not self._console.is_terminal:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def steps(self, name: str, items: Iterable[T], total: int) -> Iterator[T]:
        """Pass items on, one step of the stage each."""
        with self.step(name, total) as advance:
            for item in items:
                yield item
                advance(1)

    def shards(self, name: str, shards: Sequence[Shard], submit: Callable[[Shard], PrefectFuture[int]]) -> int:
        """Submit a stage's shards, wait for all, and return the sum of their results; the first failure is raised.

        Every shard is waited for before a failure is raised, so that what can be done is done and kept.
        """
        total = sum(shard.rows for shard in shards)
        with self.step(name, total) as advance, interruptible():
            artifact = StageProgress(name, total) if shards else None
            advance(0, f"0 of {len(shards):,} shards")
            rows_of = {submit(shard): shard.rows for shard in shards}
            for ended, future in enumerate(as_they_end(list(rows_of)), start=1):
                future.wait()
                advance(rows_of[future], f"{ended:,} of {len(shards):,} shards")
                if artifact:
                    artifact.advance(rows_of[future])
            return sum(future.result() for future in rows_of)


def as_they_end(futures: Sequence[PrefectFuture[int]]) -> Iterator[PrefectFuture[int]]:
    """The futures, each as soon as it has ended.

    Waits a little at a time: Prefect's `as_completed`, which waits without an end, was seen to sleep through ctrl-C.
    """
    ended: Queue[PrefectFuture[int]] = Queue()
    for future in futures:
        future.add_done_callback(ended.put)
    left = len(futures)
    while left:
        with suppress(Empty):
            yield ended.get(timeout=LOOK)
            left -= 1


@contextmanager
def interruptible() -> Iterator[None]:
    """Let ctrl-C or SIGTERM end what asks an endpoint.

    Without this a shard, and each that waits, would ask until it is done.
    """
    resume_clients()
    try:
        yield
    except INTERRUPTIONS:
        stop_clients()
        raise
