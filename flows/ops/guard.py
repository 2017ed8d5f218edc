"""Ends programs when the process that started them is gone, even if that was killed.

The guard is a process of its own, this file. It reads which programs there are from a pipe. The pipe closes when the
process at its other end is gone.
"""

import signal
import subprocess
import sys
from contextlib import suppress

import psutil

from flows.ops.processes import end_orphan


class Guard:
    """Within its block, programs are watched over; where it ends in order, its user has ended them already."""

    def __enter__(self) -> "Guard":
        # In a session of its own, so that what ends a terminal's processes does not end it.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.ops.guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        # What is left in the pipe of a guard that is gone cannot be written.
        with suppress(BrokenPipeError):
            self._process.communicate()

    def watch(self, pid: int, end_with: signal.Signals) -> None:
        """Have a program ended if this process is killed; those watched later are ended first."""
        if self._process.stdin:
            with suppress(BrokenPipeError):
                self._process.stdin.write(f"{pid} {int(end_with)}\n")
                self._process.stdin.flush()


def main() -> None:
    """Read lines of a pid and a signal until the pipe closes, then end what is left of these programs."""
    watched: list[tuple[psutil.Process, signal.Signals]] = []
    for line in sys.stdin:
        pid, number = map(int, line.split())
        with suppress(psutil.NoSuchProcess):
            watched.append((psutil.Process(pid), signal.Signals(number)))
    for program, end_with in reversed(watched):
        end_orphan(program, end_with)


if __name__ == "__main__":
    main()
