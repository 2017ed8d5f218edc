"""The Deita method as a library: usable from a notebook, and knowing nothing of Prefect.

The public names are imported when they are first used, so `import deita_core` loads no heavy library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deita_core.reading.pool import read_pool
    from deita_core.scorers import load_scorer
    from deita_core.selection import DiversitySelector, select_clusters, select_coverage, select_diverse
    from deita_core.store import Store

__all__ = [
    "DiversitySelector",
    "Store",
    "load_scorer",
    "read_pool",
    "select_clusters",
    "select_coverage",
    "select_diverse",
]

_MODULES = {
    "DiversitySelector": "deita_core.selection",
    "Store": "deita_core.store",
    "load_scorer": "deita_core.scorers",
    "read_pool": "deita_core.reading.pool",
    "select_clusters": "deita_core.selection",
    "select_coverage": "deita_core.selection",
    "select_diverse": "deita_core.selection",
}


if not TYPE_CHECKING:
    # Hidden from type checkers, which would take any name for a public one.
    def __getattr__(name: str) -> Any:
        """A public name from its module, imported when it is first used. Raises AttributeError for any other name."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
