"""Shards that compute stop where they are when their run is interrupted, and those that wait do not start any more."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock, get_ident

from deita_core.errors import DeitaError

INTERRUPTED = "The run was interrupted; what is done is kept, run the same command to go on."


class _Stop(BaseException):
    """Raised in a shard's thread from outside; no `except Exception` on its way holds it up."""


# Reentrant: a signal's handler may find its own thread in here.
_changing = RLock()
_running: set[int] = set()
_stopped = False


def stop_shards() -> None:
    """End the shards that this process computes, between two of their steps, and those that begin later at once.

    May be called from any thread and from a signal's handler. `resume_shards` lets them begin again.
    """
    global _stopped
    with _changing:
        _stopped = True
        for thread in _running:
            _raise_in(thread, _Stop)


def resume_shards() -> None:
    """Let shards begin again."""
    global _stopped
    with _changing:
        if _stopped:
            # All that were running have been told; one that was hit as it left is still noted, and its thread may do
            # something else by now.
            _running.clear()
        _stopped = False


@contextmanager
def stoppable() -> Iterator[None]:
    """Around a shard's work: raises DeitaError where `stop_shards` ended it."""
    try:
        with _registered():
            yield
    except _Stop:
        raise DeitaError(INTERRUPTED) from None


@contextmanager
def _registered() -> Iterator[None]:
    thread = get_ident()
    with _changing:
        if _stopped:
            raise _Stop
        _running.add(thread)
    try:
        yield
    finally:
        with _changing:
            _running.discard(thread)
            # What was raised too late to stop this shard must not hit what the thread does next.
            _raise_in(thread, None)


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Have a thread raise an exception at its next step in Python; None takes one back that it has not raised yet."""
    raised = ctypes.py_object(error) if error else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)
