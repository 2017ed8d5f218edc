"""Makes every task of every flow fail once: at its start, half-way and at its end, and checks the result of the run.

    python -m benchmarks.faults [--flows select,update] [--stores local,s3] [--points half-way] [--errors OSError]

Each flow runs on a small pool with a tiny encoder. In each run one task fails once, with an error that is retried
(OSError, RuntimeError). Either the run finishes, with the files, tables and counts of an undisturbed run, or it fails
and leaves the earlier state unchanged. Anything else ends the program with an error. Half-way is before the middle one
of the task's writes to the store or to files.
"""

import os
import shutil
import tempfile
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from importlib import import_module
from pathlib import Path
from threading import local
from types import SimpleNamespace
from typing import Any, Literal

import orjson
import polars as pl

from benchmarks.tiny import make_head, make_tiny_model
from deita_core.config.settings import EvolutionSettings, RemovalSettings, SelectionSettings, TrainingSettings
from deita_core.llm.cache import Answers
from deita_core.stages.exporting import export_selection
from deita_core.stages.snapshots import read_snapshot
from deita_core.store import Store
from tests.support.evolution_run import KEY, llm_settings, write_seeds
from tests.support.llm_server import LLMServer
from tests.support.remote_server import s3_server

Point = Literal["start", "half-way", "end"]
POINTS: tuple[Point, ...] = ("start", "half-way", "end")
ERRORS = (OSError, RuntimeError)
STAGES = ("ingest", "embed", "score", "selection", "export", "evolve", "train")
# Lasting effects of a task: every write to a table, a file or the response cache calls one of these.
EFFECTS = (
    (Store, "_commit"), (Path, "replace"), (Path, "write_bytes"), (Path, "write_text"),
    (pl.DataFrame, "write_parquet"), (Answers, "put"),
)  # fmt: skip
EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "evolution"
BUCKET = "faults"
# Tables in which a failed run may leave no rows.
VISIBLE = ("decisions", "snapshots")


# `deita export` runs no flow. Its one step is listed with the tasks, and is not retried.
EXPORT = SimpleNamespace(fn=export_selection, retry_delay_seconds=0, retry_jitter_factor=None)


def project_tasks() -> dict[str, Any]:
    """All Prefect tasks of the project, and the step of `deita export`, by function name."""
    from prefect import Task

    modules = [import_module(f"tasks.{stage}") for stage in STAGES]
    tasks = {t.fn.__name__: t for module in modules for t in vars(module).values() if isinstance(t, Task)}
    return {**tasks, EXPORT.fn.__name__: EXPORT}


# -- failing once


@dataclass
class Fault:
    """A failure of a task's first run, or of all its runs if `lasting`: the point and the error.

    `effects`: number of writes of the first run, counted if `error` is None.
    """

    task: str
    point: Point
    error: type[Exception] | None
    effects: int = 0
    lasting: bool = False
    met: bool = False
    _here: local = field(default_factory=local)

    @contextmanager
    def injected(self, tasks: dict[str, Any]) -> Iterator[None]:
        """Make the first run of the task fail, in flow runs of this process."""
        task, before = tasks[self.task], tasks[self.task].fn
        kept = [(owner, name, owner.__dict__[name]) for owner, name in EFFECTS]
        try:
            task.fn = self._failing(before)
            for owner, name, effect in kept:
                setattr(owner, name, self._counting(effect))
            yield
        finally:
            task.fn = before
            for owner, name, effect in kept:
                setattr(owner, name, effect)

    def _failing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            if self.met and not self.lasting:
                return function(*args, **kwargs)
            self.met = True
            if self.point == "start":
                self._fail()
            self._here.left = self.effects // 2
            self._here.counting = True
            try:
                result = function(*args, **kwargs)
            finally:
                self._here.counting = False
            if self.point == "end":
                self._fail()
            return result

        return run

    def _counting(self, effect: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(effect)
        def run(*args: Any, **kwargs: Any) -> Any:
            # Only writes of the task itself count, not writes within another write.
            if not getattr(self._here, "counting", False):
                return effect(*args, **kwargs)
            if self.error is None:
                self.effects += 1
            self._here.left -= 1
            if self.point == "half-way" and self._here.left == -1:
                self._fail()
            self._here.counting = False
            try:
                return effect(*args, **kwargs)
            finally:
                self._here.counting = True

        return run

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error(f"injected into {self.task}")


# -- a folder that is restored before every run


class Place:
    """A folder with a pool, models, a store and results; its state can be saved and restored."""

    def __init__(self, folder: Path, server: LLMServer, remote: str | None) -> None:
        self.folder, self._server, self._remote = folder, server, remote
        self.pool, self.out, self._saved = folder / "work" / "pool", folder / "work" / "out", folder / "saved"
        self.store = f"s3://{BUCKET}/store" if remote else str(folder / "work" / "store")
        self.encoder = str(make_tiny_model(folder / "encoder"))
        for axis in ("complexity", "quality"):
            make_head(folder / axis, axis, Path(self.encoder))
        (folder / "chains.jsonl").write_bytes(
            b"\n".join((EXAMPLES / "complexity.jsonl").read_bytes().splitlines()[:12]) + b"\n"
        )
        self.clear()

    def clear(self) -> None:
        """Start with only a pool."""
        shutil.rmtree(self.folder / "work", ignore_errors=True)
        self._clear_store()
        write_seeds_of_pool(self.pool, "a.jsonl", 0, 6)

    def save(self) -> None:
        """Save the current state."""
        shutil.rmtree(self._saved, ignore_errors=True)
        shutil.copytree(self.folder / "work", self._saved)
        if self._remote:
            self._objects = {key: self._s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in self._keys()}

    def restore(self) -> None:
        """Restore the saved state."""
        shutil.rmtree(self.folder / "work")
        shutil.copytree(self._saved, self.folder / "work")
        self._clear_store()
        if self._remote:
            for key, body in self._objects.items():
                self._s3.put_object(Bucket=BUCKET, Key=key, Body=body)

    def _clear_store(self) -> None:
        if not self._remote:
            return
        for key in self._keys():
            self._s3.delete_object(Bucket=BUCKET, Key=key)
        shutil.rmtree(Store(self.store).side, ignore_errors=True)

    @property
    def _s3(self) -> Any:
        import boto3

        return boto3.client("s3", endpoint_url=self._remote)

    def _keys(self) -> list[str]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]

    # -- flows

    def settings(self) -> SelectionSettings:
        """Settings of the selection from the tiny pool."""
        scorers = {f"{axis}_scorer": str(self.folder / axis) for axis in ("complexity", "quality")}
        return SelectionSettings(store=self.store, encoder=self.encoder, budget=4, threshold=0.99, **scorers)

    def select(self) -> Any:
        """The first selection."""
        from flows.selection import select

        return select([str(self.pool)], str(self.out), self.settings()).counts

    def update(self) -> Any:
        """An update of the first selection."""
        from flows.selection import update

        return update([], str(self.out), SelectionSettings(store=self.store)).counts

    def remove(self) -> Any:
        """A removal of the first selected row."""
        from flows.maintenance import remove

        first = orjson.loads((self.out / "selected.jsonl").read_bytes().splitlines()[0])["deita"]["id"]
        return remove(self.store, RemovalSettings(ids=[first], where=None, reason="asked for", old_versions=False))

    def score(self) -> Any:
        """An export of the pool's scores."""
        from flows.score import score

        return score([str(self.pool)], str(self.out / "scores.parquet"), self.settings())

    def evolve(self) -> Any:
        """An evolution of two rounds on both axes."""
        from flows.evolve import evolve

        llm = llm_settings(self._server.url)
        settings = EvolutionSettings(llm=llm, store=self.store, axis="both", rounds=2, tries=2, audit=2)
        return evolve([str(self.pool)], str(self.out), settings).counts

    def train(self) -> Any:
        """A training of a head on a few chains."""
        from flows.train import train

        settings = TrainingSettings(axis="complexity", store=self.store, encoder=self.encoder)
        return train([str(self.folder / "chains.jsonl")], str(self.out), settings)

    def export(self) -> Any:
        """An export of the first selection over the files of the second."""
        store = Store(self.store)
        return EXPORT.fn(store, read_snapshot(store, 1).report, self.out)

    def lay(self, flow: str) -> None:
        """Make the state that the flow starts from, and save it."""
        self.clear()
        if flow in ("update", "remove", "export"):
            self.select()
            write_seeds_of_pool(self.pool, "b.jsonl", 6, 4)
        if flow == "export":
            self.update()
        if flow in ("score", "evolve", "train"):
            self.out.mkdir()
        self.save()

    # -- results

    def state(self) -> dict[str, Any]:
        """Everything a user or a later run sees: files without times, visible tables without run ids."""
        files = {p.name: p.read_bytes() for p in sorted(self.out.glob("*")) if p.is_file()} if self.out.is_dir() else {}
        if "manifest.json" in files:
            files["manifest.json"] = _lasting(orjson.loads(files["manifest.json"]))
        files.pop("trained.json", None)
        store = Store(self.store)
        tables = {name: _rows(store, name) for name in store.tables() if name not in ("plans", "runs")}
        hidden = [p.name for p in self.out.glob(".*")] if self.out.is_dir() else []
        return {"files": files, "tables": {name: rows for name, rows in tables.items() if rows}, "hidden": hidden}


def visible(state: dict[str, Any]) -> dict[str, Any]:
    """The part of a state that a user sees: files and selections. Rows read and computed stay after a failure too."""
    decided = {name: state["tables"].get(name) for name in VISIBLE}
    files = {name: content for name, content in state["files"].items() if name != "manifest.json"}
    return {"files": files, "hidden": state["hidden"], **decided}


def write_seeds_of_pool(pool: Path, name: str, first: int, count: int) -> None:
    """Write a file of rows, of which two are equal and one is unreadable."""
    pool.mkdir(parents=True, exist_ok=True)
    file = write_seeds(pool / name, count, first)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines, lines[0], b'{"instruction": "cut\n']))


def _lasting(manifest: dict[str, Any]) -> bytes:
    kept = {name: manifest.get(name) for name in ("snapshot", "counts", "threshold", "files", "settings", "audits")}
    return orjson.dumps(kept, option=orjson.OPT_SORT_KEYS)


def _rows(store: Store, name: str) -> list[str]:
    rows = pl.DataFrame(pl.from_arrow(store._handle(name).to_arrow()))
    return sorted(map(str, rows.drop("run_id", "key", "finished", "report", strict=False).iter_rows()))


def outcome(place: Place, flow: str, fault: Fault, tasks: dict[str, Any], known: tuple[Any, Any, Any]) -> str:
    """Run a flow with a fault; returns its outcome. Raises AssertionError if it is neither done nor unchanged."""
    before, after, counts = known
    place.restore()
    with fault.injected(tasks):
        try:
            found = getattr(place, flow)()
        except Exception as error:
            # A failure at the end of export comes after all its work.
            expected = after if fault.point == "end" and flow == "export" else before
            assert visible(place.state()) == visible(expected), (
                f"{flow}, {fault}: failed ({error}), and what stood before does not stand"
            )
            return f"failed, {'all is done' if expected is after else 'all as before'}: {str(error)[:60]}"
    assert found == counts, f"{flow}, {fault}: done, with other counts: {found}, not {counts}"
    assert place.state() == after, f"{flow}, {fault}: done, but different"
    return "done, the same"


def undisturbed(place: Place, flow: str) -> tuple[Any, Any, Any]:
    """The state before and after a flow, and what it returns."""
    place.lay(flow)
    before = place.state()
    counts = getattr(place, flow)()
    return before, place.state(), counts


def effects_of(place: Place, flow: str, task: str, tasks: dict[str, Any]) -> int | None:
    """The number of writes of a task's first run in a flow; None if the flow does not run the task."""
    place.restore()
    counted = Fault(task, "half-way", None)
    with counted.injected(tasks):
        getattr(place, flow)()
    return counted.effects if counted.met else None


FLOWS = ("select", "update", "remove", "export", "score", "evolve", "train")


def faults(
    place: Place, flow: str, tasks: dict[str, Any], points: Sequence[str] = POINTS, errors: Sequence[str] = ()
) -> Iterator[tuple[Fault, str]]:
    """Every fault of a flow at some points and with some errors (all by default), and the outcome of its run."""
    known = undisturbed(place, flow)
    for task in tasks:
        effects = effects_of(place, flow, task, tasks)
        if effects is None:
            continue
        for point in [point for point in POINTS if point in points and (effects or point != "half-way")]:
            for error in [error for error in ERRORS if not errors or error.__name__ in errors]:
                fault = Fault(task, point, error, effects)
                yield fault, outcome(place, flow, fault, tasks, known)


@contextmanager
def hurried(tasks: dict[str, Any]) -> Iterator[None]:
    """Retry tasks without delay."""
    kept = {name: (task.retry_delay_seconds, task.retry_jitter_factor) for name, task in tasks.items()}
    for task in tasks.values():
        task.retry_delay_seconds, task.retry_jitter_factor = 0, None
    try:
        yield
    finally:
        for name, task in tasks.items():
            task.retry_delay_seconds, task.retry_jitter_factor = kept[name]


@contextmanager
def environment() -> Iterator[dict[str, str]]:
    """Start a Prefect server and an S3 server; yields the environment variables for the S3 server."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120), s3_server(BUCKET) as variables:
        yield variables


def main() -> None:
    """Print the table."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--flows", default=",".join(FLOWS))
    parser.add_argument("--stores", default="local,s3")
    parser.add_argument("--points", default=",".join(POINTS))
    parser.add_argument("--errors", default=",".join(error.__name__ for error in ERRORS))
    asked = parser.parse_args()
    home = tempfile.mkdtemp()
    quiet = {"PREFECT_LOGGING_LEVEL": "CRITICAL", "PREFECT_LOGGING_TO_API_ENABLED": "false"}
    os.environ.update({"PREFECT_HOME": home, "DEITA_LLM__API_KEY": KEY, "DEITA_CACHE": f"{home}/cache", **quiet})
    os.environ["PREFECT_FLOWS"] = '{"heartbeat_frequency": null}'
    tasks, seen = project_tasks(), dict[str, int]()
    print(f"{'store':<7}{'flow':<9}{'task':<22}{'fails':<10}{'with':<14}outcome")
    with tempfile.TemporaryDirectory() as folder, environment() as s3, LLMServer() as server, hurried(tasks):
        os.environ.update(s3)
        for store in asked.stores.split(","):
            remote = s3["AWS_ENDPOINT_URL"] if store == "s3" else None
            place = Place(Path(folder) / store, server, remote)
            for flow in asked.flows.split(","):
                for fault, ended in faults(place, flow, tasks, asked.points.split(","), asked.errors.split(",")):
                    name = fault.error.__name__ if fault.error else ""
                    print(f"{store:<7}{flow:<9}{fault.task:<22}{fault.point:<10}{name:<14}{ended}", flush=True)
                    seen[ended.split(":")[0]] = seen.get(ended.split(":")[0], 0) + 1
    print(", ".join(f"{count} {ended}" for ended, count in seen.items()))
    shutil.rmtree(home)


if __name__ == "__main__":
    main()
