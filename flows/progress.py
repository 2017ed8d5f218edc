"""One calm progress display on stderr, and the seconds each stage took."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, Queue
from time import monotonic, perf_counter
from types import TracebackType
from typing import Protocol, TypeVar

from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from deita_core.llm import resume_clients, stop_clients
from deita_core.stages.plans import Shard
from tasks.report import StageProgress

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


class Progress:
    """A line for each stage: a bar on a terminal, one line when it is done elsewhere. `seconds` by stage."""

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

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bars.stop()

    @contextmanager
    def step(self, name: str, total: int = 1) -> Iterator[Advance]:
        """Show and time one stage; yields what advances its bar and sets the note beside it."""
        started = perf_counter()
        bar = self._bars.add_task(name, total=total, note="")
        done = 0

        def advance(rows: int, note: str = "") -> None:
            nonlocal done
            done += rows
            self._bars.update(bar, completed=done, note=note)

        yield advance
        self._bars.update(bar, completed=total)
        self.seconds[name] = round(perf_counter() - started, 3)
        amount = f"{done:,} " if done else ""
        self.say(f"{name}: {amount}done in {self.seconds[name]:.1f} s")

    @contextmanager
    def percent(self, name: str) -> Iterator[Callable[[float, str], None]]:
        """Show and time one stage that knows how many percent of it are done, with a note on it."""
        with self.step(name, total=100) as advance:
            shown, said = 0, monotonic()

            def watch(percent: float, note: str) -> None:
                nonlocal shown, said
                gained, shown = int(percent) - shown, int(percent)
                advance(gained, note)
                if monotonic() - said > REPORT:
                    said = monotonic()
                    self.say(f"{name}: {note}")

            yield watch

    def warn(self, line: str) -> None:
        """A line that is to be read, on a terminal or elsewhere."""
        self._console.print(line, highlight=False, markup=False, style="yellow")

    def say(self, line: str) -> None:
        """A line where there is no terminal to show a bar on."""
        if not self._console.is_terminal:
            self._console.print(line, highlight=False)

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
            rows_of = {submit(shard): shard.rows for shard in shards}
            for future in as_they_end(list(rows_of)):
                future.wait()
                advance(rows_of[future])
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
