"""Reads the rows of Parquet and Arrow files, with values of every Arrow type."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

import pyarrow
from pyarrow import ipc
from pyarrow.parquet import ParquetFile

from deita_core.errors import UnreadableFileError, cause
from deita_core.reading.delimited import check_names
from deita_core.reading.lines import CHUNK
from deita_core.reading.rows import Reject, Row

BATCH = 512
# Rows that become Python objects at once: more would outlive a pass of Python's collector, which then takes longer.
PIECE = 64
UNREADABLE = (pyarrow.ArrowException, ValueError, OSError)
# What pyarrow raises for a value that Python cannot hold: a year above 9999, an unknown time zone, invalid text.
UNHOLDABLE = (pyarrow.ArrowException, ValueError, OverflowError, LookupError, TypeError, NotImplementedError)
EPOCH = datetime(1970, 1, 1)
MS_OF_A_DAY = 86_400_000
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


class ArrowValue:
    """A value without a counterpart in Python, in writing. It is given back as text, but is no conversation's text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


def parquet_rows(file: str) -> Iterator[Row | Reject]:
    """The rows of a Parquet file. Raises UnreadableFileError if it is not one."""
    try:
        # Without buffer_size, a whole column of a row group would be held in memory.
        opened = ParquetFile(file, pre_buffer=False, buffer_size=CHUNK)
        # Threads cost more than they save on batches of this size.
        batches = opened.iter_batches(BATCH, use_threads=False)
    except UNREADABLE as error:
        raise UnreadableFileError(f"{file} is not a whole Parquet file ({cause(error)}); write it again.") from None
    check_names(file, opened.schema_arrow.names)
    return _numbered(batches, "broken_parquet")


def arrow_rows(file: str) -> Iterator[Row | Reject]:
    """The rows of an Arrow IPC or Feather file, or of a stream in a file. Raises UnreadableFileError."""
    try:
        source = pyarrow.OSFile(file)
        magic = source.read(6)
        source.seek(0)
        if magic[:4] == b"FEA1":
            raise UnreadableFileError(f"{file} is Feather of version 1; write it again as version 2.")
        opened = ipc.open_file(source) if magic == b"ARROW1" else ipc.open_stream(source)
        names = opened.schema.names
    except UNREADABLE as error:
        raise UnreadableFileError(f"{file} is not a whole Arrow file ({cause(error)}); write it again.") from None
    check_names(file, names)
    batches = map(opened.get_batch, range(opened.num_record_batches)) if magic == b"ARROW1" else iter(opened)
    return _numbered(chain.from_iterable(map(_pieces, batches)), "broken_arrow")


def _pieces(batch: Any) -> Iterator[Any]:
    # Offsets that point outside the data would be read without a check.
    for column in batch.columns:
        _check(column)
    return (batch.slice(start, BATCH) for start in range(0, len(batch), BATCH))


def _check(column: Any) -> None:
    """Raise ArrowInvalid for offsets outside the data. Text may be of any bytes: each is checked by itself later."""
    try:
        column.validate(full=True)
    except pyarrow.ArrowInvalid:
        if pyarrow.types.is_string(column.type):
            column.view(pyarrow.binary()).validate(full=True)
        elif pyarrow.types.is_large_string(column.type):
            column.view(pyarrow.large_binary()).validate(full=True)
        else:
            raise


def _numbered(batches: Iterator[Any], reason: str) -> Iterator[Row | Reject]:
    line = 0
    try:
        for line, row in enumerate(chain.from_iterable(map(_rows, batches)), 1):
            yield Row(line, row)
    except UNREADABLE as error:
        yield Reject(line + 1, reason, f"from row {line + 1} on nothing can be read: {cause(error)}")


def _rows(batch: Any) -> Iterator[dict[str, object]]:
    names = batch.schema.names
    if not names:
        yield from [{}] * len(batch)
    for start in range(0, len(batch), PIECE):
        columns = [_values(column) for column in batch.slice(start, PIECE).columns]
        for values in zip(*columns, strict=True):
            yield dict(zip(names, values, strict=True))


def _values(column: Any) -> list[object]:
    """A column's values as Python holds them, or in writing where it cannot without losing digits."""
    if _has_nanoseconds(column.type):
        return [_value(scalar) for scalar in column]
    try:
        return column.to_pylist()
    except UNHOLDABLE:
        return [_value(scalar) for scalar in column]


def _has_nanoseconds(kind: Any) -> bool:
    if getattr(kind, "unit", None) == "ns" and not pyarrow.types.is_interval(kind):
        return True
    inner = [kind.field(i).type for i in range(kind.num_fields)]
    for name in ("value_type", "storage_type"):
        part = getattr(kind, name, None)
        inner += [part] if isinstance(part, pyarrow.DataType) else []
    return any(map(_has_nanoseconds, inner))


def _value(scalar: Any) -> object:
    if not scalar.is_valid:
        return None
    kind, types = scalar.type, pyarrow.types
    if types.is_struct(kind):
        values = [(kind.field(i).name, _value(scalar[i])) for i in range(kind.num_fields)]
        # Fields of one name would replace each other.
        return dict(values) if len(dict(values)) == len(values) else [list(pair) for pair in values]
    if types.is_map(kind):
        return [[_value(pair["key"]), _value(pair["value"])] for pair in scalar.values]
    if hasattr(scalar, "values") and not types.is_dictionary(kind):
        return [_value(member) for member in scalar.values]
    if isinstance(scalar.value if hasattr(scalar, "value") else None, pyarrow.Scalar):
        # Dictionaries, unions, run-end encoding and extension types wrap another value.
        return _wrapped(scalar)
    if getattr(kind, "unit", None) in PER_SECOND:
        return _moment(scalar)
    return _or_written(scalar.as_py, scalar)


def _wrapped(scalar: Any) -> object:
    if isinstance(scalar, pyarrow.ExtensionScalar) and not _has_nanoseconds(scalar.type):
        return _or_written(scalar.as_py, scalar.value)
    return _value(scalar.value)


def _or_written(as_python: Callable[[], object], scalar: Any) -> object:
    try:
        return as_python()
    except UNHOLDABLE:
        if hasattr(scalar, "as_buffer"):
            return scalar.as_buffer().to_pybytes()
        if not pyarrow.types.is_date(scalar.type):
            raise
        days = scalar.value if pyarrow.types.is_date32(scalar.type) else scalar.value // MS_OF_A_DAY
        return ArrowValue(f"{days} days since 1970-01-01")


def _moment(scalar: Any) -> object:
    """A time, a date and time, or a duration: as Python's own, if it loses no digit."""
    unit, number = scalar.type.unit, scalar.value
    if unit == "ns" and number % 1_000:
        return _written(scalar)
    try:
        return _in_microseconds(scalar, number * 10**6 // PER_SECOND[unit])
    except UNHOLDABLE:
        return _written(scalar)


def _written(scalar: Any) -> ArrowValue:
    unit, number, zone = scalar.type.unit, scalar.value, getattr(scalar.type, "tz", None)
    if pyarrow.types.is_duration(scalar.type):
        return ArrowValue(f"{number} {unit}")
    seconds, rest = divmod(number, PER_SECOND[unit])
    fraction = f".{rest:0{len(str(PER_SECOND[unit])) - 1}}" if rest else ""
    suffix = f"Z[{zone}]" if zone else ""
    try:
        whole = (EPOCH + timedelta(seconds=seconds)).isoformat()
    except OverflowError:
        return ArrowValue(f"{number} {unit} since 1970-01-01T00:00:00{suffix}")
    return ArrowValue((whole[11:] if pyarrow.types.is_time(scalar.type) else whole) + fraction + suffix)


def _in_microseconds(scalar: Any, number: int) -> object:
    kind = scalar.type
    if pyarrow.types.is_time(kind):
        return (EPOCH + timedelta(microseconds=number)).time()
    if pyarrow.types.is_duration(kind):
        return timedelta(microseconds=number)
    if kind.tz is None:
        return EPOCH + timedelta(microseconds=number)
    return pyarrow.scalar(number, pyarrow.timestamp("us", kind.tz)).as_py()
