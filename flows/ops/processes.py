"""Runs child programs that end with this one, together with their descendants."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import psutil

from deita_core.errors import DeitaError

# Seconds for a flow run to store its current work and report that it was stopped.
GRACE = 40.0
# Seconds for a worker to report a run that did not report its own end.
NOTE = 2.0
# Seconds between looks at whether a program has ended.
CHECK_INTERVAL = 0.1


@contextmanager
def running(
    words: Sequence[str], env: Mapping[str, str], log: Path, end_with: signal.Signals
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program with its output in a file; afterwards ask it to end, and kill it and its descendants if needed.

    Raises DeitaError if the file cannot be written.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        output = log.open("wb")
    except OSError as error:
        raise DeitaError(f"{log} cannot be written ({error.strerror}); set PREFECT_HOME=FOLDER to another.") from None
    with output:
        # In its own session, so that a terminal's ctrl-C reaches only this process, which ends the programs in order.
        program = subprocess.Popen(  # noqa: S603
            words, env=dict(env), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield program
    finally:
        stop(program, end_with)


def stop(program: "subprocess.Popen[bytes]", end_with: signal.Signals) -> None:
    """End a program, and kill its remaining descendants."""
    family = _descendants(program.pid)
    if program.poll() is None:
        program.send_signal(end_with)
    with contextlib.suppress(subprocess.TimeoutExpired):
        program.wait(GRACE)
    for process in (*family, *_descendants(program.pid)):
        # psutil also compares the start time, so a reused pid is not killed.
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    if program.poll() is None:
        program.kill()
        program.wait()


def end_orphan(program: psutil.Process, end_with: signal.Signals) -> None:
    """End a program that another process started, its children first, and kill what remains; does nothing if it ended.

    It cannot be waited for as a child can.
    """
    if not _is_alive(program):
        return
    end_children(program.pid)
    family = _descendants(program.pid)
    with contextlib.suppress(psutil.NoSuchProcess):
        program.send_signal(end_with)
    end = monotonic() + GRACE
    while _is_alive(program) and monotonic() < end:
        sleep(CHECK_INTERVAL)
    for process in (program, *family, *_descendants(program.pid)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def end_children(pid: int) -> None:
    """Ask a process's children to end, and wait until they have ended and the process has noticed."""
    children = psutil.Process(pid).children() if psutil.pid_exists(pid) else []
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
    if children:
        psutil.wait_procs(children, timeout=GRACE)
        sleep(NOTE)


def descendants(pid: int) -> list[int]:
    """Return the pids of a process's running descendants."""
    return [process.pid for process in _descendants(pid)]


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        found = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [process for process in found if _is_alive(process)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
