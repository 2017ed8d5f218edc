"""Finds the samples that settings name: by id, or by a file of ids or of rows."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from deita_core.config.choice import SAMPLE_ID
from deita_core.errors import InputError
from deita_core.reading.options import ReadOptions
from deita_core.reading.pool import Reject, stream_file
from deita_core.stages.ingest import pool_ids
from deita_core.store import Store

IDS = ".txt"


def named_samples(
    store: Store, setting: str, names: Sequence[str], options: ReadOptions, file_ids: Sequence[str]
) -> tuple[str, ...]:
    """The ids of the samples of a pool that are named, each once.

    A name is an id, a .txt file with an id on each line, or a file of rows in any layout, which are found by their
    content or, if they have it, by their field `id`. Raises InputError for a file that cannot be read and for a sample
    that is not in the pool.
    """
    if not names:
        return ()
    found = dict[str, str]()
    for name in names:
        if SAMPLE_ID.fullmatch(name):
            found.setdefault(name, f"The id {name}")
        else:
            found.update({id_: place for id_, place in _ids_of(name, options) if id_ not in found})
    known = set(pool_ids(store, file_ids))
    if lost := [place for id_, place in found.items() if id_ not in known]:
        more = f" Nor are {len(lost) - 1:,} others." if len(lost) > 1 else ""
        raise InputError(f"{lost[0]}, named by {setting}, is not in the pool; leave it out, or read its file.{more}")
    return tuple(found)


def _ids_of(name: str, options: ReadOptions) -> Iterator[tuple[str, str]]:
    """The ids that a file names, and where."""
    if Path(name).suffix == IDS:
        yield from _listed(name)
        return
    rows = 0
    for row in stream_file(name, options):
        if isinstance(row, Reject):
            continue
        rows += 1
        own = str(orjson.loads(row.fields).get("id"))
        yield own if SAMPLE_ID.fullmatch(own) else row.id, f"The row {name}:{row.line}"
    if not rows:
        raise InputError(f"{name} holds no row that can be read; give ids, a .txt file of ids, or a file of rows.")


def _listed(name: str) -> Iterator[tuple[str, str]]:
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name} cannot be read ({error}); give a text file with an id on each line.") from None
    for number, line in enumerate(lines, 1):
        if id_ := line.strip():
            if not SAMPLE_ID.fullmatch(id_):
                raise InputError(f"{name}:{number} is no id; give one of 32 digits, as in decisions.parquet.")
            yield id_, f"The id {id_}"
