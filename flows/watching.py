"""Watching a pool's folder: what has arrived, once nothing writes to it any more."""

from collections.abc import Mapping
from pathlib import Path

# Seconds that a folder must stay as it is before its new files count as whole.
SETTLED = 10.0
# Seconds between looks.
LOOK = 2.0

Snapshot = Mapping[str, tuple[int, int]]


class FolderWatch:
    """Looks at a folder again and again, and says which files are new, changed or gone since it last said so.

    What is there at the first look is not new.
    """

    def __init__(self, folder: Path, settled: float = SETTLED) -> None:
        self._folder, self._settled = folder, settled
        self._told = self._seen = snapshot(folder)
        self._since = 0.0

    def look(self, now: float) -> list[str]:
        """The files that differ, sorted; none before the folder has been still for long enough by the clock `now`."""
        found = snapshot(self._folder)
        if found != self._seen:
            self._seen, self._since = found, now
        if self._seen == self._told or now - self._since < self._settled:
            return []
        names = self._seen.keys() | self._told.keys()
        changed = sorted(name for name in names if self._seen.get(name) != self._told.get(name))
        self._told = self._seen
        return changed


def snapshot(folder: Path) -> Snapshot:
    """Size and time of change of every file of a folder, but not of hidden ones, which are often half-written."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts):
            continue
        try:
            if path.is_file():
                found[str(name)] = (path.stat().st_size, path.stat().st_mtime_ns)
        except FileNotFoundError:
            # Gone between the listing and the look.
            continue
    return found
