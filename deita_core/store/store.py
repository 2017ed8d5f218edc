"""The store: one LanceDB database with all data of a pool. The only module that imports lancedb."""

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import random
from tempfile import TemporaryDirectory
from threading import Lock, RLock
from time import sleep
from typing import Any, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
from filelock import FileLock

from deita_core.errors import StoreError, StoreUnavailableError, cause
from deita_core.store.compaction import compact, purged
from deita_core.store.damage import damaged, is_of_libraries, reason, surroundings
from deita_core.store.files import ASIDE, delete_folder, list_files
from deita_core.store.locks import check_held, folder_lock, object_lock
from deita_core.store.remote import check_reachable, checked_uri, is_remote, publish, side_folder, storage_options
from deita_core.store.schemas import schema_of
from deita_core.tables import Table

# Ids in one query's IN list: enough to be fast, few enough to parse quickly.
IDS_PER_QUERY = 4_096
# Above about this number, reading a whole column and joining it is faster than parsing an IN list.
JOIN_ABOVE = 256
# Rows taken at a time by their row ids.
ROWS_PER_TAKE = 65_536
# The column of LanceDB's row ids.
ROW = "_rowid"
# Largest pause in seconds before each retry of a commit that conflicts with another; the actual pause is random.
PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 10.0)

# Always read the newest version.
FRESH = timedelta(0)
Result = TypeVar("Result")


class Store:
    """A database of samples, vectors, scores, decisions and snapshots: in a folder, or under s3://, gs:// or az://.

    Every write is validated against its table's Pandera model, is one atomic commit, and inserts only rows whose key is
    new. Keys hold the content and the version of the model that made the row. So a row never changes once written, and
    a repeated write changes nothing.

    `side` is the folder for everything but tables: the store's own folder, or for a remote store one in this machine's
    cache. Other machines do not see it. It holds responses of language models and the results Prefect keeps.
    Credentials and endpoints of object storage come from the environment (AWS_*, GOOGLE_*, AZURE_*).
    """

    def __init__(self, uri: str | Path = ".deita") -> None:
        self.uri = str(uri)
        self.is_remote = is_remote(self.uri)
        if self.is_remote:
            self.uri = checked_uri(self.uri)
        self.side = side_folder(self.uri) if self.is_remote else Path(self.uri).expanduser()
        self._lance: Any = None
        self._open: dict[str, Any] = {}
        self._found: dict[tuple[str, Hashable], tuple[int | None, Any]] = {}
        self._opening, self._finding = Lock(), RLock()

    # -- writing

    @contextmanager
    def lock(self, holder: str) -> Iterator[None]:
        """Lock the store for one run. Raises StoreError at once, naming the run, if another run holds it."""
        self._make_folder()
        held = object_lock(self.uri, holder) if self.is_remote else folder_lock(self.side, self.uri, holder)
        with held:
            yield

    def write(self, table: Table, frame: pl.DataFrame) -> int:
        """Validate rows and insert those with a new key, in one commit; returns the number of rows inserted."""
        if frame.is_empty():
            return 0
        checked = _checked(table, frame)

        def insert() -> int:
            handle = self._of(table) or self._create(table, checked)
            merge = handle.merge_insert(list(table.key)).when_not_matched_insert_all()
            return int(merge.execute(checked.to_arrow().cast(handle.schema)).num_inserted_rows)

        return self._using(table.name, lambda: self._commit(table.name, insert))

    def replace(self, table: Table, where: str, frame: pl.DataFrame) -> None:
        """Delete the rows that match an SQL condition, then insert rows that are valid and match it, in two commits.

        No other rows of the table are read, so that this is faster than `write`. Requires the lock.
        """
        checked = _checked(table, frame)

        def exchange() -> None:
            # Together, so that what is tried again inserts nothing twice.
            if (handle := self._of(table)) is not None:
                handle.delete(where)
            if len(checked):
                handle = self._of(table) or self._create(table, checked)
                handle.add(checked.to_arrow().cast(handle.schema))

        self._using(table.name, lambda: self._commit(table.name, exchange))

    def delete(self, table: Table | str, where: str) -> None:
        """Delete the rows of a table, or of the named table, that match an SQL condition; a missing table has none."""
        name = table if isinstance(table, str) else table.name

        def remove() -> None:
            if handle := self._handle(name):
                handle.delete(where)

        self._using(name, lambda: self._commit(name, remove))

    def delete_rows(self, table: Table | str, column: str, values: Sequence[str] | Sequence[int]) -> None:
        """Remove the rows whose column is one of the values."""
        for start in range(0, len(values), IDS_PER_QUERY):
            self.delete(table, f"{column} IN ({_quoted(values[start : start + IDS_PER_QUERY])})")

    def compact(self, purge: bool = False) -> None:
        """Merge the small files of tables that were written many times, and drop their old versions.

        With `purge` no deleted data remains in any file: tables with deleted rows are rewritten and all earlier
        versions are dropped, including tagged ones, even while they are read. Requires the lock.
        """
        for name in self.tables():
            self._using(name, partial(self._commit, name, partial(self._purge if purge else self._compact, name)))
        if purge:
            # Files that a repair has moved there.
            delete_folder(self.uri, ASIDE)

    def _compact(self, name: str) -> None:
        # A table without rows counts as false.
        if (handle := self._handle(name)) is not None:
            compact(handle)

    def _purge(self, name: str) -> None:
        if (handle := self._handle(name)) is not None:
            self._open[name] = purged(self._database(), handle)

    # -- reading

    def tables(self) -> list[str]:
        """Names of the existing tables."""
        if not self._is_there():
            return []
        try:
            return sorted(self._database().list_tables().tables)
        except Exception as error:
            if not is_of_libraries(error) or not (hindered := surroundings(f"The store {self.uri}", error)):
                raise
            raise hindered from error

    def versions(self) -> dict[str, int]:
        """The current version of every table; this state can be read again until the table is compacted."""
        handles = {name: self._using(name, partial(self._handle, name)) for name in self.tables()}
        return {name: int(handle.version) for name, handle in handles.items() if handle is not None}

    def read(self, table: Table, columns: Sequence[str] | None = None, where: str | None = None) -> pl.DataFrame:
        """Rows that match an SQL condition; a missing table has none."""
        columns = list(columns or table.empty().columns)

        def rows() -> pl.DataFrame:
            handle = self._of(table)
            if handle is None:
                return table.empty().select(columns)
            query = handle.search().select(columns)
            if where:
                query = query.where(where)
            return pl.DataFrame(pl.from_arrow(query.to_arrow())).select(columns)

        return self._using(table.name, rows)

    def count(self, table: Table | str, where: str | None = None) -> int:
        """Number of rows of a table, or of the named table, that match an SQL condition."""
        name = table if isinstance(table, str) else table.name

        def rows() -> int:
            handle = self._handle(name)
            return 0 if handle is None else int(handle.count_rows(where))

        return self._using(name, rows)

    def fetch(
        self,
        table: Table,
        column: str,
        values: Sequence[str] | pl.Series,
        columns: Sequence[str] | None = None,
        rows: pl.DataFrame | None = None,
    ) -> pl.DataFrame:
        """Rows whose `column` is one of `values`, in no particular order.

        `rows`: what `row_ids` returned for this column, if rows are fetched many times.
        """
        wanted, columns = pl.Series(column, values, pl.String), list(columns or table.empty().columns)
        if wanted.is_empty():
            return table.empty().select(columns)
        if rows is None and len(wanted) <= JOIN_ABOVE:
            return self.read(table, columns, f"{column} IN ({_quoted(wanted.to_list())})")
        # Where most rows are wanted, to find out where they are stored would take as long as to read them.
        if 2 * len(wanted) <= (self.count(table) if rows is None else len(rows)):
            rows = self.row_ids(table, column) if rows is None else rows
            named = rows.filter(pl.col(column).is_in(wanted.implode()))
            found = self.take(table, named, columns) if 2 * len(named) <= len(rows) else None
            if found is not None and len(found) == len(named):
                return found
        # All at once: batch by batch, each would look through all values.
        read = self.read(table, list(dict.fromkeys([*columns, column])))
        return _where(read, wanted).select(columns)

    def row_ids(self, table: Table, column: str) -> pl.DataFrame:
        """A column of a table, and where each of its rows is stored, as `take` needs it: `column`, ROW.

        It is read again only once the table has changed.
        """

        def rows() -> pl.DataFrame:
            handle = self._of(table)
            if handle is None:
                return table.empty().select(column).with_columns(pl.lit(0, pl.UInt64).alias(ROW))
            found = handle.search().with_row_id(True).select([column]).to_arrow()
            return pl.DataFrame(pl.from_arrow(found)).select(column, ROW)

        return self.once(table, (ROW, column), lambda: self._using(table.name, rows))

    def once(self, table: Table, name: Hashable, find: Callable[[], Result]) -> Result:
        """What `find` returns for a table, by name; it is called again only once the table has changed."""
        handle = self._using(table.name, partial(self._of, table))
        version, place = None if handle is None else int(handle.version), (table.name, name)
        # Threads that ask at the same time wait for the first.
        with self._finding:
            if place not in self._found or self._found[place][0] != version:
                self._found[place] = (version, find())
            result: Result = self._found[place][1]
        return result

    def take(self, table: Table, rows: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
        """The columns of some of the rows that `row_ids` found, in no particular order.

        Fewer rows if the table was compacted since then, for example by a run on another machine.
        """
        column = next(name for name in rows.columns if name != ROW)
        read = list(dict.fromkeys([*columns, column]))

        def taken(part: pl.DataFrame) -> pl.DataFrame:
            query = self._of(table).take_row_ids(part[ROW].sort().to_list()).select(read)
            found = pl.DataFrame(pl.from_arrow(query.to_arrow()))
            # After a compaction, another row may be stored there.
            return _where(found, part[column]).select(columns)

        parts = [self._using(table.name, partial(taken, part)) for part in rows.iter_slices(ROWS_PER_TAKE)]
        return pl.concat([table.empty().select(columns), *parts])

    def missing(self, table: Table, ids: pl.Series) -> pl.Series:
        """The ids that do not occur in the first key column of the table, each once, in the given order."""
        present = self.row_ids(table, table.key[0])[table.key[0]]
        wanted = pl.DataFrame({"id": ids.unique(maintain_order=True)})
        return wanted.join(pl.DataFrame({"id": present}), on="id", how="anti", maintain_order="left")["id"]

    def vectors(
        self, table: Table, text_ids: Sequence[str] | pl.Series, rows: pl.DataFrame | None = None
    ) -> np.ndarray:
        """Vectors (n, d) float32 of texts, in the order of the ids. Raises StoreError if one is missing.

        `rows`: as for `fetch`.
        """
        wanted = pl.DataFrame({"text_id": text_ids}, schema={"text_id": pl.String})
        found = self.fetch(table, "text_id", wanted["text_id"], ["text_id", "vector"], rows)
        joined = wanted.join(found, on="text_id", how="left", maintain_order="left")
        if lacking := joined["vector"].null_count():
            raise StoreError(f"Table {table.name} lacks {lacking} vectors; run the command again to encode them.")
        return joined["vector"].to_numpy().astype(np.float32, copy=False)

    def batches(self, name: str) -> Iterator[pl.DataFrame]:
        """All rows and columns of the named table, in batches. Raises DamagedTableError at the damaged batch."""
        try:
            if (handle := self._handle(name)) is None:
                return
            # Compaction needs the manifests of all versions to be readable.
            handle.list_versions()
            for batch in handle.search().select(handle.schema.names).to_batches():
                yield pl.DataFrame(pl.from_arrow(batch))
        except (Exception, pl.exceptions.PanicException) as error:
            if not is_of_libraries(error):
                raise
            raise surroundings(self._called(name), error) or damaged(self.uri, name, reason(error)) from error

    # -- tables

    def _called(self, name: str) -> str:
        return f"Table {name} of {self.uri}"

    def _using(self, name: str, use: Callable[[], Result]) -> Result:
        """The result of `use`. Raises StoreError if the table is damaged or cannot be reached."""
        try:
            return use()
        except (Exception, pl.exceptions.PanicException) as error:
            if not is_of_libraries(error):
                raise
            if hindered := surroundings(self._called(name), error):
                raise hindered from error
        with self._opening:
            self._open.pop(name, None)
        for _ in self.batches(name):
            pass
        # The table is valid: its files had just been replaced, or the request itself is invalid.
        return use()

    def _is_there(self) -> bool:
        return self.is_remote or self.side.exists()

    def _make_folder(self) -> None:
        try:
            self.side.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = f"{self.side} cannot be a folder ({cause(error)})"
            other = "set DEITA_CACHE to a folder" if self.is_remote else "give another --store"
            raise StoreError(f"The store {self.uri} cannot be used: {why}; {other}.") from None

    def _commit(self, name: str, write: Callable[[], Result]) -> Result:
        """Write to a table, one writer per machine at a time; retried if another machine's commit conflicts."""
        self._make_folder()
        for pause in (*PAUSES, None):
            check_held(self.uri)
            try:
                with FileLock(self.side / "write.lock"):
                    return write()
            except RuntimeError as error:
                if not _is_conflict(error):
                    raise
                if pause is None:
                    break
            sleep(random() * pause)  # noqa: S311
        raise StoreError(f"Table {name} of {self.uri} is written by too many at once; run again with fewer workers.")

    def _database(self) -> Any:
        if self._lance is None:
            lancedb = load_library()
            if self.is_remote:
                self._lance = self._connect(lancedb)
            else:
                self._make_folder()
                self._lance = lancedb.connect(self.side, read_consistency_interval=FRESH)
        return self._lance

    def _connect(self, lancedb: Any) -> Any:
        check_reachable(self.uri)
        try:
            return lancedb.connect(self.uri, read_consistency_interval=FRESH, storage_options=storage_options())
        except ValueError as error:
            # The store was reachable before, so the error may be temporary.
            raise StoreUnavailableError(f"The store {self.uri} cannot be reached ({cause(error)}).") from None

    def _of(self, table: Table) -> Any:
        """The table's handle, None if it does not exist. Raises StoreError if its columns are not ours."""
        handle = self._handle(table.name)
        if handle is not None and set(handle.schema.names) != set(table.empty().columns):
            raise StoreError(
                f"Table {table.name} of {self.uri} is from another program or version; give another store."
            )
        return handle

    def _handle(self, name: str) -> Any:
        with self._opening:
            if name not in self._open:
                if name not in self.tables():
                    return None
                try:
                    self._open[name] = self._database().open_table(name)
                except ValueError as error:
                    if "was not found" not in str(error):
                        raise
                    # Listed without a version: another process is creating it, and it has no rows yet.
                    if list_files(self.uri, f"{name}.lance/data"):
                        raise damaged(self.uri, name, "it has rows, but its list of versions is gone") from None
                    return None
            return self._open[name]

    def _create(self, table: Table, rows: pl.DataFrame) -> Any:
        schema = schema_of(table, rows)
        with self._opening:
            if self.is_remote:
                self._create_remotely(table.name, schema)
                handle = self._database().open_table(table.name)
            else:
                handle = self._database().create_table(table.name, schema=schema, exist_ok=True)
            self._open[table.name] = handle
            return handle

    def _create_remotely(self, name: str, schema: pa.Schema) -> None:
        """Create an empty table in a local folder and upload its files; concurrent calls create it once.

        With LanceDB's own method, a second concurrent call replaces the first table, or fails.
        """
        import lancedb

        with TemporaryDirectory() as folder:
            lancedb.connect(folder).create_table(name, schema=schema)
            # The manifest last, because it makes the table visible.
            publish(
                self.uri, Path(folder) / f"{name}.lance", f"{name}.lance", ["_transactions/*", "_versions/*.manifest"]
            )


def load_library() -> Any:
    """Import LanceDB, which takes more than half a second the first time."""
    os.environ.setdefault("LANCEDB_LOG", "error")
    import lancedb

    return lancedb


def _checked(table: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """The rows that are to be inserted, one for each key, once they are validated."""
    return table.validate(frame.unique(list(table.key), keep="first", maintain_order=True))


def _where(frame: pl.DataFrame, values: pl.Series) -> pl.DataFrame:
    """The rows whose column, named as the values, is one of them. A join would copy nested columns row by row."""
    return frame.filter(pl.col(values.name).is_in(values.implode()))


def _is_conflict(error: RuntimeError) -> bool:
    text = str(error)
    return "commit conflict" in text.lower() or "concurrent writers" in text


def _quoted(values: Sequence[str] | Sequence[int]) -> str:
    return ",".join(str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'" for value in values)
