"""Lists, copies and moves the files of a store's tables, for tables that LanceDB can no longer read."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from deita_core.store.remote import is_remote, open_objects, unreachable

# A repair moves damaged files here. LanceDB sees no table, because the name does not end in .lance.
ASIDE = "damaged"


def list_files(uri: str, under: str) -> list[str]:
    """Paths of the files in a folder of the store, relative to the store, sorted."""
    if is_remote(uri):
        import obstore

        with _reaching(uri):
            listed = obstore.list(open_objects(uri), prefix=f"{under}/").collect()
        return sorted(str(file["path"]) for file in listed)
    store = Path(uri).expanduser()
    return sorted(path.relative_to(store).as_posix() for path in (store / under).rglob("*") if path.is_file())


def move_files(uri: str, paths: Sequence[str], into: str) -> None:
    """Move files one by one into a folder of the store, keeping their relative paths."""
    for path in paths:
        if is_remote(uri):
            import obstore

            with _reaching(uri):
                obstore.rename(open_objects(uri), path, f"{into}/{path}")
        else:
            target = Path(uri).expanduser() / into / path
            target.parent.mkdir(parents=True, exist_ok=True)
            (Path(uri).expanduser() / path).replace(target)


def delete_folder(uri: str, folder: str) -> None:
    """Delete a folder of the store, if it exists."""
    if not is_remote(uri):
        place = Path(uri).expanduser() / folder
        if place.exists():
            shutil.rmtree(place)
        return
    import obstore

    for path in list_files(uri, folder):
        with _reaching(uri):
            obstore.delete(open_objects(uri), path)


@contextmanager
def at_hand(uri: str, folder: str) -> Iterator[Path]:
    """A local path of a folder of the store; for a remote store a temporary copy, deleted afterwards."""
    if not is_remote(uri):
        yield Path(uri).expanduser() / folder
        return
    import obstore

    with TemporaryDirectory() as copy:
        for path in list_files(uri, folder):
            target = Path(copy) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with _reaching(uri), target.open("wb") as file:
                for piece in obstore.get(open_objects(uri), path).stream():
                    file.write(piece)
        yield Path(copy) / folder


@contextmanager
def _reaching(uri: str) -> Iterator[None]:
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as error:
        raise unreachable(uri, error) from None
