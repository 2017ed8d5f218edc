"""What broken runs have left in a store, put right; only while holding its lock."""

from pathlib import Path

from deita_core.export.files import SELECTION_FILES
from deita_core.export.placing import drop_prepared
from deita_core.stages.removal import finish_removals, forget_unplaced
from deita_core.stages.snapshots import forget_unfinished
from deita_core.store import Store


def mend(store: Store) -> None:
    """Finish removals that broke off, and drop samples of readings and decisions of selections that did."""
    # First: a sample that is to be removed says which vectors and scores are to go with it.
    finish_removals(store)
    forget_unplaced(store)
    forget_unfinished(store)


def take_back(store: Store, folder: str | None = None) -> None:
    """Drop what a failed run decided, and the files it prepared in its folder; only while holding the lock."""
    if folder is not None:
        drop_prepared(Path(folder), SELECTION_FILES)
    forget_unfinished(store)
