"""Files that take their places whole: written hidden beside the earlier ones, then moved together."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deita_core.errors import InputError

Write = Callable[[Path], Any]


def check_folder(folder: Path, names: Sequence[str] = ()) -> None:
    """Raise InputError if the folder cannot be made, or files of these names not be written; makes nothing yet."""
    nearest = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    if not nearest.is_dir():
        raise InputError(f"{folder} cannot hold the results: {nearest} is a file; give another folder.")
    if not os.access(nearest, os.W_OK):
        raise InputError(f"{folder} cannot hold the results: {nearest} is not writable; give another folder.")
    if taken := [name for name in names if (folder / name).is_dir()]:
        raise InputError(f"{folder} cannot hold the results: {folder / taken[0]} is a folder; give another folder.")


def prepare_files(folder: Path, files: Mapping[str, Write]) -> list[str]:
    """Write files, hidden, beside those that they are to replace; returns their names. Raises as `check_folder`."""
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
    """Remove files that were prepared and not placed."""
    for name in names:
        partial_path(folder / name).unlink(missing_ok=True)


def place_files(folder: Path, names: Sequence[str], obsolete: Sequence[str] = ()) -> None:
    """Have prepared files take the places of the earlier ones: all of them, or none where that fails.

    The last one named is the first to go and the last to come, so that a folder that has it is complete. The
    `obsolete` files go.
    """
    # A second attempt finds files in their places.
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
    """Where a file is written before it takes its place."""
    return path.with_name(f".{path.name}.partial")


def _before(path: Path) -> Path:
    return path.with_name(f".{path.name}.before")


def place_file(path: Path, write: Write) -> None:
    """Write a file that appears whole or not at all."""
    place_files(path.parent, prepare_files(path.parent, {path.name: write}))
