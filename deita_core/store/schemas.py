"""The Arrow schemas of the store's tables, as LanceDB keeps them."""

import polars as pl
import pyarrow as pa

from deita_core.tables import Table

# Lance's metadata for key columns.
PRIMARY_KEY = "lance-schema:unenforced-primary-key"


def schema_of(table: Table, rows: pl.DataFrame) -> pa.Schema:
    """The schema of a table with rows like these.

    The key is marked, so that of two concurrent merges with the same new key LanceDB retries the later one.
    """
    fields = [_plain(field) for field in rows.head(0).to_arrow().schema]
    return pa.schema([_key(f, table.key.index(f.name)) if f.name in table.key else f for f in fields])


def _key(field: pa.Field, place: int) -> pa.Field:
    marks = {PRIMARY_KEY: "true", f"{PRIMARY_KEY}:position": str(place + 1)}
    return pa.field(field.name, field.type, nullable=False, metadata=marks)


def _plain(field: pa.Field) -> pa.Field:
    """The field with Polars' large strings and lists as the ordinary types."""
    return pa.field(field.name, _plain_type(field.type))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, _plain_type(f.type)) for f in kind])
    return kind
