"""A flag that the run was interrupted, one per process and checked before every batch that a model computes."""

from threading import Event

from deita_core.errors import INTERRUPTED, DeitaError

CANCELLED = Event()


def check_cancelled() -> None:
    """Raise DeitaError if the run was interrupted."""
    if CANCELLED.is_set():
        raise DeitaError(INTERRUPTED)
