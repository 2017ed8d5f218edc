"""What broken runs have left in a store, put right; only while holding its lock."""

from deita_core.stages.editions import forget_unfinished
from deita_core.stages.removal import finish_removals, forget_unplaced
from deita_core.store import Store


def mend(store: Store) -> None:
    """Finish removals that broke off, and drop samples of readings and decisions of selections that did."""
    # First: a sample that is to be removed says which vectors and scores are to go with it.
    finish_removals(store)
    forget_unplaced(store)
    forget_unfinished(store)
