"""One calm progress display on stderr, and the seconds each stage took."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic, perf_counter
from types import TracebackType
from typing import Protocol, TypeVar

from prefect.futures import PrefectFuture, as_completed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from deita_core.llm import resume_clients, stop_clients
from deita_core.stages.plans import Shard

T = TypeVar("T")
# Seconds between lines on work in progress, where no bar shows it.
REPORT = 15.0


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
            rows_of = {submit(shard): shard.rows for shard in shards}
            for future in as_completed(list(rows_of)):
                future.wait()
                advance(rows_of[future])
            return sum(future.result() for future in rows_of)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let ctrl-C end what asks an endpoint; without this a shard, and each that waits, would ask until it is done."""
    resume_clients()
    try:
        yield
    except KeyboardInterrupt:
        stop_clients()
        raise
