"""Which files a pool has: links, globs, what is set aside and what is left out."""

import json
import os

import pytest

from deita_core.errors import InputError
from deita_core.reading.finding import find_pool


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """Makes files of these names; the working folder is the one above the pool."""
    monkeypatch.chdir(tmp_path)

    def made(*names):
        for name in names:
            path = tmp_path / "pool" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
        return tmp_path / "pool"

    return made


def found(*paths, **options):
    return [file.removeprefix("pool/") for file in find_pool(list(paths), **options).files]


@pytest.mark.parametrize("path", ["pool", "pool/**", "pool/**/*", "pool/**/*.jsonl", "p*/**/*.jsonl"])
def test_links_are_followed_a_loop_ends_and_a_file_is_found_once(pool, path):
    folder = pool("a.jsonl", "sub/b.jsonl", "sub/deep/c.jsonl")
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "d.jsonl").write_text("{}")
    (folder / "0_link_to_sub").symlink_to(folder / "sub")
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "link.jsonl").symlink_to(folder / "a.jsonl")
    (folder / "out").symlink_to(outside)
    (outside / "back").symlink_to(folder / "sub")
    (folder / "itself").symlink_to(folder / "itself")
    assert found(path) == ["a.jsonl", "out/d.jsonl", "sub/b.jsonl", "sub/deep/c.jsonl"]


def test_a_folder_that_is_a_link_is_searched(pool):
    folder = pool("a.jsonl")
    (folder.parent / "link").symlink_to(folder)
    assert found("link") == ["link/a.jsonl"]
    assert found("pool", "link") == ["a.jsonl"]


def test_a_link_to_nothing_is_set_aside(pool):
    folder = pool("a.jsonl")
    (folder / "gone.jsonl").symlink_to(folder / "nothing")
    result = find_pool("pool")
    assert result.files == ["pool/a.jsonl"]
    assert result.warnings == ["Set aside: pool/gone.jsonl is a link to a file that is not there."]


def test_hidden_files_are_not_found_by_any_glob(pool):
    pool("a.jsonl", ".b.jsonl", ".c/d.jsonl", "e/.f/g.jsonl", "e/h.jsonl")
    assert found("pool") == found("pool/**") == found("pool/**/*.jsonl") == ["a.jsonl", "e/h.jsonl"]


@pytest.mark.parametrize("name", ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"])
def test_metadata_of_a_folder_is_set_aside_and_named_by_itself_it_is_read(pool, name):
    pool("a.jsonl", f"sub/{name}")
    for path in ("pool", "pool/**"):
        result = find_pool(path)
        assert result.files == ["pool/a.jsonl"] and list(result.set_aside) == [f"pool/sub/{name}"]
        assert name in result.warnings[0]
    assert found(f"pool/sub/{name}") == found("pool/sub/*") == [f"sub/{name}"]


def save_to_disk(folder, files, **more):
    state = {"_data_files": [{"filename": file} for file in files], "_split": "train", **more}
    (folder / "state.json").write_text(json.dumps(state))


def test_only_the_data_files_of_a_saved_dataset_are_read(pool):
    folder = pool("train/data-0.arrow", "train/cache-1.arrow", "test/data-0.arrow", "dataset_dict.json")
    save_to_disk(folder / "train", ["data-0.arrow"])
    save_to_disk(folder / "test", ["data-0.arrow"])
    result = find_pool("pool")
    assert result.files == ["pool/test/data-0.arrow", "pool/train/data-0.arrow"]
    assert "is not among the data files of the state.json beside it" in result.set_aside["pool/train/cache-1.arrow"]


def test_a_dataset_with_an_indices_mapping_is_not_read_in_another_order(pool):
    folder = pool("data-0.arrow", "indices.arrow")
    save_to_disk(folder, ["data-0.arrow"], _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(InputError, match=r"save it again after flatten_indices\(\)"):
        find_pool("pool")
    pool("a.jsonl")
    assert found("pool") == ["a.jsonl"]


def test_a_name_that_is_not_utf_8_is_set_aside_in_a_folder_and_refused_by_itself(pool):
    folder = pool("a.jsonl")
    strange = folder / os.fsdecode(b"\xff.jsonl")
    try:
        strange.write_text("{}")
    except OSError:
        pytest.skip("this file system takes no such name")
    result = find_pool("pool")
    assert result.files == ["pool/a.jsonl"] and "rename the file" in result.warnings[0]
    result.warnings[0].encode()
    with pytest.raises(InputError, match="rename the file"):
        find_pool(strange)


NAMES = ("a.jsonl", "test_a.jsonl", "sub/b.jsonl", "sub/raw/c.json", "raw/d.csv")


@pytest.mark.parametrize(
    ("glob", "left"),
    [
        ("*.jsonl", ["raw/d.csv", "sub/raw/c.json"]),
        ("test_*", ["a.jsonl", "raw/d.csv", "sub/b.jsonl", "sub/raw/c.json"]),
        ("raw", ["a.jsonl", "sub/b.jsonl", "test_a.jsonl"]),
        ("raw/", ["a.jsonl", "sub/b.jsonl", "test_a.jsonl"]),
        ("sub/raw", ["a.jsonl", "raw/d.csv", "sub/b.jsonl", "test_a.jsonl"]),
        ("sub/*.jsonl", ["a.jsonl", "raw/d.csv", "sub/raw/c.json", "test_a.jsonl"]),
        ("pool/raw/**", ["a.jsonl", "sub/b.jsonl", "sub/raw/c.json", "test_a.jsonl"]),
        ("pool/sub", ["a.jsonl", "raw/d.csv", "test_a.jsonl"]),
        ("none", sorted(NAMES)),
    ],
)
def test_globs_leave_files_and_folders_out(pool, glob, left):
    folder = pool(*NAMES)
    assert found("pool", leave_out=[glob]) == left
    whole = find_pool(folder, leave_out=[glob]).files
    assert whole == [(folder / name).as_posix() for name in left]


def test_a_folder_above_the_pool_is_not_left_out_by_its_name(pool):
    folder = pool("a.jsonl")
    assert find_pool(folder, leave_out=[folder.parent.name]).files == [(folder / "a.jsonl").as_posix()]


def test_files_named_by_themselves_are_left_out_too(pool):
    pool("a.jsonl", "b.jsonl")
    assert found("pool/a.jsonl", "pool/b.jsonl", leave_out=["b.*"]) == ["a.jsonl"]
    with pytest.raises(InputError, match=r"Nothing remains of the pool without \*\.jsonl; leave out less"):
        find_pool("pool", leave_out=["*.jsonl"])


def test_a_set_aside_file_that_is_left_out_is_not_told_about(pool):
    pool("a.jsonl", "sub/state.json")
    assert find_pool("pool", leave_out=["state.json"]).warnings == []


def test_what_is_named_by_itself_is_known(pool):
    folder = pool("a.jsonl", "b.jsonl", "sub/c.jsonl")
    for name in ("pool/a.jsonl", "./pool/a.jsonl", folder / "a.jsonl"):
        assert find_pool(["pool", name]).named == {"pool/a.jsonl"}
    assert find_pool("pool/*").named == {"pool/a.jsonl", "pool/b.jsonl"}
    assert find_pool("pool/**").named == set()
