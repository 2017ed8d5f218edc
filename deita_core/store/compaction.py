"""Merges the small files of a table, drops its old versions, and removes deleted rows from every file."""

from datetime import timedelta
from time import sleep
from typing import Any

from deita_core.errors import StoreError

# A notebook may still be reading an earlier version.
KEEP_VERSIONS = timedelta(hours=1)
# Commits until a table is compacted, each of which may leave a small file. Reading many files costs little, and merging
# them rewrites the whole table.
COMMITS = 100
# Attempts to drop old versions.
DROPS = 50
# The shortest time that LanceDB accepts.
KEEP_NOTHING = timedelta(milliseconds=1)


def compact(handle: Any) -> None:
    """Merge the small files of a table of many commits, and drop its versions of more than an hour ago."""
    is_one = handle.stats()["fragment_stats"]["num_fragments"] <= 1
    if not is_one and len(handle.list_versions()) > COMMITS:
        handle.optimize(cleanup_older_than=KEEP_VERSIONS)


def purged(database: Any, handle: Any) -> Any:
    """Rewrite a table without its deleted rows and drop all other versions; returns its handle."""
    for tag in handle.tags.list():
        handle.tags.delete(tag)
    _drop_versions(handle)
    if _has_deleted_rows(handle):
        # Compaction leaves a few deleted rows in a large file and only marks them.
        rows = handle.search().select(handle.schema.names).to_batches()
        handle = database.create_table(handle.name, data=rows, schema=handle.schema, mode="overwrite")
        _drop_versions(handle)
    return handle


def _drop_versions(handle: Any) -> None:
    """Compact a table and drop all versions but the last, with the files that only they use."""
    for _ in range(DROPS):
        handle.optimize(cleanup_older_than=KEEP_NOTHING, delete_unverified=True)
        if len(handle.list_versions()) == 1:
            return
        # A version is dropped only once it is old enough.
        sleep(0.1)
    raise StoreError(f"Old versions of table {handle.name} cannot be dropped; run the command again.")


def _has_deleted_rows(handle: Any) -> bool:
    """True if a file of the table may hold deleted rows."""
    stats = handle.stats()
    lengths = stats["fragment_stats"]["lengths"]
    return bool(stats["fragment_stats"]["num_fragments"] > 1 or lengths["max"] != stats["num_rows"])
