"""Folders that belong to no store: made once, whole or not at all; and the example chains, also in a wheel."""

import os
import signal
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from deita_core.config.folders import cache_folder, example_chains, is_whole, make_once
from deita_core.errors import ModelError
from tests.support.paths import ROOT

# A child that makes a folder of two files, and is killed between them where it is told to be.
MAKER = """
import os, signal, sys
from pathlib import Path
from deita_core.config.folders import make_once

def make(folder):
    print("making", flush=True)
    (folder / "first").write_text("1")
    if "killed" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
    if "slow" in sys.argv:
        sys.stdin.read()
    (folder / "second").write_text("2")

print("ready", flush=True)
make_once(Path(sys.argv[1]), make, "a folder")
"""


def start(folder, *words):
    command = [sys.executable, "-c", MAKER, str(folder), *words]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def fill(folder):
    (folder / "inner").mkdir()
    (folder / "inner" / "file").write_text("words")


def refuse(folder):
    raise AssertionError("made twice")


def test_a_folder_is_made_once(tmp_path):
    make_once(tmp_path / "a" / "b", fill, "a folder")
    make_once(tmp_path / "a" / "b", refuse, "a folder")
    assert (tmp_path / "a" / "b" / "inner" / "file").read_text() == "words"


@pytest.mark.parametrize("damage", ["changed", "deleted", "added", "no list"])
def test_a_folder_that_has_changed_is_made_again(tmp_path, damage):
    folder = tmp_path / "made"
    make_once(folder, fill, "a folder")
    assert is_whole(folder)
    file = folder / "inner" / "file"
    if damage == "changed":
        file.write_text("Words")
    elif damage == "deleted":
        file.unlink()
    elif damage == "added":
        (folder / "model.safetensors").write_text("")
    else:
        (folder / "files.json").write_text("{")
    assert not is_whole(folder)
    make_once(folder, fill, "a folder")
    assert is_whole(folder)
    assert sorted(path.name for path in folder.rglob("*")) == ["file", "files.json", "inner"]


def test_of_two_processes_one_makes_it_and_the_other_waits(tmp_path):
    first = start(tmp_path / "made", "slow")
    assert [first.stdout.readline(), first.stdout.readline()] == ["ready\n", "making\n"]
    second = start(tmp_path / "made")
    assert second.stdout.readline() == "ready\n"
    first.communicate("go on")
    rest, _ = second.communicate(timeout=120)
    assert (first.returncode, second.returncode, rest) == (0, 0, "")
    assert is_whole(tmp_path / "made")


def test_a_kill_half_way_leaves_nothing_that_counts(tmp_path):
    killed = start(tmp_path / "made", "killed")
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "made").exists()
    again = start(tmp_path / "made")
    again.communicate(timeout=120)
    assert again.returncode == 0
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["files.json", "first", "second"]


def test_an_error_while_making_leaves_nothing_that_counts(tmp_path):
    with pytest.raises(AssertionError):
        make_once(tmp_path / "made", refuse, "a folder")
    assert not (tmp_path / "made").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"cannot be written \(.*\); set DEITA_CACHE to a folder with room\.$"):
        make_once(tmp_path / "file" / "made", fill, "a folder")


def test_the_cache_is_where_the_variables_say(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("DEITA_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("DEITA_CACHE")
    assert cache_folder() == tmp_path / "caches" / "deita"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("~/.cache/deita").expanduser()


def test_the_example_chains_of_a_checkout_are_found():
    assert example_chains() == ROOT / "examples" / "evolution"


@pytest.mark.slow
def test_the_example_chains_are_in_a_wheel(tmp_path):
    if find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed, so no wheel can be built here")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "wheel")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = (tmp_path / "wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    program = "from deita_core.config.folders import example_chains; print(example_chains())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    folder = Path(found.stdout.strip())
    assert folder == tmp_path / "installed" / "deita_core" / "examples" / "evolution", found.stderr
    for file in example_chains().glob("*.jsonl"):
        assert (folder / file.name).read_bytes() == file.read_bytes()
