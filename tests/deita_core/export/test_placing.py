import os

import pytest

from deita_core.errors import InputError
from deita_core.export.placing import check_folder, drop_prepared, place_file, place_files, prepare_files

NAMES = ("a.txt", "b.txt", "last.txt")


def writes(text):
    return {name: (lambda path, name=name: path.write_text(f"{text} {name}")) for name in NAMES}


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def whole(text):
    return {name: f"{text} {name}" for name in NAMES}


@pytest.fixture
def folder(tmp_path):
    place_files(tmp_path, prepare_files(tmp_path, writes("old")))
    (tmp_path / "extra.txt").write_text("of the old ones")
    return tmp_path


def test_placed_files_replace_the_earlier_ones_and_obsolete_ones_go(folder):
    place_files(folder, prepare_files(folder, writes("new")), obsolete=["extra.txt", "never there.txt"])
    assert contents(folder) == whole("new")


def test_prepared_files_change_nothing_until_they_are_placed(folder):
    prepare_files(folder, writes("new"))
    assert {name: text for name, text in contents(folder).items() if not name.startswith(".")} == {
        **whole("old"),
        "extra.txt": "of the old ones",
    }


@pytest.mark.parametrize("broken", range(7))
def test_a_move_that_fails_puts_back_all_that_was_moved(folder, monkeypatch, broken):
    names = prepare_files(folder, writes("new"))
    before, moves = contents(folder), []
    replace = os.replace

    def failing(source, target, **more):
        moves.append(source)
        if len(moves) == broken + 1:
            raise OSError(28, "No space left on device")
        return replace(source, target, **more)

    # Below pathlib, which every move goes through.
    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="No space left"):
        place_files(folder, names, obsolete=["extra.txt"])
    assert contents(folder) == before
    monkeypatch.setattr(os, "replace", replace)
    place_files(folder, names, obsolete=["extra.txt"])
    assert contents(folder) == whole("new")


def test_files_that_are_in_their_places_already_may_be_placed_again(folder):
    names = prepare_files(folder, writes("new"))
    for _ in range(2):
        place_files(folder, names, obsolete=["extra.txt"])
        assert contents(folder) == whole("new")


def test_a_placing_that_was_killed_is_carried_out_by_the_next(folder):
    names = prepare_files(folder, writes("new"))
    # As a kill leaves it: the old ones aside, one new one in its place.
    for name in NAMES:
        (folder / name).rename(folder / f".{name}.before")
    (folder / ".a.txt.partial").rename(folder / "a.txt")
    place_files(folder, names, obsolete=["extra.txt"])
    assert contents(folder) == whole("new")


def test_a_file_that_cannot_be_written_leaves_none_prepared(folder):
    before = contents(folder)

    def full(path):
        path.write_text("hal")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        prepare_files(folder, {**writes("new"), "last.txt": full})
    assert contents(folder) == before
    with pytest.raises(OSError, match="No space left"):
        place_file(folder / "a.txt", full)
    assert contents(folder) == before


def test_dropping_what_was_prepared_leaves_the_rest(folder):
    before = contents(folder)
    drop_prepared(folder, prepare_files(folder, writes("new")))
    assert contents(folder) == before


def test_a_folder_that_cannot_hold_the_files_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "out" / "a.txt").mkdir(parents=True)
    with pytest.raises(InputError, match="file is a file; give another folder"):
        check_folder(tmp_path / "file")
    with pytest.raises(InputError, match=r"a\.txt is a folder; give another folder"):
        check_folder(tmp_path / "out", NAMES)
    check_folder(tmp_path / "new" / "deep", NAMES)
    assert not (tmp_path / "new").exists()
