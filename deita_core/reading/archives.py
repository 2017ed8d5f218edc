"""Reads the text files in zip and tar archives, one after the other; nothing is unpacked to disk."""

import io
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deita_core.errors import UnreadableFileError, cause
from deita_core.reading.compression import UNPACKING, unpacked
from deita_core.reading.files import ARCHIVES, SUPPORTED, TABLES, broken_from, text_rows
from deita_core.reading.finding import METADATA
from deita_core.reading.rows import Reject, Row

# Separates an archive's path from the path of a file in it.
INSIDE = "!/"
# Bytes of a tar header that holds a long name or attributes.
MAX_HEADER = 1 << 20
SHORT = {".tgz": ".gz", ".tbz2": ".bz2", ".txz": ".xz"}
LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE
)  # fmt: skip


def archive_parts(file: str) -> Iterator[tuple[str, Iterator[Row | Reject]]]:
    """The rows of each text file in an archive, with its place: ARCHIVE!/PATH. Each must be read before the next.

    Files of other kinds, hidden ones and metadata are skipped. Damage ends the archive with a reject.
    """
    try:
        members = _zip_members(file) if file.lower().endswith(".zip") else _tar_members(file)
        for name, stream in members:
            if _is_data(name):
                place = f"{file}{INSIDE}{name}".encode(errors="replace").decode()
                yield place, _member_rows(place, stream)
    except UNPACKING as error:
        yield file, iter([broken_from(0, error)])


def _is_data(name: str) -> bool:
    parts = name.lower().split("/")
    if any(part.startswith(".") or part == "__macosx" for part in parts) or parts[-1] in METADATA:
        return False
    return parts[-1].endswith(SUPPORTED)


def _member_rows(place: str, stream: Any) -> Iterator[Row | Reject]:
    if place.lower().endswith((*TABLES, *ARCHIVES)):
        problem = "Parquet, Arrow and archives are not read inside an archive; unpack it"
        yield Reject(1, "unsupported_content", problem)
        return
    line = 0
    try:
        for row in text_rows(place, stream):
            line = row.line
            yield row
    except UnreadableFileError as error:
        yield Reject(line + 1, "unsupported_content", str(error).removesuffix("."))
    except UNPACKING as error:
        yield broken_from(line, error)


def _zip_members(file: str) -> Iterator[tuple[str, Any]]:
    try:
        archive = zipfile.ZipFile(file)
    except (*UNPACKING, NotImplementedError) as error:
        raise UnreadableFileError(f"{file} is not a whole zip archive ({cause(error)}); write it again.") from None
    with archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            try:
                stream: Any = archive.open(member)
            # What zipfile raises for encrypted members and unknown compression.
            except (RuntimeError, NotImplementedError) as error:
                stream = _Unreadable(error)
            yield member.filename, stream


class _Unreadable(io.RawIOBase):
    """A member that cannot be opened, and says so when it is read."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        raise OSError(cause(self._error))


def _tar_members(file: str) -> Iterator[tuple[str, Any]]:
    ending = next((full for short, full in SHORT.items() if file.lower().endswith(short)), "")
    with io.BufferedReader(io.FileIO(file)) as packed, _tar(file, unpacked(file + ending, packed)) as archive:
        while (member := archive.next()) is not None:
            # tarfile would keep the headers of all members.
            archive.members = []  # type: ignore[attr-defined]
            if member.isreg() and (stream := archive.extractfile(member)):
                yield member.name, stream
        if not archive.tarinfo.complete:  # type: ignore[attr-defined]
            raise EOFError("the archive has no end")


@contextmanager
def _tar(file: str, stream: Any) -> Iterator[tarfile.TarFile]:
    class Header(_Header):
        complete = False

    try:
        archive = tarfile.TarFile.open(fileobj=stream, mode="r|", tarinfo=Header, ignore_zeros=True)
    except UNPACKING as error:
        raise UnreadableFileError(f"{file} is not a tar archive ({cause(error)}); write it again.") from None
    with archive:
        yield archive


class _Header(tarfile.TarInfo):
    """A member's header. `complete` says whether the last one read was the mark of the archive's end."""

    complete = False

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        try:
            header = super().frombuf(buf, encoding, errors)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            # tarfile skips a damaged header, and what belongs to it, in silence.
            raise OSError(f"a header of the archive is damaged: {cause(error)}") from None
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            cls.complete = True
            raise
        if header.type in LONG_HEADERS and header.size > MAX_HEADER:
            raise OSError(f"a header of the archive has {header.size:,} bytes")
        cls.complete = False
        return header
