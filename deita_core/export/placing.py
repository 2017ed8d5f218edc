"""Replaces files atomically: new files are written under hidden names, then all are renamed."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deita_core.errors import InputError

Write = Callable[[Path], Any]


def check_folder(folder: Path, names: Sequence[str] = ()) -> None:
    """Raise InputError if the folder cannot be created, or the named files cannot be written; creates nothing."""
    nearest = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    if not nearest.is_dir():
        raise InputError(f"{folder} cannot hold the results: {nearest} is a file; give another folder.")
    if not os.access(nearest, os.W_OK):
        raise InputError(f"{folder} cannot hold the results: {nearest} is not writable; give another folder.")
    if taken := [name for name in names if (folder / name).is_dir()]:
        raise InputError(f"{folder} cannot hold the results: {folder / taken[0]} is a folder; give another folder.")


def prepare_files(folder: Path, files: Mapping[str, Write]) -> list[str]:
    """Write files under hidden names beside those they will replace; returns their names. Raises as `check_folder`."""
    check_folder(folder, list(files))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name, write in files.items():
            write(partial_path(folder / name))
    except BaseException:
        drop_prepared(folder, list(files))
        raise
    return list(files)


def drop_prepared(folder: Path, names: Sequence[str]) -> None:
    """Delete files that were prepared but not placed."""
    for name in names:
        partial_path(folder / name).unlink(missing_ok=True)


def place_files(folder: Path, names: Sequence[str], obsolete: Sequence[str] = ()) -> None:
    """Replace earlier files with the prepared ones: all of them, or none if that fails.

    The last file named is removed first and placed last, so that a folder with it is complete. The `obsolete` files
    are deleted.
    """
    # A second attempt finds files already placed.
    due = [name for name in names if partial_path(folder / name).exists() or not (folder / name).exists()]
    old = [name for name in [*reversed(due), *obsolete] if (folder / name).exists()]
    moves = [(folder / name, _before(folder / name)) for name in old]
    moves += [(partial_path(folder / name), folder / name) for name in due]
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            source.replace(target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            target.replace(source)
        raise
    for name in [*names, *obsolete]:
        _before(folder / name).unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """The hidden path a file is written to before it is placed."""
    return path.with_name(f".{path.name}.partial")


def _before(path: Path) -> Path:
    return path.with_name(f".{path.name}.before")


def place_file(path: Path, write: Write) -> None:
    """Write a file atomically."""
    place_files(path.parent, prepare_files(path.parent, {path.name: write}))
