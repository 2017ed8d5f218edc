"""Folders that belong to no store: this machine's cache, and the example chains that come with the program."""

import os
import shutil
import sys
from collections.abc import Callable
from hashlib import file_digest
from pathlib import Path

import orjson
from filelock import FileLock

from deita_core.errors import InputError, ModelError, cause

# The sha256 of every file of a cached folder, written last.
DIGESTS = "files.json"


def cache_folder() -> Path:
    """The folder for what this machine keeps beside stores: DEITA_CACHE, or deita in the user's cache folder."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "deita"
    return Path(os.environ.get("DEITA_CACHE") or caches).expanduser()


def example_chains() -> Path:
    """The folder of the chains in examples/evolution, of an installed wheel or of a checkout."""
    package = Path(__file__).resolve().parents[1]
    places = (package / "examples" / "evolution", package.parent / "examples" / "evolution")
    found = next((folder for folder in places if folder.is_dir()), None)
    if found is None:
        raise InputError(f"The folder {places[1]} with the example chains is not there; install the package again.")
    return found


def make_once(folder: Path, make: Callable[[Path], None], what: str) -> None:
    """Make a folder unless it is there and whole: `make` fills an empty folder, which is then renamed.

    A line on stderr tells the user `what` is made, because it takes time. Of several processes one makes it, and the
    others wait for it. A folder whose files have changed is made again.
    Raises ModelError if it cannot be written.
    """
    if is_whole(folder):
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not is_whole(folder):
                print(f"Making {what}, once on this machine. It is kept in {folder}.", file=sys.stderr)
                _replace(folder, make)
    except OSError as error:
        raise ModelError(
            f"The folder {folder} cannot be written ({cause(error)}); set DEITA_CACHE to a folder with room."
        ) from error


def is_whole(folder: Path) -> bool:
    """True if a folder made by `make_once` has all its files, unchanged."""
    try:
        return orjson.loads((folder / DIGESTS).read_bytes()) == _digests(folder)
    except (OSError, ValueError):
        return False


def _replace(folder: Path, make: Callable[[Path], None]) -> None:
    aside = folder.with_name(f".{folder.name}.partial")
    for old in (aside, folder):
        if old.exists():
            shutil.rmtree(old)
    aside.mkdir()
    make(aside)
    (aside / DIGESTS).write_bytes(orjson.dumps(_digests(aside), option=orjson.OPT_INDENT_2))
    aside.rename(folder)


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / DIGESTS:
            with path.open("rb") as file:
                digests[path.relative_to(folder).as_posix()] = file_digest(file, "sha256").hexdigest()
    return digests
