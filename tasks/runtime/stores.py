"""Opens a run's store once per process."""

from functools import lru_cache

from prefect.runtime import flow_run

from deita_core.store import Store


def store_of_run(uri: str) -> Store:
    """Return the store of the running flow; its tasks share what it has found once."""
    return _opened(uri, str(flow_run.id))


# By the run as well, since another run may find another store at the same place.
@lru_cache(maxsize=1)
def _opened(uri: str, run_id: str) -> Store:
    return Store(uri)
