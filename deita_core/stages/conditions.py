"""SQL conditions on the rows of the pool's files."""

import re
from tempfile import TemporaryDirectory

import polars as pl

from deita_core.errors import InputError
from deita_core.store import Store
from deita_core.tables import SOURCES

# Columns of the sources that a condition is meant for.
COLUMNS = ("file", "line", "layout", "fields", "sample_id")
# What LanceDB adds to an error: the place in its own source where it came up, and names of all columns.
ASIDE = re.compile(r",? ?/\S*\.rs:\d+.*|\. Valid fields are.*")
# A row to try a condition on.
ROW = {"key": f"{'0' * 32}:1", "file_id": "0" * 32, "file": "file", "line": 1, "sample_id": "0" * 32}
ROW |= {"layout": "messages", "side": None, "fields": "{}"}


def rows_that_meet(store: Store, where: str) -> pl.DataFrame:
    """The rows of all files that meet an SQL condition on COLUMNS: sample_id, file_id.

    Raises InputError for a condition that cannot be read.
    """
    try:
        return store.read(SOURCES, ["sample_id", "file_id"], where)
    except (ValueError, RuntimeError) as error:
        why = ASIDE.sub("", str(error).splitlines()[0]).removeprefix("Invalid input, ").rstrip(". ")
        raise InputError(
            f"The condition {where[:200]!r} cannot be read ({why[:200]}); it is SQL on {', '.join(COLUMNS)}."
        ) from None


def check_condition(where: str) -> None:
    """Raise InputError for a condition that cannot be read, where there may be no rows yet."""
    with TemporaryDirectory() as folder:
        store = Store(folder)
        store.write(SOURCES, pl.DataFrame([ROW], schema=SOURCES.empty().schema))
        rows_that_meet(store, where)
