"""Editions: every finished selection of a store, in order; each can be read again and compared with another.

An edition is a row that names its decisions, files and models. All that it rests on is keyed by content and model
version and never changes, so that no table needs to be kept in an old version, which would keep removed texts too.
"""

from datetime import UTC, datetime
from pathlib import Path

import orjson
import polars as pl
from pydantic import BaseModel, ValidationError

from deita_core.encoders import EncoderFiles
from deita_core.errors import InputError, StoreError
from deita_core.settings import SelectionSettings
from deita_core.stages.report import Report
from deita_core.store import Store
from deita_core.tables import EDITIONS, SELECTIONS
from deita_core.writers import MANIFEST


class Edition(BaseModel):
    """A finished selection: its number in the store, counted from 1, when it was finished, and its report."""

    number: int
    finished: str
    report: Report

    def decisions_for(self, encoder: EncoderFiles) -> str | None:
        """The run whose decisions can be used again with an encoder: none if they were made with another."""
        job = self.report.job
        return job.run_id if job.encoder.slug == encoder.slug and job.encoder.storage == encoder.storage else None


def editions(store: Store) -> pl.DataFrame:
    """The store's editions in order: number, run_id, finished, folder."""
    return store.read(EDITIONS, ["number", "run_id", "finished", "folder"]).sort("number")


def read_edition(store: Store, number: int | None = None) -> Edition:
    """One edition, the last unless a number is given. Raises InputError, naming those there are, if it is not there."""
    there = editions(store)["number"].to_list()
    if not there:
        raise InputError(f"The store {store.uri} has no edition yet; run deita select first.")
    if number is not None and number not in there:
        raise InputError(f"The store {store.uri} has no edition {number}; it has {there[0]} to {there[-1]}.")
    row = store.read(EDITIONS, where=f"number = {there[-1] if number is None else number}")
    try:
        report = Report.model_validate_json(row.item(0, "report"))
    except ValidationError:
        raise StoreError(
            f"Edition {row.item(0, 'number')} of {store.uri} is from another version of this program; "
            f"run deita select again."
        ) from None
    return Edition(number=row.item(0, "number"), finished=row.item(0, "finished"), report=report)


def edition_of(store: Store, folder: Path) -> Edition | None:
    """The edition whose files a folder holds; the last one made for it, where it holds none; None if there is none."""
    made = editions(store)
    run_id = _run_in(folder)
    found = made.filter(pl.col("run_id") == run_id) if run_id else made.head(0)
    if found.is_empty():
        found = made.filter(pl.col("folder") == place_of(folder)).tail(1)
    return read_edition(store, found.item(0, "number")) if len(found) else None


def place_of(folder: Path | str) -> str:
    """A folder as the editions name it."""
    return str(Path(folder).expanduser().resolve())


def _run_in(folder: Path) -> str | None:
    """The run that the files of a folder are from."""
    try:
        return str(orjson.loads((folder / MANIFEST).read_bytes())["run_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def next_number(store: Store) -> int:
    """The number of the edition that is made now."""
    return max(editions(store)["number"].to_list(), default=0) + 1


def record_edition(store: Store, report: Report) -> None:
    """Make a finished selection an edition: the one write that makes it visible."""
    row = {
        "number": report.edition,
        "run_id": report.job.run_id,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "folder": report.folder,
        "report": report.model_dump_json(),
    }
    store.write(EDITIONS, pl.DataFrame([row], schema=EDITIONS.empty().schema))


def keep_last(store: Store, count: int) -> None:
    """Forget all but the last editions; files that were written of the others stay."""
    if old := editions(store)["number"].to_list()[:-count]:
        store.delete(EDITIONS, f"number <= {old[-1]}")
        forget_unfinished(store)


def settings_after(earlier: SelectionSettings, given: SelectionSettings) -> SelectionSettings:
    """The settings of an edition with those over them that were given for the next one."""
    return SelectionSettings(**{**earlier.model_dump(), **given.model_dump(exclude_unset=True)})


def forget_unfinished(store: Store) -> None:
    """Drop decisions of runs that never became an edition; only while holding the store's lock."""
    finished = editions(store)["run_id"].to_list()
    unfinished = f"run_id NOT IN ({','.join(repr(run_id) for run_id in ['', *finished])})"
    if store.count(SELECTIONS, unfinished):
        store.delete(SELECTIONS, unfinished)
