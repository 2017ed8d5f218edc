"""The flow that removes conversations."""

from prefect import flow

from deita_core.config.settings import RemovalSettings
from deita_core.stages.removal import Removed, counted, matching
from flows.steps.store import holding
from tasks.selection import remove_samples


@flow(name="remove", flow_run_name="remove from {store}")
def remove(store: str, settings: RemovalSettings) -> Removed:
    """Remove conversations from a store permanently: by id, or by an SQL condition on one of their rows.

    The next snapshot no longer contains them and reports it. Reading a file with their text again does not bring them
    back.
    """
    with holding(store) as held:
        ids = matching(held, settings).ids
        found = counted(held, ids)
        # A retried run may have removed them already.
        if ids:
            remove_samples(store, ids, settings.reason)
    return found
