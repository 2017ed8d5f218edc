"""Programs that run beside this one and end with it, with all that they have started."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from deita_core.errors import DeitaError

# Seconds that a flow run has to write what it is at and report that it was stopped.
PATIENCE = 40.0
# Seconds that a worker takes to report a run that has not reported its own end.
NOTE = 2.0


@contextmanager
def running(
    words: Sequence[str], env: Mapping[str, str], log: Path, end_with: signal.Signals
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program whose output goes to a file; afterwards it is asked to end, and it and its children are gone.

    Raises DeitaError if the file cannot be written.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        output = log.open("wb")
    except OSError as error:
        raise DeitaError(f"{log} cannot be written ({error.strerror}); set PREFECT_HOME=FOLDER to another.") from None
    with output:
        # In a session of its own: a terminal's ctrl-C is for the one who knows in which order to end things.
        program = subprocess.Popen(  # noqa: S603
            words, env=dict(env), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield program
    finally:
        stop(program, end_with)


def stop(program: "subprocess.Popen[bytes]", end_with: signal.Signals) -> None:
    """End a program; whatever of its descendants is left after it is killed."""
    family = descendants(program.pid)
    if program.poll() is None:
        program.send_signal(end_with)
    with contextlib.suppress(subprocess.TimeoutExpired):
        program.wait(PATIENCE)
    for pid in (*family, *descendants(program.pid)):
        _send(pid, signal.SIGKILL)
    if program.poll() is None:
        program.kill()
        program.wait()


def end_children(pid: int) -> None:
    """Ask the children of a process to end, and wait until they have, and the process has taken note of it."""
    children = [child for child, parent in _processes().items() if parent == pid]
    if not children:
        return
    for child in children:
        _send(child, signal.SIGTERM)
    started = monotonic()
    while set(children) & _processes().keys() and monotonic() - started < PATIENCE:
        sleep(0.2)
    sleep(NOTE)


def descendants(pid: int) -> list[int]:
    """The children of a process, theirs, and so on."""
    parents = _processes()
    found = [pid]
    for ancestor in found:
        found += [child for child, parent in parents.items() if parent == ancestor]
    return found[1:]


def _processes() -> dict[int, int]:
    """Every process there is that has not ended, and its parent."""
    # Where there is one: a small image has no `ps`.
    return _from_proc() if Path("/proc/self/stat").exists() else _from_ps()


def _from_proc() -> dict[int, int]:
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # After the name, which may hold anything: the state and the parent.
            state, parent = (folder / "stat").read_bytes().rpartition(b")")[2].split()[:2]
            if state not in (b"Z", b"X"):
                found[int(folder.name)] = int(parent)
    return found


def _from_ps() -> dict[int, int]:
    line = ["ps", "-A", "-o", "pid=,ppid=,stat="]
    table = subprocess.run(line, capture_output=True, text=True, check=True).stdout  # noqa: S603
    rows = [row.split() for row in table.splitlines()]
    return {int(pid): int(parent) for pid, parent, state in rows if not state.startswith("Z")}


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
