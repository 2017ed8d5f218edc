"""Hold a store for the time of a run."""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.runtime import flow_run

from deita_core.stages.removal import finish_interrupted, take_back
from deita_core.store import Store
from tasks.runtime.stores import store_of_run


@contextmanager
def holding(uri: str, out: str | None = None) -> Iterator[Store]:
    """Lock a store for this run, and first finish interrupted removals and delete partial results.

    If the run fails for good, its decisions and its prepared files in the folder `out` are removed.
    """
    store = store_of_run(uri)
    with store.lock(f"{flow_run.name} ({flow_run.id})"):
        finish_interrupted(store)
        try:
            yield store
        except BaseException as error:
            try:
                take_back(store, out)
            except Exception as later:
                # The user must see the run's own error; the next run removes the rest.
                error.add_note(f"What the run had prepared could not be taken back either: {later}")
            raise
