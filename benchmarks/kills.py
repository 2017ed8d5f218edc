"""Kills runs at random points of every stage, resumes them, and checks that the result is that of undisturbed runs.

    python -m benchmarks.kills [--kills 100] [--rows 5000] [--each 4] [--seed 0]

Each story, in a new store, is a selection, an addition of one file to three, and an update. Runs are killed (SIGKILL)
while they read, encode, score, select, or write and compact. The next run resumes and is killed too, until the last one
finishes. Then its files must equal those of the undisturbed runs byte for byte, every table must be readable and valid
and have unique keys, and data in the store at the last kill must not be encoded or scored again. Ends with an error at
the first difference.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from threading import Timer
from time import sleep

import httpx
import orjson

from benchmarks.tiny import DIM, WORDS, make_head, make_tiny_model
from deita_core.literals import AXES
from deita_core.store import Store
from deita_core.tables import (
    DECISIONS,
    PLANS,
    REJECTS,
    REMOVALS,
    SAMPLES,
    SNAPSHOTS,
    SOURCES,
    Table,
    scores_table,
    vectors_table,
)

ROOT = Path(__file__).resolve().parents[1]
SCORING = "scoring complexity and quality"
STAGES = ("reading", "encoding", SCORING, "selecting", "writing", "publishing")
# Stages whose work a later run does not repeat.
KEPT = {"reading", "encoding", SCORING}
FILES = ("selected.jsonl", "decisions.parquet")
FIXED = {table.name: table for table in (SAMPLES, SOURCES, REJECTS, PLANS, DECISIONS, SNAPSHOTS, REMOVALS)}
DONE = re.compile(r"^(.+): (?:[\d,]+ )?done in ([\d.]+) s")
TOLD = re.compile(r"([\d,]+) texts encoded, ([\d,]+) turns scored")


# The files of an undisturbed command, and the seconds of its stages.
Known = tuple[list[bytes], dict[str, float]]


@dataclass
class Ended:
    """The end of a run: seconds of the finished stages, its output, and whether it was killed."""

    stages: dict[str, float]
    printed: str
    killed: bool


@dataclass
class Commands:
    """The `deita` command in a folder, reporting to a server; `shows` its stages as they end."""

    folder: Path
    server: str
    shows: bool = False

    def run(self, words: list[str], kill: tuple[str, float] | None = None) -> Ended:
        """Run it; kill it a number of seconds after the start of a stage. Raises AssertionError if it fails."""
        env = {**os.environ, "PREFECT_API_URL": self.server, "PYTHONPATH": str(ROOT)}
        line = [sys.executable, "-m", "flows.cli", *words]
        program = subprocess.Popen(
            line,
            cwd=self.folder,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        stages: dict[str, float] = {}
        errors, timer = [], _timer(program, kill, STAGES[0])
        for said in program.stderr or ():
            errors.append(said)
            if self.shows:
                print(f"  {said.rstrip()}", flush=True)
            if (found := DONE.match(said)) and found[1] in STAGES:
                stages[found[1]] = float(found[2])
                timer = timer or _timer(program, kill, STAGES[min(STAGES.index(found[1]) + 1, len(STAGES) - 1)])
        printed = program.stdout.read() if program.stdout else ""
        killed = program.wait() == -signal.SIGKILL
        if timer:
            timer.cancel()
        assert killed or program.returncode == 0, "".join(errors)
        return Ended(stages, printed, killed)


def _timer(program: "subprocess.Popen[str]", kill: tuple[str, float] | None, stage: str) -> Timer | None:
    if kill is None or kill[0] != stage:
        return None
    timer = Timer(kill[1], lambda: os.killpg(program.pid, signal.SIGKILL) if program.poll() is None else None)
    timer.start()
    return timer


# -- pool, models and server


def write_pool(folder: Path, rows: int, seed: int) -> None:
    """Write rows of random words to four files, with exact duplicates and unreadable rows."""
    draw = random.Random(seed)
    words = [word for word in WORDS if word.isascii() and word.isalnum()]
    lines = []
    for number in range(rows):
        asked = " ".join(draw.choices(words, k=draw.randint(5, 20)))
        row = {"instruction": f"{asked}?", "output": " ".join(draw.choices(words, k=draw.randint(4, 40))), "n": number}
        lines.append(orjson.dumps(row))
        if number % 50 == 0:
            lines[-1] = b'{"instruction": "cut'
        elif number % 20 == 0 and number > 20:
            lines[-1] = lines[-2]
    folder.mkdir(parents=True)
    for part in range(4):
        (folder / f"{part}.jsonl").write_bytes(b"\n".join(lines[part::4]) + b"\n")


def make_models(folder: Path) -> list[str]:
    """Make a tiny encoder and heads with random weights for it; returns the options that name them."""
    encoder = make_tiny_model(folder / "tiny")
    options = ["--encoder", str(encoder)]
    for axis in AXES:
        options += [f"--{axis}-scorer", str(make_head(folder / axis, axis, encoder))]
    return options


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Start a Prefect server with its own database; yields its address."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    line = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    program = subprocess.Popen(line, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not _answers(f"http://127.0.0.1:{port}/api/health"):
            assert program.poll() is None, "the Prefect server ended"
            sleep(0.5)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        program.terminate()
        program.wait()


def _answers(address: str) -> bool:
    try:
        return httpx.get(address).status_code == 200
    except httpx.TransportError:
        return False


# -- one story: a selection, a pool that grows, an update


class Story:
    """A selection from a pool of three files, the addition of a fourth, and an update, in a new folder."""

    def __init__(self, folder: Path, rows: Path, server: str, options: list[str], budget: int) -> None:
        self.folder, self._rows = folder, sorted(rows.iterdir())
        self._options, self._budget = options, budget
        (folder / "pool").mkdir(parents=True)
        self.commands = Commands(folder, server)

    def chapters(self) -> Iterator[list[str]]:
        """The commands of the story, each after its pool has been written."""
        common = ["--out", "out", "--store", "store", "--budget", str(self._budget), "--threshold", "0.98"]
        for file in self._rows[:-1]:
            shutil.copy(file, self.folder / "pool")
        yield ["select", "pool", *common, *self._options]
        shutil.copy(self._rows[-1], self.folder / "pool")
        yield ["update", "--out", "out", "--store", "store"]

    def files(self) -> list[bytes]:
        """The content of the last run's files."""
        return [(self.folder / "out" / name).read_bytes() for name in FILES]

    def rows_of(self, kind: str) -> int:
        """Total rows of the tables of a kind; each model has one."""
        store = Store(self.folder / "store")
        return sum(store.count(_table(name)) for name in store.tables() if name.startswith(f"{kind}__"))

    def check(self) -> None:
        """Read every table in full. Raises an error if one has invalid rows or a duplicate key."""
        store = Store(self.folder / "store")
        for name in store.tables():
            table = _table(name)
            rows = table.validate(store.read(table))
            assert not rows.select(table.key).is_duplicated().any(), f"{name} has a key twice"


def _table(name: str) -> Table:
    if name.startswith("vectors__"):
        return vectors_table(name.removeprefix("vectors__"), DIM)
    return scores_table(name.removeprefix("scores__")) if name.startswith("scores__") else FIXED[name]


def killed_at(draw: random.Random, seconds: dict[str, float], over: set[str]) -> tuple[str, float]:
    """A uniformly drawn stage, and a random moment within its duration, at most 0.05 s if it is finished."""
    stage = draw.choice(STAGES)
    return stage, draw.uniform(0, 0.05 if stage in over & KEPT else max(seconds[stage], 0.05))


def tell(
    story: Story, known: list[tuple[list[bytes], dict[str, float]]], draw: random.Random, each: int
) -> Counter[str]:
    """Run a story with `each` kills per command, and compare it with the undisturbed one; returns kills by stage."""
    kills: Counter[str] = Counter()
    for words, (files, seconds) in zip(story.chapters(), known, strict=True):
        over: set[str] = set()
        for _ in range(each):
            ended = story.commands.run(words, killed_at(draw, seconds, over))
            over |= set(ended.stages)
            if ended.killed:
                kills[next((stage for stage in STAGES if stage not in ended.stages), "at the end")] += 1
            story.check()
        present = [story.rows_of(kind) for kind in ("vectors", "scores")]
        done = story.commands.run(words)
        story.check()
        assert story.files() == files, f"{words[0]} gave other files after kills"
        anew = [int(count.replace(",", "")) for count in TOLD.findall(done.printed)[0]]
        grown = [story.rows_of(kind) - before for kind, before in zip(("vectors", "scores"), present, strict=True)]
        assert anew == grown, f"{words[0]} encoded and scored {anew}, of which {grown} were missing"
    return kills


def main() -> None:
    """Run stories until there are enough kills."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--each", type=int, default=4, help="kills of a command before it is let finish")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    draw, kills = random.Random(asked.seed), Counter[str]()
    with tempfile.TemporaryDirectory() as name, server(Path(name) / "prefect") as address:
        folder = Path(name)
        write_pool(folder / "rows", asked.rows, asked.seed)
        (folder / "models").mkdir()
        options = make_models(folder / "models")

        def story(number: int) -> Story:
            return Story(folder / f"story-{number}", folder / "rows", address, options, asked.rows // 10)

        first = story(0)
        known: list[Known] = []
        for words in first.chapters():
            seconds = first.commands.run(words).stages
            known.append((first.files(), seconds))
            print(f"{words[0]} undisturbed: {seconds}", flush=True)
        number = 0
        while kills.total() < asked.kills:
            number += 1
            kills += tell(story(number), known, draw, asked.each)
            shutil.rmtree(folder / f"story-{number}")
            by_stage = ", ".join(f"{stage} {kills[stage]}" for stage in (*STAGES, "at the end"))
            print(
                f"{kills.total()} kills ({by_stage}) in {number} stories: same files, valid tables, nothing twice",
                flush=True,
            )


if __name__ == "__main__":
    main()
