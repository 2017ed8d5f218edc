"""The lock that gives one run exclusive use of a store: a file lock in a folder, a lease on object storage."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import orjson
from filelock import FileLock, Timeout

from deita_core.errors import StoreError
from deita_core.store.remote import open_objects, unreachable

if TYPE_CHECKING:
    from obstore.store import ObjectStore

NOTICE = "lock.json"
# Seconds between renewals of the lease, and seconds without renewal after which it expires.
RENEW = 20.0
EXPIRY = 120.0
# Attempts to take a lock that changes meanwhile.
LOOKS = 3

# Remote stores whose lock a run of this process has lost, with the error message.
_lost: dict[str, str] = {}


@dataclass(frozen=True)
class Holder:
    """The run that holds a store, or held it last if `free`."""

    run: str
    pid: int
    host: str
    started: str
    token: str
    beat: int = 0
    free: bool = False

    def __str__(self) -> str:
        return f"run {self.run} (process {self.pid} on {self.host}, since {self.started})"


def this_process(run: str) -> Holder:
    """The holder for a run of this process."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return Holder(run=run, pid=os.getpid(), host=socket.gethostname(), started=started, token=uuid4().hex)


@contextmanager
def folder_lock(folder: Path, uri: str, run: str) -> Iterator[None]:
    """Lock a store in a folder; released when the process ends. Raises StoreError at once if another run holds it."""
    notice, lock = folder / NOTICE, FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise StoreError(f"The store {uri} is in use by {_named(notice)}; wait for it to end.") from None
    try:
        notice.write_bytes(orjson.dumps(this_process(run)))
        yield
    finally:
        notice.unlink(missing_ok=True)
        lock.release()


def _named(notice: Path) -> str:
    try:
        return str(_read_holder(notice.read_bytes()) or "another run")
    except OSError:
        return "another run"


def _read_holder(content: bytes) -> Holder | None:
    try:
        return Holder(**orjson.loads(content))
    except (orjson.JSONDecodeError, TypeError):
        return None


@contextmanager
def object_lock(uri: str, run: str, renew: float = RENEW, expiry: float = EXPIRY) -> Iterator[None]:
    """Lock a store on object storage by a lease: an object that is renewed every `renew` seconds.

    A lease not renewed for `expiry` seconds, by the storage's clock, is taken over. All writes are conditional on the
    version read, so only one of several runs gets the lock. Raises StoreError at once if another run holds the store,
    and at the end if the lock was lost meanwhile; `check_held` raises earlier.
    """
    objects, holder = open_objects(uri), this_process(run)
    version = _take(objects, uri, holder, expiry)
    keeper = _Keeper(objects, uri, holder, version, renew, expiry)
    keeper.start()
    try:
        yield
    finally:
        keeper.end()
        lost = _lost.pop(uri, None)
    if lost:
        raise StoreError(lost)


def check_held(uri: str) -> None:
    """Raise StoreError if a run of this process has lost its lock on a remote store."""
    if uri in _lost:
        raise StoreError(_lost[uri])


class _Found(NamedTuple):
    holder: Holder | None
    version: Any
    written: datetime


def _take(objects: "ObjectStore", uri: str, holder: Holder, expiry: float) -> Any:
    """Take the lock; returns the version of the lock object."""
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

    found = None
    for _ in range(LOOKS):
        try:
            found = _look(objects)
            if found and found.holder and found.holder.token == holder.token:
                # An earlier write succeeded, but its response was lost.
                return found.version
            if found and not _is_free(objects, found, expiry):
                break
            return _put(objects, holder, found.version if found else "create")
        except (AlreadyExistsError, PreconditionError):
            continue
        except (BaseError, OSError) as error:
            raise unreachable(uri, error) from None
    named = found.holder if found and found.holder else "another run"
    left = f"{expiry / 60:.3g} min" if expiry >= 60 else f"{expiry:.3g} s"
    raise StoreError(f"The store {uri} is in use by {named}; wait for it to end, or {left} if it was killed.")


def _is_free(objects: "ObjectStore", found: _Found, expiry: float) -> bool:
    """True if the last holder has released the lock, or its lease has expired."""
    if found.holder and found.holder.free:
        return True
    return _now(objects) - found.written > timedelta(seconds=expiry)


def _now(objects: "ObjectStore") -> datetime:
    """The time of the storage, because clocks of other machines may be wrong."""
    import obstore

    obstore.put(objects, "lock.clock", b"")
    return obstore.head(objects, "lock.clock")["last_modified"]


def _look(objects: "ObjectStore") -> _Found | None:
    import obstore

    try:
        got = obstore.get(objects, NOTICE)
    except FileNotFoundError:
        return None
    return _Found(_read_holder(bytes(got.bytes())), _version(got.meta), got.meta["last_modified"])


def _put(objects: "ObjectStore", holder: Holder, mode: Any) -> Any:
    import obstore

    return _version(obstore.put(objects, NOTICE, orjson.dumps(holder), mode=mode))


def _version(meta: Any) -> dict[str, str]:
    """The condition of a conditional update: the e_tag or the version, depending on the storage."""
    return {name: meta[name] for name in ("e_tag", "version") if meta[name] is not None}


class _Keeper(Thread):
    """Renews a lock object until `end` is called, then releases it."""

    def __init__(
        self, objects: "ObjectStore", uri: str, holder: Holder, version: Any, renew: float, expiry: float
    ) -> None:
        super().__init__(name="deita-lock", daemon=True)
        self._objects, self._uri, self._holder, self._version = objects, uri, holder, version
        self._renew, self._expiry = renew, expiry
        self._ending = Event()
        self._sure_until = monotonic() + expiry

    def run(self) -> None:
        """Renew the lease."""
        while not self._ending.wait(self._renew) and self._uri not in _lost:
            self._write(replace(self._holder, beat=self._holder.beat + 1))

    def end(self) -> None:
        """Release the lock, if it is still held."""
        self._ending.set()
        self.join()
        # Twice: the first attempt fails if the last renewal succeeded but its response was lost.
        for _ in range(2):
            if self._uri not in _lost and not self._holder.free:
                self._write(replace(self._holder, free=True))

    def _write(self, holder: Holder) -> None:
        from obstore.exceptions import BaseError, PreconditionError

        begun = monotonic()
        try:
            self._version = _put(self._objects, holder, self._version)
        except (PreconditionError, FileNotFoundError):
            self._look_again()
        except (BaseError, OSError):
            # Not reachable. The lock is lost only once another run may have taken it over.
            if monotonic() > self._sure_until:
                self._lose("another run that may have taken it over, as it was out of reach")
        else:
            self._holder, self._sure_until = holder, begun + self._expiry

    def _look_again(self) -> None:
        """Find out who wrote the lock: this process, whose response was lost, or a run that took it over."""
        from obstore.exceptions import BaseError

        try:
            found = _look(self._objects)
        except (BaseError, OSError):
            return
        if found and found.holder and found.holder.token == self._holder.token:
            self._version, self._holder = found.version, found.holder
        else:
            self._lose(str(found.holder) if found and found.holder else "nobody, as its lock was deleted")

    def _lose(self, to: str) -> None:
        _lost[self._uri] = f"This run's hold of the store {self._uri} was lost to {to}; run it again to go on."
