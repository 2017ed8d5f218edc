"""The store: one LanceDB database with everything known about a pool. The only module that imports lancedb."""

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
from filelock import FileLock, Timeout

from deita_core.errors import InputError, StoreError, cause
from deita_core.tables import Table

# Ids in one query's IN list: long enough to be fast, short enough to be parsed at once.
IDS_PER_QUERY = 4_096
# From about here on reading the whole column is faster than asking for its parts.
SCAN_ABOVE = 10 * IDS_PER_QUERY
# Somebody may be reading the version before the last one from a notebook.
KEEP_VERSIONS = timedelta(hours=1)


class Store:
    """A database of samples, vectors, scores, selections and runs in a folder.

    Every write is validated against its table's Pandera model before it is made, is one atomic commit, and adds only
    the rows whose key is not there yet: rows are keyed by content and by the version of the model that made them, so a
    row once written never changes and a repeated write changes nothing.
    """

    def __init__(self, uri: str | Path = ".deita") -> None:
        self.uri = str(uri)
        if "://" in self.uri:
            raise InputError(f"The store {self.uri} is not a folder; this version keeps stores in local folders.")
        self.path = Path(self.uri).expanduser()
        self._lance: Any = None
        self._open: dict[str, Any] = {}
        self._opening = Lock()

    # -- writing

    @contextmanager
    def lock(self, holder: str) -> Iterator[None]:
        """Hold the store for one run. Raises StoreError at once, naming the run, if another holds it."""
        self._make_folder()
        notice = self.path / "lock.json"
        lock = FileLock(self.path / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise StoreError(f"The store {self.uri} is in use by {_read_notice(notice)}; wait for it to end.") from None
        try:
            started = datetime.now(UTC).isoformat(timespec="seconds")
            notice.write_bytes(
                orjson.dumps({"run": holder, "pid": os.getpid(), "host": socket.gethostname(), "started": started})
            )
            yield
        finally:
            notice.unlink(missing_ok=True)
            lock.release()

    def write(self, table: Table, frame: pl.DataFrame) -> int:
        """Validate rows and add those whose key the table lacks, in one commit; returns how many were added."""
        if frame.is_empty():
            return 0
        checked = table.validate(frame.unique(list(table.key), keep="first", maintain_order=True))
        # One writer at a time, over threads and processes: merges that run at once would both insert a new key.
        with self._writing():
            handle = self._of(table) or self._create(table, checked)
            rows = checked.to_arrow().cast(handle.schema)
            result = handle.merge_insert(list(table.key)).when_not_matched_insert_all().execute(rows)
        return int(result.num_inserted_rows)

    def delete(self, table: Table, where: str) -> None:
        """Remove rows by an SQL condition; a missing table has none."""
        if handle := self._handle(table.name):
            with self._writing():
                handle.delete(where)

    def compact(self) -> None:
        """Merge the small files that many writes leave behind and drop versions nothing reads any more."""
        for name in self.tables():
            handle = self._handle(name)
            if handle.stats()["fragment_stats"]["num_fragments"] > 1:
                handle.optimize(cleanup_older_than=KEEP_VERSIONS)

    # -- reading

    def tables(self) -> list[str]:
        """Names of the tables there are."""
        return sorted(self._database().list_tables().tables) if self.path.exists() else []

    def versions(self) -> dict[str, int]:
        """The current version of every table: enough to read exactly this state again until it is compacted."""
        return {name: int(self._handle(name).version) for name in self.tables()}

    def read(self, table: Table, columns: Sequence[str] | None = None, where: str | None = None) -> pl.DataFrame:
        """Rows by an SQL condition; a missing table has none."""
        columns = list(columns or table.empty().columns)
        handle = self._of(table)
        if handle is None:
            return table.empty().select(columns)
        query = handle.search().select(columns)
        if where:
            query = query.where(where)
        return pl.DataFrame(pl.from_arrow(query.to_arrow())).select(columns)

    def count(self, table: Table, where: str | None = None) -> int:
        """Number of rows by an SQL condition."""
        handle = self._handle(table.name)
        return 0 if handle is None else int(handle.count_rows(where))

    def fetch(
        self, table: Table, column: str, values: Sequence[str], columns: Sequence[str] | None = None
    ) -> pl.DataFrame:
        """Rows whose `column` is one of `values`, in no particular order."""
        if len(values) > SCAN_ABOVE:
            return self._scan(table, column, values, list(columns or table.empty().columns))
        values = list(dict.fromkeys(values))
        parts = [
            self.read(table, columns, f"{column} IN ({_quoted(values[start : start + IDS_PER_QUERY])})")
            for start in range(0, len(values), IDS_PER_QUERY)
        ]
        return pl.concat(parts) if parts else table.empty().select(list(columns or table.empty().columns))

    def _scan(self, table: Table, column: str, values: Sequence[str], columns: list[str]) -> pl.DataFrame:
        """As `fetch`, reading all of the column: a batch at a time, of which only the wanted rows are kept."""
        handle = self._of(table)
        wanted = pl.DataFrame({column: values}, schema={column: pl.String}).unique()
        parts = [table.empty().select(columns)]
        if handle is not None:
            query = handle.search().select([*columns, *({column} - set(columns))])
            for batch in query.to_batches():
                rows = pl.DataFrame(pl.from_arrow(batch)).join(wanted, on=column, how="semi")
                parts.append(rows.select(columns))
        return pl.concat(parts)

    def missing(self, table: Table, ids: pl.Series) -> pl.Series:
        """Those of the ids that no row of the table has as the first column of its key, each once, in their order."""
        present = self.read(table, [table.key[0]])[table.key[0]]
        wanted = pl.DataFrame({"id": ids.unique(maintain_order=True)})
        return wanted.join(pl.DataFrame({"id": present.unique()}), on="id", how="anti", maintain_order="left")["id"]

    def vectors(self, table: Table, text_ids: Sequence[str]) -> np.ndarray:
        """Vectors (n, d) float32 of texts, in the order of the ids. Raises StoreError if one is not there."""
        wanted = pl.DataFrame({"text_id": text_ids}, schema={"text_id": pl.String})
        found = self.fetch(table, "text_id", wanted["text_id"].unique().to_list(), ["text_id", "vector"])
        joined = wanted.join(found, on="text_id", how="left", maintain_order="left")
        if lacking := joined["vector"].null_count():
            raise StoreError(f"Table {table.name} lacks {lacking} vectors; run the command again to encode them.")
        return joined["vector"].to_numpy().astype(np.float32, copy=False)

    # -- tables

    def _make_folder(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"The store {self.uri} cannot be a folder ({cause(error)}); give another --store."
            ) from None

    def _writing(self) -> FileLock:
        self._make_folder()
        return FileLock(self.path / "write.lock")

    def _database(self) -> Any:
        if self._lance is None:
            os.environ.setdefault("LANCEDB_LOG", "error")
            import lancedb

            self._make_folder()
            self._lance = lancedb.connect(self.path, read_consistency_interval=timedelta(0))
        return self._lance

    def _of(self, table: Table) -> Any:
        """The table's handle, None where there is none; StoreError if it is not one of ours."""
        handle = self._handle(table.name)
        if handle is not None and set(handle.schema.names) != set(table.empty().columns):
            raise StoreError(
                f"Table {table.name} of {self.uri} is from another program or version; give another store."
            )
        return handle

    def _handle(self, name: str) -> Any:
        with self._opening:
            if name not in self._open:
                if not self.path.exists() or name not in self._database().list_tables().tables:
                    return None
                try:
                    self._open[name] = self._database().open_table(name)
                except ValueError as error:
                    # Listed, but its first version is not there yet: another process is making it.
                    if "was not found" in str(error):
                        return None
                    raise StoreError(f"Table {name} of {self.uri} cannot be read ({cause(error)}).") from None
            return self._open[name]

    def _create(self, table: Table, rows: pl.DataFrame) -> Any:
        fields = [
            pa.field(f.name, f.type, nullable=f.name not in table.key)
            for f in (_plain(field) for field in rows.head(0).to_arrow().schema)
        ]
        with self._opening:
            handle = self._database().create_table(table.name, schema=pa.schema(fields), exist_ok=True)
            self._open[table.name] = handle
            return handle


def _plain(field: pa.Field) -> pa.Field:
    """Polars' large strings and lists as the ordinary ones."""
    return pa.field(field.name, _plain_type(field.type))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, _plain_type(f.type)) for f in kind])
    return kind


def _quoted(values: Sequence[str]) -> str:
    return ",".join("'" + value.replace("'", "''") + "'" for value in values)


def _read_notice(notice: Path) -> str:
    try:
        held: Mapping[str, Any] = orjson.loads(notice.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return "another run"
    return f"run {held['run']} (process {held['pid']} on {held['host']}, since {held['started']})"
