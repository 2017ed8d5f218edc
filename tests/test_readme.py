"""Every command and every line of Python in the README does what it says, against a real Prefect server."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import httpx
import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.S))
COMMANDS = [line.split("  #")[0].strip() for line in SHELL.splitlines() if line.strip()]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)

SELECTION = {"selected.jsonl", "selected.parquet", "decisions.parquet", "README.md", "manifest.json"}
# What a command leaves in its folder, or the kind of its file.
WRITTEN = {
    "select": SELECTION,
    "export": SELECTION,
    "update": SELECTION | {"added.jsonl", "dropped.jsonl", "CHANGES.md"},
    "train": {"model.safetensors", "config.json", "README.md", "trained.json"},
    "score": {".parquet"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the examples in it, as a newcomer's clone has them."""
    where = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "examples", where / "examples")
    return where


@pytest.fixture(scope="module")
def shell(prefect_server, folder):
    """Runs a command line as a person would, `deita` being this installation's."""

    def run(line: str) -> subprocess.CompletedProcess[str]:
        words = shlex.split(line)
        if words[0] == "deita":
            words = [sys.executable, "-m", "flows.cli", *words[1:]]
        env = {**os.environ, "PREFECT_API_URL": prefect_server, "PYTHONPATH": str(ROOT)}
        return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=300)

    return run


def test_the_readme_names_the_commands_a_newcomer_needs():
    assert {"make demo", "make test"} <= set(COMMANDS)
    assert any(line.startswith("deita select") for line in COMMANDS)


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("make ")])
def test_a_make_target_of_the_readme_is_there(line):
    dry = subprocess.run([*line.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr


def test_the_demo_selects_what_it_is_asked_for(shell, folder):
    dry = subprocess.run(["make", "demo", "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    [line] = [line for line in dry.stdout.splitlines() if " select " in line]
    done = shell("deita " + line.split(" ", 1)[1])
    assert done.returncode == 0, done.stderr
    assert "40 selected of 200 read" in done.stdout
    assert len((folder / "out/demo/selected.jsonl").read_text().splitlines()) == 40


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("deita ")])
def test_a_command_of_the_readme_works(shell, folder, line):
    done = shell(line)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    if "--out" in (words := line.split()):
        out = folder / words[words.index("--out") + 1]
        found = {path.name for path in out.iterdir()} if out.is_dir() else {out.suffix}
        assert found == WRITTEN[words[1]]


@pytest.mark.parametrize("code", PYTHON)
def test_the_python_of_the_readme_runs(code, folder):
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_server_shows_the_runs_and_their_artifacts(shell, prefect_server):
    shell("deita select examples/pool/notes.csv --budget 3 --out out/seen")
    runs = httpx.post(f"{prefect_server}/flow_runs/filter", json={"limit": 5, "sort": "START_TIME_DESC"}).json()
    assert runs[0]["name"] == "select into out/seen"
    assert runs[0]["state_type"] == "COMPLETED"
    of_it = {"artifacts": {"flow_run_id": {"any_": [runs[0]["id"]]}}}
    artifacts = httpx.post(f"{prefect_server}/artifacts/filter", json=of_it).json()
    assert {"selection-counts", "selection-top"} <= {artifact["key"] for artifact in artifacts}
