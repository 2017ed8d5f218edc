"""Finds the files of a pool: what paths, folders and globs name, each file once, and what is set aside."""

import glob
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from deita_core.errors import InputError, cause
from deita_core.reading.files import ARROW, SUPPORTED
from deita_core.reading.hub import HUB, hub_parts

# Files that `datasets` and other programs put beside the data.
METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
STATE = "state.json"
NOT_UTF8 = "has a name that is not UTF-8, so that no result could say it; rename the file"
INDICES = ("_indices_data_files", "_indices_files")


@dataclass
class Found:
    """The files of a pool in order.

    `named`: those that were named by themselves, not found in a folder. `left_out`: those that the user left out.
    `set_aside`: a sentence, by path, for what was found in a folder and cannot be a pool.
    """

    files: list[str] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    left_out: list[str] = field(default_factory=list)
    set_aside: dict[str, str] = field(default_factory=dict)

    @property
    def warnings(self) -> list[str]:
        """A line for each path that is set aside."""
        return [aside_line(sentence) for sentence in self.set_aside.values()]


def aside_line(sentence: str) -> str:
    """The warning for a file of a folder that is not read, or of which no row could be read."""
    return f"Set aside: {sentence}"


def find_pool(paths: str | Path | Iterable[str | Path], leave_out: Sequence[str] = ()) -> Found:
    """The files that paths, folders and globs name; hf://datasets/... is unchanged.

    Folders and `**` are searched recursively without hidden files. Links are followed, and every file is found once,
    however many links lead to it. A glob of `leave_out` is compared with whole paths, and with any part of a path
    below the folder that was named. Raises InputError if a path names nothing readable.
    """
    found, places = Found(), dict[str, str]()
    for path in map(str, [paths] if isinstance(paths, (str, Path)) else paths):
        new = _under(path)
        for file in new.files:
            place = file if file.startswith(HUB) else os.path.realpath(file)
            if place not in places:
                places[place] = file
                (found.left_out if _is_left_out(file, path, leave_out) else found.files).append(file)
            if file in new.named:
                found.named.add(places[place])
        found.set_aside |= {f: why for f, why in new.set_aside.items() if not _is_left_out(f, path, leave_out)}
    if found.left_out and not found.files:
        raise InputError(f"Nothing remains of the pool without {', '.join(leave_out)}; leave out less.")
    if not found.files:
        raise InputError("No input was named; give a file, a folder, a glob or hf://datasets/ORG/NAME.")
    return found


def _is_left_out(file: str, named: str, leave_out: Sequence[str]) -> bool:
    if file.startswith(HUB):
        return False
    whole = _absolute(file)
    top = _absolute(named)
    below = whole[len(top) :] if whole[: len(top)] == top else ()
    return any(
        _fits(below or whole[-1:], ("**", *PurePath(glob_).parts, "**")) or _fits(whole, (*_absolute(glob_), "**"))
        for glob_ in leave_out
    )


def _absolute(path: str) -> tuple[str, ...]:
    # Links stay as they are named.
    return PurePath(os.path.abspath(path)).parts  # noqa: PTH100


def _under(path: str) -> Found:
    """What one name of a pool stands for."""
    if path.startswith(HUB):
        hub_parts(path)
        return Found([path], {path})
    where = Path(path)
    if where.is_dir():
        found = Found()
        _select(_walk(where, found), found)
    elif where.exists():
        found = _named([where])
    elif "**" in path.split("/"):
        found = Found()
        _select(_matching(path, found), found)
    else:
        # Path.glob does not accept absolute patterns.
        found = _named([Path(match) for match in sorted(glob.glob(path))])  # noqa: PTH207
    if found.files:
        return found
    if found.set_aside:
        raise InputError(f"{path} names no file that can be read: {next(iter(found.set_aside.values()))}")
    problem = "names no file of a supported kind" if where.exists() or glob.glob(path) else "does not exist"  # noqa: PTH207
    raise InputError(f"{path} {problem}; give {', '.join(SUPPORTED)} files, or hf://datasets/ORG/NAME.")


def _named(paths: Iterable[Path]) -> Found:
    files = [path.as_posix() for path in paths if path.name.lower().endswith(SUPPORTED) and path.is_file()]
    if strange := [file for file in files if not _is_utf8(file)]:
        raise InputError(f"{_shown(strange[0])} {NOT_UTF8}.")
    return Found(sorted(files), set(files))


def _select(walked: Iterable[Path], found: Found) -> None:
    """Add the files of a search that can be a pool's; set the others of a supported kind aside."""
    states: dict[Path, dict] = {}
    for path in sorted(path for path in walked if path.name.lower().endswith(SUPPORTED)):
        if why := _why_not(path, states):
            found.set_aside[path.as_posix()] = f"{_shown(path.as_posix())} {why}."
        elif path.is_file():
            found.files.append(path.as_posix())


def _why_not(path: Path, states: dict[Path, dict]) -> str:
    if not _is_utf8(path.as_posix()):
        return NOT_UTF8
    if path.is_symlink() and not path.exists():
        return "is a link to a file that is not there"
    if path.name.lower() in METADATA:
        return "describes a dataset and is no data; name it by itself to read it"
    if not path.name.lower().endswith(ARROW):
        return ""
    state = states.setdefault(path.parent, _state(path.parent))
    if any(state.get(key) for key in INDICES):
        return "belongs to a dataset with an indices mapping; save it again after flatten_indices()"
    files = state.get("_data_files")
    if isinstance(files, list) and path.name not in [file.get("filename") for file in files if isinstance(file, dict)]:
        return f"is not among the data files of the {STATE} beside it"
    return ""


def _state(folder: Path) -> dict:
    """What `datasets.save_to_disk` wrote about a folder; empty if it did not write it."""
    try:
        with (folder / STATE).open(encoding="utf-8") as file:
            state = json.loads(file.read(1 << 20))
    except (OSError, ValueError, RecursionError):
        return {}
    return state if isinstance(state, dict) else {}


def _walk(top: Path, found: Found) -> Iterator[Path]:
    """Files under a folder, without hidden ones; a folder or file that several links lead to once.

    What is really in the folder comes before what links lead to, so that a link added later renames no file.
    Folders that cannot be searched are set aside.
    """
    seen = set[str]()
    folders, linked, late = [top], list[Path](), list[Path]()
    while folders or linked:
        folder = folders.pop() if folders else linked.pop(0)
        if not _is_new(folder, seen):
            continue
        try:
            inside = sorted(folder.iterdir())
        except OSError as error:
            found.set_aside[folder.as_posix()] = f"{_shown(folder.as_posix())} cannot be searched ({cause(error)})."
            continue
        for path in inside:
            if path.name.startswith("."):
                continue
            if path.is_dir():
                (linked if path.is_symlink() else folders).append(path)
            elif path.is_symlink():
                late.append(path)
            elif _is_new(path, seen):
                yield path
    yield from (path for path in late if _is_new(path, seen))


def _is_new(path: Path, seen: set[str]) -> bool:
    place = os.path.realpath(path)
    if place in seen:
        return False
    seen.add(place)
    return True


def _matching(pattern: str, found: Found) -> Iterator[Path]:
    """Files that match a glob with `**`, found as in a folder."""
    parts = PurePath(pattern).parts
    at = parts.index("**")
    for base in sorted(glob.glob(str(PurePath(*parts[:at]))) if at else ["."]):  # noqa: PTH207
        if Path(base).is_dir():
            top = Path(base)
            yield from (path for path in _walk(top, found) if _fits(path.relative_to(top).parts, parts[at:]))


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(path: str) -> str:
    return os.fsencode(path).decode(errors="replace")
