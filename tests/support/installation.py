"""An installation as an operator has it, for tests: a Prefect server on loopback, the deployments, workers to kill."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import orjson

from benchmarks.tiny import make_head
from flows.ops.processes import descendants
from tests.support.paths import ROOT

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
FOX = "the quick fox runs "
# Seconds for one answer of a server on a machine that others use too.
PATIENCE = 60


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def environment(home, **variables):
    """The variables of a process of its own: no settings of this test run, heartbeats on, logs to the server."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {
        **env,
        "PREFECT_HOME": str(home),
        "PREFECT_FLOWS": '{"heartbeat_frequency": 30}',
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        **{name: str(value) for name, value in variables.items()},
    }


def make_heads(folder, encoder):
    """Scorer heads of made-up weights for an encoder, in folder/complexity and folder/quality."""
    for axis in ("complexity", "quality"):
        make_head(Path(folder) / axis, axis, encoder)
    return folder


def write_rows(file, first, count, words=10, odd=()):
    """Rows of alpaca, each unlike the others; what stands in `odd` is written as it is, after them."""
    random = np.random.default_rng(first)
    letters = list("abcdefghijklmnopqrstuvwxyz")

    def text(n):
        return " ".join("".join(random.choice(letters, 5)) for _ in range(n))

    filler = (FOX * 400)[: max(0, words - 10) * 6]
    rows = [
        orjson.dumps({"instruction": f"{i} {text(8)}", "output": text(10) + filler})
        for i in range(first, first + count)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_bytes(b"\n".join([*rows, *odd]) + b"\n")
    partial.replace(file)


class Installation:
    """A server with its deployments in a folder of data, and the workers started for it."""

    def __init__(self, folder, **variables):
        self.folder, self.port = folder, free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        data = folder / "data"
        data.mkdir(parents=True)
        self.env = environment(
            folder / "prefect",
            PREFECT_API_URL=self.api,
            DEITA_HOME=data,
            DEITA_POOL=data / "pool",
            DEITA_OUT="out",
            DEITA_STORE=".deita",
            DEITA_CHAINS="out/evolved",
            DEITA_WORK_POOL="laptop",
            DEITA_WORK_QUEUE="store",
            DEITA_NIGHTLY_CRON="0 2 * * *",
            DEITA_WEEKLY_CRON="0 4 * * 0",
            DEITA_TIMEZONE="Europe/Oslo",
            **variables,
        )
        self.data, self.pool = data, data / "pool"
        self.programs = []
        # One client for all questions: each new one reads the machine's certificates.
        self._client = httpx.Client(timeout=PATIENCE)

    def __enter__(self):
        self.server = self._start("server", "server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        self.until(lambda: self._healthy(), 180)
        return self

    def __exit__(self, *_):
        for program in reversed(self.programs):
            self.kill(program)
        self._client.close()

    def _healthy(self):
        assert self.server.poll() is None, (self.folder / "server.log").read_text()
        try:
            return self._client.get(f"{self.api}/health").status_code == 200
        except httpx.TransportError:
            return False

    def _start(self, name, *words):
        with (self.folder / f"{name}.log").open("ab") as log:
            line = [sys.executable, "-m", "prefect", *words]
            program = subprocess.Popen(line, env=self.env, stdout=log, stderr=log, start_new_session=True)
        self.programs.append(program)
        return program

    def start_worker(self):
        return self._start("worker", "worker", "start", "--pool", "laptop", "--type", "process")

    @staticmethod
    def kill(program):
        """SIGKILL a program, then all that it had started."""
        family = descendants(program.pid)
        for pid in (program.pid, *family):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        program.wait()

    def prefect(self, *words, **variables):
        """Run Prefect's command as an operator does, in the project's root."""
        line = [sys.executable, "-m", "prefect", *words]
        env = {**self.env, **variables}
        return subprocess.run(line, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300)

    def post(self, path, **body):
        # A server whose database is locked for a moment says 503, and Prefect's own client asks again.
        for pause in (0.5, 1, 2, 4, 8, 16, 0):
            answer = self._client.post(f"{self.api}/{path}", json=body)
            if answer.status_code != 503:
                break
            time.sleep(pause)
        assert answer.is_success, answer.text
        return answer.json()

    def get(self, path):
        # A server that waits for the disk may leave one question unanswered for long; to ask again changes nothing.
        for _ in range(3):
            with suppress(httpx.TimeoutException):
                return self._client.get(f"{self.api}/{path}").json()
        raise AssertionError(
            f"no answer to {path}; the server says: {(self.folder / 'server.log').read_text()[-4_000:]}"
        )

    def deployments(self):
        """Every deployment by its name, as flow/deployment."""
        flows = {flow["id"]: flow["name"] for flow in self.post("flows/filter")}
        return {f"{flows[found['flow_id']]}/{found['name']}": found for found in self.post("deployments/filter")}

    def ask(self, name, **parameters):
        """Ask for a run of a deployment now; its id."""
        deployment = self.deployments()[name]["id"]
        return self.post(f"deployments/{deployment}/create_flow_run", parameters=parameters)["id"]

    def settings(self, store):
        """The settings of the deployments, for another store."""
        return {**self.deployments()["update/nightly"]["parameters"]["settings"], "store": str(store)}

    def state(self, run):
        return self.get(f"flow_runs/{run}")["state"]

    def wait(self, run, *states, seconds=300):
        """Until a run is in one of the states, by default any that is an end; its state."""
        self.until(lambda: self.state(run)["type"] in (states or ENDED), seconds)
        return self.state(run)

    def logs(self, run):
        found = self.post("logs/filter", logs={"flow_run_id": {"any_": [run]}}, limit=200)
        return "\n".join(log["message"] for log in found)

    @staticmethod
    def until(condition, seconds, every=0.25):
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, f"not in {seconds} s"
            time.sleep(every)
        return value
