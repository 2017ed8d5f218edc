"""Classifies the errors that LanceDB, pyarrow and Polars raise for a table: temporary, lasting, or damage."""

import re

import polars as pl
import pyarrow as pa

from deita_core.errors import StoreError, StoreUnavailableError, cause

# Temporary errors of the operating system or object storage. A missing file (2) is damage.
PASSING = re.compile(
    r"os error (?!2\))\d+|Generic (?:S3|GCS|MicrosoftAzure) error|error sending request|timed out|Resources exhausted"
)
# Not permitted, or a read-only file system.
PERMANENT = re.compile(r"os error (?:1|13|30)\)")
# A file on object storage is truncated.
CUT_SHORT = re.compile(r"416 Range Not Satisfiable|InvalidRange")
BEGINNING = re.compile(
    r"^(?:(?:lance error|External error|Invalid input|LanceError\(\w+\)|Query Execution error)[:,] )+"
)
# Position in the library's source.
PLACE = re.compile(r",? \S+\.rs:\d+:\d+")


class DamagedTableError(StoreError):
    """A table cannot be read in full; `reason` is the library's message."""

    reason = ""


def damaged(uri: str, name: str, reason: str) -> DamagedTableError:
    """The error that tells the user how to repair a damaged table."""
    error = DamagedTableError(
        f"Table {name} of {uri} is damaged ({reason}); run deita doctor --store {uri} --repair, which says what would "
        f"be lost before it goes back to the newest whole version."
    )
    error.reason = reason
    return error


def is_of_libraries(error: BaseException) -> bool:
    """True for errors of LanceDB, pyarrow and Polars; False for those of the operating system, which are clear."""
    if isinstance(error, OSError) and error.errno is not None:
        return False
    theirs = (RuntimeError, ValueError, OSError, pa.ArrowException, pl.exceptions.PolarsError)
    # The class of LanceDB's panics cannot be imported.
    return isinstance(error, (*theirs, pl.exceptions.PanicException)) or type(error).__name__ == "RustPanic"


def surroundings(what: str, error: BaseException) -> StoreError | None:
    """The StoreError for a cause outside the table, such as permissions or the network; None if there is none."""
    said, why = str(error), reason(error)
    if CUT_SHORT.search(said):
        return None
    if PERMANENT.search(said):
        return StoreError(f"{what} cannot be used ({why}); check the permissions of its files.")
    if PASSING.search(said) or isinstance(error, (OSError, MemoryError)):
        return StoreUnavailableError(f"{what} cannot be used now ({why}); correct that and run the same command again.")
    return None


def reason(error: BaseException) -> str:
    """A library's message, without positions in its source."""
    first = cause(Exception(PLACE.sub("", BEGINNING.sub("", str(error))) or type(error).__name__))
    return first.rstrip(" .,:")
