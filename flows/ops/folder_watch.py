"""Watches a pool's folder and reports changed files once they are written completely."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

# Seconds without changes after which new files count as complete.
SETTLED = 10.0
# Seconds between checks.
CHECK_INTERVAL = 2.0

Snapshot = Mapping[str, tuple[int, int]]


class FolderWatch:
    """Checks a folder repeatedly and reports files that were added, changed or removed since the last report.

    Files present at the first check are not reported.
    """

    def __init__(self, folder: Path, settled: float = SETTLED) -> None:
        self._folder, self._settled = folder, settled
        self._told = self._seen = snapshot(folder)
        self._since = 0.0

    def look(self, now: float) -> list[str]:
        """Return the changed files, sorted; empty until the folder has been unchanged long enough by the clock `now`.

        Also empty while the folder is missing: its files are unknown then, and may come back.
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
    """Return size and modification time of every file in a folder, except hidden ones, which are often incomplete.

    Unreadable entries are skipped. Raises OSError if the folder itself cannot be listed.
    """
    next(folder.iterdir(), None)
    found = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(parent, name) for name in names if not name.startswith(".")):
            # The file may have been deleted meanwhile, or may be unreadable.
            with suppress(OSError):
                if path.is_file():
                    found[str(path.relative_to(folder))] = (path.stat().st_size, path.stat().st_mtime_ns)
    return found
