"""Every command and every line of Python in README.md and docs/ does what it says, against a real Prefect server.

The blocks ```sh and ```python are run, page by page and from top to bottom, in a fresh copy of the examples. A command
that needs a network, a GPU or another program, or that runs for ever, stands in a ```text block.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from tests.support.commands import Ended, deita, python
from tests.support.paths import ROOT

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
GUIDES = {
    "report",
    "choosing",
    "comparing",
    "filters",
    "strategies",
    "decontamination",
    "growing-pools",
    "scorers",
    "training-scorers",
    "scorer-figures",
    "aligning",
    "proving",
    "evaluating",
    "gpu",
    "scaling",
    "operating",
    "python-api",
    "file-formats",
    "how-it-works",
}
PROSE = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "deployments" / "README.md"]
# Two screens of 50 lines: what a newcomer reads before the first command is run.
README_LINES = 100

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Blocks that nothing runs: output, commands that cannot be run here, and files.
SHOWN = {"text", "yaml", "json"}

SELECTION = {"selected.jsonl", "selected.parquet", "decisions.parquet", "README.md", "manifest.json"}
PICTURED = SELECTION | {"report.html", "scores.svg", "map.svg"}
# What a command leaves in its folder, or the kind of its file.
WRITTEN = {
    "select": PICTURED,
    "export": SELECTION,
    "update": PICTURED | {"added.jsonl", "dropped.jsonl", "CHANGES.md"},
    "train": {"model.safetensors", "config.json", "README.md", "trained.json"},
    "score": {".parquet"},
    "evaluate": {"README.md", "results.json"},
    "compare": {"README.md", "figures.parquet", "subsets.parquet"},
    "pairs": {".jsonl"},
    "align": {"README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"}
    | {"dropped.jsonl", "manifest.json", "metrics.json", "tokenizer.json", "tokenizer_config.json"},
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page in order: language, content."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def commands(page: Path) -> list[str]:
    """The command lines of a page, without what is said beside them."""
    lines = [line for language, content in blocks(page) if language == "sh" for line in content.splitlines()]
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


def programs(page: Path) -> list[tuple[str, str]]:
    """What a page tells to run, in order: "sh" and a command line, or "python" and a program; make targets apart."""
    found: list[tuple[str, str]] = []
    for language, content in blocks(page):
        if language == "python":
            found.append((language, content))
        elif language == "sh":
            lines = [line.split("  #")[0].strip() for line in content.splitlines()]
            found += [(language, line) for line in lines if line and not line.startswith("make ")]
    return found


@pytest.fixture
def clone(tmp_path):
    """A folder with the examples in it, as a newcomer's clone has them."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


@pytest.fixture
def run(prefect_server, clone):
    """Runs a command line or a program in the clone; what it says and its exit code."""

    def run(language: str, text: str) -> Ended:
        if language == "python":
            return python(text, clone)
        [name, *words] = shlex.split(text)
        assert name == "deita"
        return deita(*words, cwd=clone)

    return run


@pytest.mark.parametrize("page", [page for page in PAGES if programs(page)], ids=lambda page: page.stem)
def test_what_a_page_tells_to_run_works(page, run, clone):
    for language, text in programs(page):
        done = run(language, text)
        assert done.returncode == 0, f"{page.name}: {text}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr, f"{page.name}: {text}\n{done.stderr}"
        words = text.split()
        if language == "sh" and "--out" in words:
            out = clone / words[words.index("--out") + 1]
            found = {path.name for path in out.iterdir() if path.is_file()} if out.is_dir() else {out.suffix}
            assert found == WRITTEN[words[1]], f"{page.name}: {text}"


def test_the_demo_prints_what_the_readme_shows(run, clone):
    dry = subprocess.run(["make", "demo", "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    [line] = [line for line in dry.stdout.splitlines() if " select " in line]
    done = run("sh", "deita " + line.split(" ", 1)[1])
    assert done.returncode == 0, done.stderr
    [shown] = [content for language, content in blocks(README) if language == "text" and " of 200 read" in content]
    # Scores differ in their last digits between processors, and long lines are broken by hand.
    told = [sentence for sentence in re.split(r"\n(?=\d+ texts| rank|rejected|Look)", shown) if " rank" not in sentence]
    for sentence in told:
        assert " ".join(sentence.split()) in " ".join(done.stdout.split())
    assert len((clone / "out/demo/selected.jsonl").read_text().splitlines()) == 40


def test_the_readme_is_short_and_names_what_a_newcomer_needs():
    found = commands(README)
    assert {"make demo", "make test"} <= set(found)
    assert any(line.startswith("deita select") for line in found)
    assert len(README.read_text(encoding="utf-8").splitlines()) <= README_LINES


def test_the_guides_are_there_and_the_readme_links_to_each():
    assert {page.stem for page in PAGES[1:]} == GUIDES
    readme = README.read_text(encoding="utf-8")
    assert [guide for guide in sorted(GUIDES) if f"(docs/{guide}.md)" not in readme] == []


@pytest.mark.parametrize("page", PROSE, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_a_page_hides_no_command_from_these_tests_and_links_to_what_is_there(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("\n```") % 2 == 0
    assert {language for language, _ in blocks(page)} <= {"sh", "python", *SHOWN}
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []


def test_the_make_targets_that_are_told_of_are_there():
    told = {line for page in PROSE for line in commands(page) if line.startswith("make ")}
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    told |= {step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step}
    for line in sorted(told):
        dry = subprocess.run([*line.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
        assert dry.returncode == 0, dry.stderr


def test_make_says_which_python_it_needs(tmp_path):
    """A stand-in for an older Python: this one, under an older number."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    older = tmp_path / "python3.10"
    older.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import sys; sys.version_info = (3, 10, 12); exec(sys.argv[1])' \"$2\"\n"
    )
    older.chmod(0o755)
    done = subprocess.run(["make", "demo", f"PYTHON={older}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert (
        f"deita needs Python 3.11 or newer, and {older} is 3.10; name a newer one, such as: make demo PYTHON=python3.12"
        in done.stderr.splitlines()
    )
    assert not (tmp_path / ".venv").exists()


def test_the_server_shows_the_runs_and_their_artifacts(run, prefect_server):
    done = run("sh", "deita select examples/pool/notes.csv --budget 3 --out out/seen")
    assert done.returncode == 0, done.stderr
    runs = httpx.post(f"{prefect_server}/flow_runs/filter", json={"limit": 5, "sort": "START_TIME_DESC"}).json()
    assert runs[0]["name"] == "select into out/seen"
    assert runs[0]["state_type"] == "COMPLETED"
    of_it = {"artifacts": {"flow_run_id": {"any_": [runs[0]["id"]]}}}
    artifacts = httpx.post(f"{prefect_server}/artifacts/filter", json=of_it).json()
    assert {"selection-counts", "selection-top"} <= {artifact["key"] for artifact in artifacts}
