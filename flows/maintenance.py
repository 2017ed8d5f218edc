"""The flow that removes conversations."""

from prefect import flow

from deita_core.config.settings import RemovalSettings
from deita_core.stages.removal import Removed, counted, matching
from flows.steps import holding
from tasks.selection import remove_samples


@flow(name="remove", flow_run_name="remove from {store}")
def remove(store: str, settings: RemovalSettings) -> Removed:
    """Remove conversations from a store for good: those named, and those a row of which fits an SQL condition.

    The next snapshot is without them, and says so; a file that holds their text may be read again without bringing them
    back.
    """
    with holding(store) as held:
        ids = matching(held, settings).ids
        found = counted(held, ids)
        # A retried run may have removed them already.
        if ids:
            remove_samples(store, ids, settings.reason)
    return found
