"""How long a command takes, and what it prints, if Prefect's temporary server cannot be used normally.

    python -m benchmarks.startup [--only WORDS] [--limit 400] [--root FOLDER]

Every case runs `deita calibrate` on a few rows with a tiny encoder in a new folder. Prints the case, the seconds until
the command ends, its exit code, the number of its remaining processes, and its last line on stderr.
"""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from uuid import uuid4

import psutil

from benchmarks.tiny import make_tiny_model

ROOT = Path(__file__).resolve().parents[1]
# The variable that identifies the processes of one case.
MARK = "STARTUP_CASE_OF_DEITA"
# Nothing listens there.
DEAD = "127.0.0.1:9"


@dataclass
class Case:
    """The conditions of a case: variables, files in the working directory, and a signal after some seconds."""

    variables: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    end: tuple[signal.Signals, float] | None = None
    prepare: Callable[[Path], None] | None = None


def foreign_database(home: Path) -> None:
    """A prefect.db of an unknown version."""
    home.mkdir()
    with sqlite3.connect(home / "prefect.db") as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES ('0123456789ab')")


def file_as_home(home: Path) -> None:
    """A home in which nothing can be created, even by root."""
    home.write_text("")


def broken_profiles(home: Path) -> None:
    """A profiles.toml that is not valid TOML."""
    home.mkdir()
    (home / "profiles.toml").write_text("active = [\n")


CASES = {
    "undisturbed": Case(),
    "HTTP_PROXY": Case({"HTTP_PROXY": f"http://{DEAD}", "http_proxy": f"http://{DEAD}"}),
    "ALL_PROXY, NO_PROXY of others": Case({"ALL_PROXY": f"http://{DEAD}", "no_proxy": "example.com"}),
    "ALL_PROXY socks5": Case({"ALL_PROXY": f"socks5://{DEAD}"}),
    "ALL_PROXY socks5, NO_PROXY": Case({"ALL_PROXY": f"socks5://{DEAD}", "NO_PROXY": "localhost,127.0.0.1"}),
    "ALL_PROXY socks": Case({"ALL_PROXY": f"socks://{DEAD}"}),
    "prefect.db of another version": Case(prepare=foreign_database),
    "home cannot be written": Case(prepare=file_as_home),
    "random.py in the folder": Case(files={"random.py": "raise SystemExit('not the library')\n"}),
    "queue.py in the folder": Case(files={"queue.py": "x = 1\n"}),
    "server ends at once": Case({"PREFECT_API_DATABASE_CONNECTION_URL": "sqlite+nothing:///x.db"}),
    "named server never answered": Case({"PREFECT_API_URL": f"http://{DEAD}/api"}),
    "no temporary server allowed": Case({"PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false"}),
    "broken profiles.toml": Case(prepare=broken_profiles),
    "broken pyproject.toml": Case(files={"pyproject.toml": "[tool.prefect\n"}),
    "wrong pyproject.toml": Case(files={"pyproject.toml": "[tool.prefect.logging]\nlevel = 'LOUD'\n"}),
    "broken prefect.toml": Case(files={"prefect.toml": "= 3\n"}),
    "wrong .env": Case(files={".env": "PREFECT_LOGGING_LEVEL=LOUD\n"}),
    "wrong PREFECT_LOGGING_LEVEL": Case({"PREFECT_LOGGING_LEVEL": "LOUD"}),
    "ctrl-C after 1 s": Case(end=(signal.SIGINT, 1)),
    "ctrl-C after 4 s": Case(end=(signal.SIGINT, 4)),
    "SIGTERM to the group after 4 s": Case(end=(signal.SIGTERM, 4)),
    "SIGTERM to the group after 12 s": Case(end=(signal.SIGTERM, 12)),
    "SIGKILL to the group after 4 s": Case(end=(signal.SIGKILL, 4)),
}


@dataclass
class Ended:
    """The end of a case."""

    seconds: float
    code: int | None
    left: int
    said: str


def run(case: Case, folder: Path, model: Path, root: Path, limit: float) -> Ended:
    """Run a case in a new folder; its remaining processes are killed."""
    folder.mkdir()
    rows = [{"instruction": f"the quick fox {number}", "output": "runs"} for number in range(4)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, text in case.files.items():
        (folder / name).write_text(text)
    home = folder.with_name(f"{folder.name}-home")
    if case.prepare:
        case.prepare(home)
    mark = uuid4().hex
    usual = {name: value for name, value in os.environ.items() if not re.match("PREFECT_|DEITA_|.*_PROXY$", name, re.I)}
    here = {
        "PREFECT_HOME": str(home),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])),
        "HF_HUB_OFFLINE": "1",
        MARK: mark,
    }
    words = [sys.executable, "-m", "flows.cli", "calibrate", "rows.jsonl", "--encoder", str(model)]
    started = monotonic()
    with (folder.with_name(f"{folder.name}.err")).open("w+") as errors:
        program = subprocess.Popen(
            words,
            cwd=folder,
            env={**usual, **here, **case.variables},
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        try:
            if case.end:
                sleep(case.end[1])
                os.killpg(program.pid, case.end[0])
            code = program.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        seconds = monotonic() - started
        left = _left(mark)
        for process in left:
            process.kill()
        program.wait()
        errors.seek(0)
        lines = errors.read().strip().splitlines()
    return Ended(seconds, code, len(left), f"({len(lines)} lines) {lines[-1]}" if lines else "")


def _left(mark: str) -> list[psutil.Process]:
    """The processes of a case that remain 5 seconds after its end."""
    end = monotonic() + 5
    while left := [process for process in psutil.process_iter() if _is_of(process, mark)]:
        if monotonic() > end:
            break
        sleep(0.2)
    return left


def _is_of(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name has these words in it")
    parser.add_argument("--limit", type=float, default=400, help="seconds after which a case is killed")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the code to run")
    given = parser.parse_args()
    print(f"{'case':<34}{'seconds':>8}{'code':>6}{'left':>6}  stderr ends with")
    with tempfile.TemporaryDirectory() as folder:
        model = make_tiny_model(Path(folder, "model"), seed=0)
        for number, (name, case) in enumerate(CASES.items()):
            if given.only in name:
                ended = run(case, Path(folder, str(number)), model, given.root.resolve(), given.limit)
                code = "limit" if ended.code is None else ended.code
                print(f"{name:<34}{ended.seconds:>8.1f}{code:>6}{ended.left:>6}  {ended.said}", flush=True)


if __name__ == "__main__":
    main()
