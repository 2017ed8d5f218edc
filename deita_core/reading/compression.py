"""Opens files as streams of UTF-8 bytes: decompressed and transcoded while they are read, in bounded memory."""

import bz2
import codecs
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import zstandard

from deita_core.errors import UnreadableFileError

BUFFER = 1 << 16
# Compressed bytes that are decompressed at a time: at most about 40 MB, however well they are compressed.
PIECE = 1 << 10
# What an .xz file may ask its decompressor to hold.
XZ_MEMORY = 256 << 20
# zlib's number for gzip's own header and sum.
GZIP = 31
PACKED = (".gz", ".zst", ".bz2", ".xz")
# What damaged compressed files and archives raise while they are read.
UNPACKING = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)
# The longer mark first: UTF-32 little-endian begins like UTF-16 little-endian.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def without_packing(name: str) -> str:
    """A file's name in lower case, without the ending of its compression."""
    name = name.lower()
    return next((name.removesuffix(ending) for ending in PACKED if name.endswith(ending)), name)


def unpacked(name: str, stream: Any) -> io.BufferedReader:
    """The decompressed bytes of a stream, by the ending of its name."""
    match name.lower().rpartition(".")[2]:
        case "gz":
            raw: Any = _Frames(stream, lambda: zlib.decompressobj(wbits=GZIP), zlib.error)
        case "zst":
            raw = _Frames(stream, lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError)
        case "bz2":
            raw = _Frames(stream, bz2.BZ2Decompressor, OSError)
        case "xz":
            raw = _Frames(stream, lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY), lzma.LZMAError)
        case _:
            if isinstance(stream, io.BufferedReader):
                return stream
            raw = stream
    return io.BufferedReader(raw, BUFFER)


def as_utf8(file: str, stream: io.BufferedReader) -> io.BufferedReader:
    """The stream's text in UTF-8, after its byte order mark. Raises UnreadableFileError if it is no text."""
    head = stream.peek(4)
    for mark, encoding in MARKS:
        if head.startswith(mark):
            stream.read(len(mark))
            return io.BufferedReader(_Transcoded(stream, encoding), BUFFER)
    if unmarked := _unmarked(head[:4]):
        return io.BufferedReader(_Transcoded(stream, unmarked), BUFFER)
    if b"\0" in head[:4]:
        raise UnreadableFileError(f"{file} holds NUL bytes, so it is no text; name text or a file of a supported kind.")
    stream.read(3 if head.startswith(codecs.BOM_UTF8) else 0)
    return stream


def _unmarked(head: bytes) -> str | None:
    """UTF-16 without a mark: its first two characters are ASCII, as in JSON and in a header."""
    zeros = "".join("0" if byte == 0 else "x" for byte in head)
    return {"x0x0": "utf-16-le", "0x0x": "utf-16-be"}.get(zeros)


class _Frames(io.RawIOBase):
    """The content of one or more compressed frames. Unlike some libraries' readers, it refuses a truncated file."""

    def __init__(self, packed: Any, new: Callable[[], Any], failure: type[Exception]) -> None:
        self._packed, self._new, self._failure = packed, new, failure
        self._pending, self._unpacked = b"", memoryview(b"")
        self._frame: Any = None
        self._frames = 0

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._packed.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._unpacked:
            # bzip2 and xz keep what they have not decompressed yet.
            keeps = self._frame is not None and not getattr(self._frame, "needs_input", True)
            data = b"" if keeps else self._pending or self._packed.read(PIECE)
            if not data and not keeps:
                break
            self._unpack(data)
        if not self._unpacked and self._frame:
            raise EOFError("the file ends inside a frame")
        n = min(len(buffer), len(self._unpacked))
        buffer[:n], self._unpacked = self._unpacked[:n], self._unpacked[n:]
        return n

    def _unpack(self, data: bytes) -> None:
        # Zeros may fill up a file after its last frame.
        if self._frame is None and self._frames and not (data := data.lstrip(b"\0")):
            self._pending = b""
            return
        frame = self._frame or self._new()
        try:
            # zlib and zstd are bounded by the piece; a few bytes of bzip2 may be gigabytes.
            most = (BUFFER,) if hasattr(frame, "needs_input") else ()
            self._unpacked = memoryview(frame.decompress(data, *most))
        except (self._failure, EOFError) as error:
            raise OSError(str(error)) from None
        self._pending, self._frame = (frame.unused_data, None) if frame.eof else (b"", frame)
        self._frames += frame.eof


class _Transcoded(io.RawIOBase):
    """A text of another encoding in UTF-8. What is no text in that encoding becomes bytes that are not UTF-8."""

    def __init__(self, stream: Any, encoding: str) -> None:
        self._stream, self._ready, self._ended, self._failure = stream, b"", False, ""
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._ended:
            if self._failure:
                raise OSError(self._failure)
            data = self._stream.read(BUFFER)
            self._ended = not data
            self._ready = self._decoded(data).encode("utf-8", "surrogatepass")
        n = min(len(buffer), len(self._ready))
        buffer[:n], self._ready = self._ready[:n], self._ready[n:]
        return n

    def _decoded(self, data: bytes) -> str:
        try:
            return self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            # Half a character at the end is one more line that is not text; elsewhere nothing after it can be read.
            self._failure = f"it is no text in {error.encoding}" if data else ""
            before = error.object[: error.start].decode(error.encoding, "surrogatepass")
            return before + ("" if data else "\udcff")
