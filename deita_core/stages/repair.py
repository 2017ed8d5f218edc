"""Checks a store's tables, and restores damaged ones to their newest valid version."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
from pydantic import BaseModel

from deita_core import tables
from deita_core.errors import StoreError
from deita_core.store import Store
from deita_core.store.damage import DamagedTableError
from deita_core.store.files import ASIDE, at_hand, list_files, move_files
from deita_core.tables import (
    DECISIONS,
    SNAPSHOTS,
    InvalidTableError,
    Table,
    languages_table,
    losses_table,
    overlaps_table,
    scores_table,
    similarities_table,
    token_counts_table,
    vectors_table,
)

FIXED = {table.name: table for table in vars(tables).values() if isinstance(table, Table)}
# Tables of what models and detectors find, by the first part of the name; the second says which of them.
MADE = {
    "scores": scores_table,
    "languages": languages_table,
    "tokens": token_counts_table,
    "overlaps": overlaps_table,
    "similarities": similarities_table,
    "losses": losses_table,
}
# Tables that are valid only as a whole.
WHOLE = (tables.CHAINS.name, tables.RANKINGS.name)
VERSIONS = "_versions"
MANIFEST = ".manifest"
# The names of Lance's manifests count down, so that the newest is listed first; in old versions they count up.
LAST = 2**64 - 1
DIGITS = len(str(LAST))
FOREIGN = "it is from another program or version"
# The consequences of lost rows, by the first part of the table's name.
AFTERWARDS = {
    "samples": "the next run reads the pool's files again; what only stood in files that are gone is lost",
    "sources": "the next run reads the pool's files again; what only stood in files that are gone is lost",
    "rejects": "the next run reads the pool's files again",
    "vectors": "the next run encodes them again",
    "scores": "the next run scores them again",
    "languages": "the next run that asks for languages finds them again",
    "tokens": "the next run that asks for tokens counts them again",
    "overlaps": "the next run that excludes benchmarks compares words again",
    "similarities": "the next run that excludes benchmarks compares vectors again",
    "losses": "the next run that ranks by them computes them again",
    "plans": "the next run makes them again",
    "decisions": "selections whose decisions are lost are forgotten, and the next run makes its own anew",
    "snapshots": "selections that are lost can only be made again",
    "removals": "conversations whose removal is lost come back with the next run; remove them again",
    "chains": "the next deita evolve asks for them again",
    "rankings": "the next deita evolve asks for them again",
}


class Version(BaseModel):
    """One version of a table: its number of rows, None if unknown, and its damage, if any."""

    number: int
    manifest: str
    rows: int | None
    trouble: str | None = None


class Health(BaseModel):
    """The state of a table: its versions from the newest back to the newest valid one.

    `broken` are earlier versions with unreadable manifests, which prevent only compaction.
    """

    name: str
    versions: list[Version]
    broken: list[Version] = []

    @property
    def trouble(self) -> str | None:
        """The damage of the newest version; None if it is valid."""
        return self.versions[0].trouble if self.versions else "its list of versions is gone"

    @property
    def newest_valid(self) -> Version | None:
        """The newest valid version."""
        return next((version for version in self.versions if version.trouble is None), None)

    def __str__(self) -> str:
        newest = self.versions[0] if self.versions else None
        if newest is None or self.trouble:
            return f"damaged: {self.trouble}" if self.trouble != FOREIGN else FOREIGN
        described = f"{newest.rows:,} rows, version {newest.number}, whole"
        return f"{described}, but {len(self.broken)} versions before it are damaged" if self.broken else described

    @property
    def loss(self) -> str:
        """A sentence: what a repair would do, and which rows it would lose."""
        afterwards = AFTERWARDS.get(self.name.partition("__")[0], "it is no table of this program")
        if self.newest_valid is None:
            return f"no version of it is whole, so that it would be put aside and all its rows lost: {afterwards}"
        newest, valid = self.versions[0], self.newest_valid
        if newest == valid:
            return (
                f"versions {', '.join(str(v.number) for v in self.broken)} before it would be put aside, without loss"
            )
        rows = "an unknown number of" if newest.rows is None else f"{max(0, newest.rows - (valid.rows or 0)):,}"
        return (
            f"it would go back from version {newest.number} to {valid.number}, which has {valid.rows:,} rows, and lose "
            f"{rows} rows: {afterwards}"
        )

    @property
    def can_be_repaired(self) -> bool:
        """True if the table is damaged and belongs to this program."""
        return bool(self.trouble and self.trouble != FOREIGN) or bool(self.broken)


def examine(store: Store) -> Iterator[Health]:
    """Read every table of a store in full, and earlier versions of damaged ones; writes nothing."""
    for name in store.tables():
        rows, trouble = check(store, name)
        manifests = _manifests(store, name)
        if trouble is None and manifests:
            number, manifest = manifests[0]
            yield Health(name=name, versions=[Version(number=number, manifest=manifest, rows=rows)])
        elif trouble is not None:
            yield _history(store, name, manifests)


def check(store: Store, name: str) -> tuple[int, str | None]:
    """The number of readable rows of a table, and its damage or None."""
    rows = 0
    keys: list[pl.DataFrame] = []
    try:
        frames = store.batches(name)
        for frame in [pl.concat(frames)] if name in WHOLE else frames:
            rows += len(frame)
            table = _table(name, frame)
            if table and set(frame.columns) != set(table.empty().columns):
                return rows, FOREIGN
            if table:
                table.validate(frame.select(table.empty().columns))
                keys.append(frame.select(table.key))
    except DamagedTableError as error:
        return rows, error.reason
    except InvalidTableError as error:
        return rows, str(error)
    if keys and (twice := pl.concat(keys).is_duplicated().sum()):
        return rows, f"{twice:,} of its rows have the key of another"
    return rows, None


def _table(name: str, frame: pl.DataFrame) -> Table | None:
    kind, _, made_by = name.partition("__")
    if kind in MADE:
        return MADE[kind](made_by)
    if kind == "vectors":
        vector = frame.schema.get("vector")
        if not isinstance(vector, pl.Array):
            return None
        return vectors_table(made_by, vector.size, "float16" if vector.inner == pl.Float16 else "float32")
    return FIXED.get(name)


def _history(store: Store, name: str, manifests: list[tuple[int, str]]) -> Health:
    """Versions of a damaged table back to the newest valid one, each opened separately in a folder of links."""
    versions: list[Version] = []
    broken: list[Version] = []
    with at_hand(store.uri, f"{name}.lance") as folder, TemporaryDirectory() as links:
        for number, manifest in manifests:
            alone = Store(Path(links) / str(number))
            _link(folder, Path(manifest).name, alone.side / folder.name)
            if not versions or versions[-1].trouble is not None:
                read, trouble = check(alone, name)
                rows = read if trouble is None else _counted(alone, name)
                versions.append(Version(number=number, manifest=manifest, rows=rows, trouble=trouble))
            elif (trouble := _unreadable(alone, name)) is not None:
                broken.append(Version(number=number, manifest=manifest, rows=None, trouble=trouble))
    if versions and versions[0].trouble is None and not broken:
        raise StoreError(f"Table {name} of {store.uri} has changed while it was looked at; run deita doctor again.")
    return Health(name=name, versions=versions, broken=broken)


def _counted(store: Store, name: str) -> int | None:
    """The number of rows of a damaged version."""
    try:
        return store.count(name)
    except DamagedTableError:
        return None


def _unreadable(store: Store, name: str) -> str | None:
    try:
        store.versions()
    except DamagedTableError as error:
        return error.reason
    return None


def _link(folder: Path, manifest: str, target: Path) -> None:
    (target / VERSIONS).mkdir(parents=True)
    for part in folder.iterdir():
        if part.name != VERSIONS:
            (target / part.name).symlink_to(part.absolute())
    shutil.copy(folder / VERSIONS / manifest, target / VERSIONS)


def _manifests(store: Store, name: str) -> list[tuple[int, str]]:
    """Numbers and paths of a table's manifests, newest first."""
    found = []
    for path in list_files(store.uri, f"{name}.lance/{VERSIONS}"):
        digits = Path(path).name.removesuffix(MANIFEST)
        if path.endswith(MANIFEST) and digits.isdigit():
            found.append((LAST - int(digits) if len(digits) == DIGITS else int(digits), path))
    return sorted(found, reverse=True)


def repair(store: Store, found: list[Health]) -> list[str]:
    """Restore damaged tables to their newest valid versions; returns lines that describe it. Requires the lock.

    Nothing is deleted: the manifests of later versions, or a table without a valid version, are moved to the folder
    `damaged` of the store, which the next `deita remove` empties.
    """
    into = f"{ASIDE}/{datetime.now(UTC):%Y%m%dT%H%M%S}"
    for health in found:
        if health.can_be_repaired:
            move_files(store.uri, _to_move(store, health), into)
    lines = [f"What was damaged is in {store.uri}/{into}; the same command as before makes up for what is lost."]
    if lost := forget_undecided(Store(store.uri)):
        lines.append(f"Snapshots {', '.join(map(str, lost))} are forgotten, as their decisions are lost.")
    return lines


def _to_move(store: Store, health: Health) -> list[str]:
    """The files to move, newest first, so that after an interrupted repair the table still counts as damaged."""
    if health.newest_valid is None:
        # Versions before rows, since they make it a table; the hint to the newest version sorts after them.
        files = list_files(store.uri, f"{health.name}.lance")
        return sorted(files, key=lambda path: VERSIONS not in path)
    bad = [version.manifest for version in (*health.versions, *health.broken) if version.trouble is not None]
    hints = [path for path in list_files(store.uri, f"{health.name}.lance/{VERSIONS}") if not path.endswith(MANIFEST)]
    return [*hints, *bad]


def forget_undecided(store: Store) -> list[int]:
    """Delete snapshots that lack any of their decisions; returns their numbers."""
    found = store.read(DECISIONS, ["run_id"]).group_by("run_id").len("found")
    decided = pl.col("report").str.json_path_match("$.chosen.samples").cast(pl.Int64, strict=False)
    made = store.read(SNAPSHOTS, ["number", "run_id", "report"]).join(found, on="run_id", how="left")
    lacking = made.filter(pl.col("found").fill_null(0) < decided)["number"].sort().to_list()
    store.delete_rows(SNAPSHOTS, "number", lacking)
    return lacking
