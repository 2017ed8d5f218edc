"""Watching a pool's folder: what has arrived, once nothing writes to it any more."""

import os
from collections.abc import Mapping
from contextlib import suppress
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
        """The files that differ, sorted; none before the folder has been still for long enough by the clock `now`.

        None either while the folder is away: nothing is known of its files then, and they may be there again.
        """
        try:
            found = snapshot(self._folder)
        except OSError:
            self._since = now
            return []
        if found != self._seen:
            self._seen, self._since = found, now
        if self._seen == self._told or now - self._since < self._settled:
            return []
        names = self._seen.keys() | self._told.keys()
        changed = sorted(name for name in names if self._seen.get(name) != self._told.get(name))
        self._told = self._seen
        return changed


def snapshot(folder: Path) -> Snapshot:
    """Size and time of change of every file of a folder, but not of hidden ones, which are often half-written.

    What cannot be looked at is left out. Raises OSError if the folder itself cannot be listed.
    """
    next(folder.iterdir(), None)
    found = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(parent, name) for name in names if not name.startswith(".")):
            # Gone between the listing and the look, or not for everybody.
            with suppress(OSError):
                if path.is_file():
                    found[str(path.relative_to(folder))] = (path.stat().st_size, path.stat().st_mtime_ns)
    return found
