"""Snapshots: the finished selections of a store, in order; each can be read again and compared with another.

A snapshot is a row that names its decisions, files and models. Their data is keyed by content and model version and
never changes. So no old table versions are needed, which would also keep removed texts.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl
from pydantic import BaseModel, ValidationError

from deita_core.config.settings import PRESETS, SelectionSettings
from deita_core.conversation import content_id
from deita_core.errors import InputError, StoreError
from deita_core.export.files import MANIFEST
from deita_core.stages.report import Report
from deita_core.store import Store
from deita_core.tables import DECISIONS, SNAPSHOTS


class OutdatedError(StoreError):
    """A snapshot was made by another version of this program."""


class Snapshot(BaseModel):
    """A finished selection: its number in the store, counted from 1, when it was finished, and its report."""

    number: int
    finished: str
    report: Report


def snapshots(store: Store) -> pl.DataFrame:
    """The store's snapshots in order: number, run_id, finished, folder."""
    return store.read(SNAPSHOTS, ["number", "run_id", "finished", "folder"]).sort("number")


def read_snapshot(store: Store, number: int | None = None) -> Snapshot:
    """One snapshot, by default the last. Raises InputError, naming the existing ones, if the number does not exist."""
    there = snapshots(store)["number"].to_list()
    if not there:
        raise InputError(f"The store {store.uri} has no snapshot yet; run deita select first.")
    if number is not None and number not in there:
        raise InputError(f"The store {store.uri} has no snapshot {number}; it has {there[0]} to {there[-1]}.")
    row = store.read(SNAPSHOTS, where=f"number = {there[-1] if number is None else number}")
    try:
        report = Report.model_validate_json(row.item(0, "report"))
    except ValidationError:
        raise OutdatedError(
            f"Snapshot {row.item(0, 'number')} of {store.uri} is from another version of this program; "
            f"run deita select again."
        ) from None
    return Snapshot(number=row.item(0, "number"), finished=row.item(0, "finished"), report=report)


def snapshot_of(store: Store, folder: Path) -> Snapshot | None:
    """The snapshot whose files are in a folder, or else the last one made for the folder; None if there is none."""
    made = snapshots(store)
    found = made.filter(pl.col("run_id") == str(manifest_in(folder).get("run_id")))
    if found.is_empty():
        found = made.filter(pl.col("folder") == place_of(folder)).tail(1)
    return read_snapshot(store, found.item(0, "number")) if len(found) else None


def snapshot_of_run(store: Store, run_id: str) -> Snapshot | None:
    """The snapshot made by a run, None if there is none. Raises InputError if its folder has a later one."""
    made = snapshots(store)
    mine = made.filter(pl.col("run_id") == run_id)
    if mine.is_empty():
        return None
    number, folder = mine.item(0, "number"), mine.item(0, "folder")
    last = made.filter(pl.col("folder") == folder)["number"].to_list()[-1]
    if last != number:
        raise InputError(
            f"This run made snapshot {number} of {folder}, which has snapshot {last} by now; run an update."
        )
    return read_snapshot(store, number)


def check_goes_on(store: Store, folder: Path, previous: Snapshot | None, pool: Sequence[str]) -> None:
    """Raise InputError if an update cannot continue the selection in a folder, or cannot find its pool."""
    if previous is None:
        if written := manifest_in(folder):
            kept = written.get("store")
            where = kept.get("uri") if isinstance(kept, dict) else "of something else"
            raise InputError(f"{folder} holds a selection of the store {where}, not of {store.uri}; name that store.")
        if not pool:
            raise InputError(f"{folder} has no snapshot in the store {store.uri}; name a pool, or another store.")
        return
    report = previous.report
    relative = [name for name in report.pool if "://" not in name and not Path(name).expanduser().is_absolute()]
    if relative and Path.cwd() != Path(report.cwd):
        raise InputError(f"{relative[0]}, of which {folder} was selected, is named from {report.cwd}; run this there.")


def snapshot_to_follow(store: Store, folder: Path) -> Snapshot | None:
    """As `snapshot_of`; None for a snapshot of another program version, which cannot be reused."""
    try:
        return snapshot_of(store, folder)
    except OutdatedError:
        return None


def place_of(folder: Path | str) -> str:
    """The absolute path of a folder, as snapshots store it."""
    return str(Path(folder).expanduser().resolve())


def folder_key(folder: Path | str) -> str:
    """A name for a folder that may stand in an address: 32 hexadecimal digits."""
    return content_id(place_of(folder).encode(errors="surrogateescape"))


def store_of(folder: Path) -> str | None:
    """The store that the files of a folder were selected from, as their manifest says; None if it does not."""
    store = manifest_in(folder).get("store")
    return store.get("uri") if isinstance(store, dict) else None


def manifest_in(folder: Path) -> dict[str, Any]:
    """The content of a folder's manifest; empty if there is none."""
    try:
        found = orjson.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def next_number(store: Store) -> int:
    """The number of the next snapshot."""
    return max(snapshots(store)["number"].to_list(), default=0) + 1


def record_snapshot(store: Store, report: Report) -> None:
    """Record a finished selection as a snapshot; this single write makes it visible."""
    row = {
        "number": report.snapshot,
        "run_id": report.job.run_id,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "folder": report.folder,
        "report": report.model_dump_json(),
    }
    store.write(SNAPSHOTS, pl.DataFrame([row], schema=SNAPSHOTS.empty().schema))


def keep_last(store: Store, folder: str, count: int) -> None:
    """Delete all but the last snapshots of a folder; exported files stay."""
    if old := snapshots(store).filter(pl.col("folder") == folder)["number"].to_list()[:-count]:
        store.delete_rows(SNAPSHOTS, "number", old)
        forget_unfinished(store)


def settings_after(earlier: SelectionSettings, given: SelectionSettings) -> SelectionSettings:
    """The settings of an earlier snapshot, overridden by those given for the next one.

    A different preset resets all settings that presets set, and another rank than target the examples. `store`,
    `runner` and `llm` are never taken from the earlier snapshot.
    """
    before, now = earlier.model_dump(), given.model_dump(exclude_unset=True)
    if now.get("rank", "target") != "target":
        before["like"] = None
    if now.get("preset", earlier.preset) != earlier.preset:
        of_presets = {name for values in PRESETS.values() for name in values}
        before = {name: value for name, value in before.items() if name not in of_presets}
    return SelectionSettings(**{**before, **now, **given.model_dump(include={"store", "runner", "llm"})})


def forget_unfinished(store: Store) -> None:
    """Drop decisions of runs that never became a snapshot; only while holding the store's lock."""
    finished = ",".join(f"'{run_id}'" for run_id in snapshots(store)["run_id"])
    unfinished = f"run_id NOT IN ({finished})" if finished else "run_id IS NOT NULL"
    # To count them reads less than to delete none.
    if store.count(DECISIONS, unfinished):
        store.delete(DECISIONS, unfinished)
