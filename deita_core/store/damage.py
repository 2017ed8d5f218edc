"""What LanceDB, pyarrow and Polars raise over a table of the store: trouble that may pass, or damage."""

import re

import polars as pl
import pyarrow as pa

from deita_core.errors import StoreError, StoreUnavailableError, cause

# What the operating system or object storage says; that a file is not there (2) is damage.
PASSING = re.compile(
    r"os error (?!2\))\d+|Generic (?:S3|GCS|MicrosoftAzure) error|error sending request|timed out|Resources exhausted"
)
# Not permitted, and a file system that is read only.
LASTING = re.compile(r"os error (?:1|13|30)\)")
# Object storage that has a file, but not all of it.
CUT_SHORT = re.compile(r"416 Range Not Satisfiable|InvalidRange")
BEGINNING = re.compile(
    r"^(?:(?:lance error|External error|Invalid input|LanceError\(\w+\)|Query Execution error)[:,] )+"
)
# Where in the library's source it was noticed.
PLACE = re.compile(r",? \S+\.rs:\d+:\d+")


class DamagedTableError(StoreError):
    """A table that cannot be read in full, whatever is asked of it; `reason` is what the library says."""

    reason = ""


def damaged(uri: str, name: str, reason: str) -> DamagedTableError:
    """The error that says what to do about a damaged table."""
    error = DamagedTableError(
        f"Table {name} of {uri} is damaged ({reason}); run deita doctor --store {uri} --repair, which says what would "
        f"be lost before it goes back to the newest whole version."
    )
    error.reason = reason
    return error


def is_of_libraries(error: BaseException) -> bool:
    """True for what LanceDB, pyarrow and Polars raise; the operating system's own errors speak for themselves."""
    if isinstance(error, OSError) and error.errno is not None:
        return False
    theirs = (RuntimeError, ValueError, OSError, pa.ArrowException, pl.exceptions.PolarsError)
    # LanceDB's panics have a class that cannot be imported.
    return isinstance(error, (*theirs, pl.exceptions.PanicException)) or type(error).__name__ == "RustPanic"


def surroundings(what: str, error: BaseException) -> StoreError | None:
    """The error that says what hinders the use of a table that may be whole; None if nothing of the kind does."""
    said, why = str(error), reason(error)
    if CUT_SHORT.search(said):
        return None
    if LASTING.search(said):
        return StoreError(f"{what} cannot be used ({why}); check the permissions of its files.")
    if PASSING.search(said) or isinstance(error, (OSError, MemoryError)):
        return StoreUnavailableError(f"{what} cannot be used now ({why}); correct that and run the same command again.")
    return None


def reason(error: BaseException) -> str:
    """What a library says, without where in its source it says so."""
    first = cause(Exception(PLACE.sub("", BEGINNING.sub("", str(error))) or type(error).__name__))
    return first.rstrip(" .,:")
