"""Runs a Prefect server, a worker and the deployments of prefect.yaml on one machine until they are stopped."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from subprocess import Popen
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

import httpx
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.workers.process import ProcessWorker

from deita_core.errors import DeitaError, InputError
from flows.cli.server import last_words, named_server
from flows.ops.folder_watch import CHECK_INTERVAL, FolderWatch
from flows.ops.guard import Guard
from flows.ops.processes import end_children, running

PREFECT = [sys.executable, "-m", "prefect"]
EVENT = "deita.pool.changed"
# Seconds for a program to start on a busy machine.
START = 180.0
# A dead run is detected after three missed heartbeats; this is Prefect's shortest interval, in seconds.
HEARTBEAT = 30
LOST_RUNS = "deployments/lost-runs.yaml"


class OperatingError(DeitaError):
    """The server, the worker or the deployments do not start, or have ended on their own."""


@dataclass(frozen=True)
class Place:
    """The server's address, the folder that contains prefect.yaml, and the deployments' variables."""

    host: str | None
    port: int | None
    project: Path
    variables: Mapping[str, str]

    @property
    def watched(self) -> Path | None:
        """The folder whose new files start an update."""
        folder = Path(self.variables["DEITA_POOL"])
        return folder if folder.is_dir() else None


def project_folder() -> Path:
    """Return the folder with prefect.yaml: a checkout, or the installed data folder."""
    # Where pip installs by default, and with --user.
    schemes = (sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user"))
    installed = [Path(sysconfig.get_path("data", scheme), "share", "deita") for scheme in schemes]
    for folder in (Path(__file__).resolve().parents[2], *installed):
        if (folder / "prefect.yaml").is_file():
            return folder
    raise InputError(f"There is no prefect.yaml in {installed[0]}; install deita again, or run it from a checkout.")


@contextmanager
def control_plane(place: Place) -> Iterator[tuple[SyncPrefectClient, list["Popen[bytes]"]]]:
    """Start a server with all deployments, and a worker; yields a client and the started programs, which end here."""
    with Guard() as guard, _server(place, guard) as (api, servers), temporary_settings({PREFECT_API_URL: api}):
        env = _environment(place, api)
        pool = place.variables["DEITA_WORK_POOL"]
        with get_client(sync_client=True) as client:
            make_pool(client, pool)
            check_alone(client, place)
            notice_lost_runs(client, place.project / LOST_RUNS)
            deploy(place.project / "prefect.yaml", env)
            words = [*PREFECT, "worker", "start", "--pool", pool, "--type", "process"]
            with running(words, env, log_of(f"worker-{pool}"), signal.SIGINT) as worker:
                guard.watch(worker.pid, signal.SIGINT)
                try:
                    _wait(lambda: _is_online(client, pool), worker, f"worker-{pool}")
                    yield client, [*servers, worker]
                finally:
                    # End the runs first: each reports that it was stopped, and can be retried.
                    end_children(worker.pid)


@contextmanager
def _server(place: Place, guard: Guard) -> Iterator[tuple[str, list["Popen[bytes]"]]]:
    """Yield the address of the server to use, and its program if it was started here."""
    if place.host is None and place.port is None and (configured := named_server()):
        yield configured, []
        return
    host, port = place.host or "127.0.0.1", place.port or 4200
    # A server that listens on all addresses is reachable on this one.
    api = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}/api"  # noqa: S104
    if _answers(api):
        yield api, []
        return
    _check_free(host, port)
    words = [*PREFECT, "server", "start", "--host", host, "--port", str(port)]
    name = f"server-{port}"
    # A relative URL: the browser may be on another machine and know the server by another name.
    env = {"PREFECT_UI_API_URL": "/api", **_environment(place, api)}
    with running(words, env, log_of(name), signal.SIGTERM) as server:
        guard.watch(server.pid, signal.SIGTERM)
        _wait(lambda: _answers(api), server, name)
        yield api, [server]


def _environment(place: Place, api: str) -> dict[str, str]:
    """Return the environment of server, worker and runs; PREFECT_API_DATABASE_CONNECTION_URL is passed on if set."""
    return {
        **os.environ,
        **place.variables,
        "PREFECT_API_URL": api,
        "PREFECT_FLOWS": json.dumps({"heartbeat_frequency": HEARTBEAT}),
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    }


def _answers(api: str) -> bool:
    try:
        return httpx.get(f"{api}/health", timeout=5).json() is True
    except (httpx.HTTPError, ValueError):
        return False


def _check_free(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port)):
            return
    except OSError as error:
        raise InputError(f"Port {port} of {host} cannot be had ({error.strerror}); give another --port.") from None


def log_of(name: str) -> Path:
    """Return the log file of a program."""
    return Path(PREFECT_HOME.value()) / "deita" / f"{name}.log"


def _wait(is_ready: Any, program: "Popen[bytes]", name: str) -> None:
    started = monotonic()
    while not is_ready():
        if program.poll() is not None or monotonic() - started > START:
            said = last_words(log_of(name).read_text(encoding="utf-8", errors="replace")) or "without a word"
            raise OperatingError(f"The {name.split('-')[0]} does not start ({said}); {log_of(name)} says more.")
        sleep(0.3)


def _is_online(client: SyncPrefectClient, pool: str) -> bool:
    return any(worker.status == "ONLINE" for worker in client.read_workers_for_work_pool(pool))


def make_pool(client: SyncPrefectClient, name: str) -> None:
    """Create the work pool if it is missing. Raises InputError if its type is not process."""
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        pool = client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))
    if pool.type != "process":
        raise InputError(f"The work pool {name} is of type {pool.type}, not process; give another --work-pool.")


def check_alone(client: SyncPrefectClient, place: Place) -> None:
    """Raise InputError if a worker runs the server's deployments from another folder, which would lose them."""
    home = place.variables["DEITA_HOME"]
    for deployment in _ours(client):
        folders = {str(step.get("directory")) for each in deployment.pull_steps or [] for step in each.values()}
        pool = deployment.work_pool_name
        if pool and folders - {home} and _is_online(client, pool):
            raise InputError(
                f"The deployments of {client.api_url} belong to {', '.join(folders - {home})}, where a worker of the "
                f"pool {pool} was at work in the last minutes; end it, or start a server of your own with --port."
            )


def notice_lost_runs(client: SyncPrefectClient, file: Path) -> None:
    """Create missing automations that mark a run as crashed when its process is gone."""
    for described in yaml.safe_load(file.read_text(encoding="utf-8"))["automations"]:
        wanted = AutomationCore.model_validate(described)
        if not client.read_automations_by_name(wanted.name):
            client.create_automation(wanted)


def deploy(file: Path, env: Mapping[str, str]) -> None:
    """Deploy everything in prefect.yaml. Raises InputError for invalid settings, else OperatingError, and says why."""
    words = [*PREFECT, "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    # Wide enough that Prefect wraps no line of its output.
    wide = {**env, "COLUMNS": "400"}
    done = subprocess.run(words, env=wide, capture_output=True, text=True)  # noqa: S603
    if done.returncode != 0:
        log = log_of("deploy")
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(done.stdout + done.stderr, encoding="utf-8")
        raise _refused(file, done.stdout + done.stderr, log)


def _refused(file: Path, said: str, log: Path) -> DeitaError:
    """Return the error for a failed deployment, from the last error message that names more than the step."""
    errors = re.findall(r"^(?:\w+\.)*(\w*Error|  Value error)(?<!StepExecutionError)[:,] (.+)", said, re.MULTILINE)
    kind, reason = errors[-1] if errors else ("", "Prefect refuses it")
    found = InputError if kind in ("InputError", "  Value error") else OperatingError
    return found(f"{file} cannot be deployed: {reason.strip().rstrip('.')}; {log} has all of it.")


def deployments(client: SyncPrefectClient) -> list[str]:
    """Return the names of our deployments, as flow/deployment."""
    return sorted(f"{client.read_flow(deployment.flow_id).name}/{deployment.name}" for deployment in _ours(client))


def _ours(client: SyncPrefectClient) -> list[DeploymentResponse]:
    return [deployment for deployment in client.read_deployments() if "deita" in deployment.tags]


def next_runs(client: SyncPrefectClient) -> dict[str, datetime]:
    """Return each scheduled deployment's next run time; waits a while for a scheduler that has just started."""
    started, scheduled = monotonic(), dict[str, datetime]()
    only = FlowRunFilter.model_validate({"state": {"type": {"any_": ["SCHEDULED"]}}, "tags": {"all_": ["deita"]}})
    while not scheduled and monotonic() - started < START / 6:
        for run in client.read_flow_runs(flow_run_filter=only, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=200):
            if run.auto_scheduled and run.deployment_id and run.expected_start_time:
                name = client.read_deployment(run.deployment_id).name
                flow = client.read_flow(run.flow_id).name
                scheduled.setdefault(f"{flow}/{name}", run.expected_start_time)
        sleep(0 if scheduled else 1)
    return scheduled


def tell_changed(client: SyncPrefectClient, pool: str, files: list[str]) -> None:
    """Emit the event that a pool's files have changed, which starts an update."""
    event = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": EVENT,
        "resource": {"prefect.resource.id": "deita.pool", "prefect.resource.name": pool},
        "payload": {"files": files[:100], "count": len(files)},
    }
    client.request("POST", "/events", json=[event]).raise_for_status()


def watch(client: SyncPrefectClient, pool: str, folder: Path | None, programs: list["Popen[bytes]"]) -> Iterator[str]:
    """Watch programs and folder until stopped; yields a line per event. Raises OperatingError if a program ends."""
    look, waiting, is_away = FolderWatch(folder) if folder else None, list[str](), False
    while True:
        if any(program.poll() is not None for program in programs):
            raise OperatingError(f"A program has ended by itself; {log_of('*')} say why.")
        waiting = sorted({*waiting, *look.look(monotonic())}) if look else []
        if waiting:
            named = f"{', '.join(waiting[:5])}{' and more' if len(waiting) > 5 else ''} changed"
            try:
                tell_changed(client, pool, waiting)
            except httpx.HTTPError as error:
                if not is_away:
                    yield f"{named}, but the server cannot be told ({type(error).__name__}); trying until it can be."
                is_away = True
            else:
                yield f"{named}: an update is asked for."
                waiting, is_away = [], False
        sleep(CHECK_INTERVAL)
