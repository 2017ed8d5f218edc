"""Commands for operators: up, watch, doctor."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import ConfigOption, StoreOption

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from flows.ops.server import Place

app = typer.Typer()


@app.command(epilog="Example:  deita up --pool-folder data/incoming")
def up(
    host: Annotated[str | None, typer.Option(help="Address of a server to start. Default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of a server to start. Default 4200.")] = None,
    pool_folder: Annotated[
        Path | None, typer.Option(help="Folder of the pool; a file that arrives there starts an update. Default pool.")
    ] = None,
    work_pool: Annotated[str | None, typer.Option(help="Prefect work pool of the runs. Default laptop.")] = None,
    store: StoreOption = None,
    config: ConfigOption = None,
    report_host: Annotated[str, typer.Option(help="Address at which reports are served.")] = "127.0.0.1",
    report_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the reports. Default 4201, or a free one.")
    ] = None,
) -> None:
    """Run everything on this machine: a Prefect server, a worker, and the deployments, until ctrl-C.

    A server named by PREFECT_API_URL, or one that already runs at the given address, is used instead of a new one. A
    selection runs every night and when files arrive in the pool's folder. The reports of the store's folders are served
    to be read. See docs/operating.md.
    """
    from flows.ops.prefect_settings import load_prefect

    load_prefect()
    from flows.ops.report_server import serving_reports
    from flows.ops.server import Place, control_plane, project_folder, watch
    from tasks.artifacts import REPORTS_URL

    given = {"DEITA_POOL": pool_folder, "DEITA_WORK_POOL": work_pool, "DEITA_STORE": store, "DEITA_CONFIG": config}
    variables = _variables({name: str(value) for name, value in given.items() if value is not None})
    project = project_folder()
    typer.echo("Starting, which takes half a minute ...")
    with _until_stopped(), serving_reports(_store_at(variables), report_host, report_port) as reports:
        place = Place(host, port, project, {**variables, REPORTS_URL: reports})
        with control_plane(place) as (client, programs):
            _announce(client, place, reports)
            for line in watch(client, variables["DEITA_POOL"], place.watched, programs):
                typer.echo(line)


@app.command("watch", epilog="Example:  PREFECT_API_URL=http://server:4200/api deita watch /data/pool")
def watch_folder(
    folder: Annotated[Path, typer.Argument(help="Folder of a pool, named as DEITA_POOL names it.")],
) -> None:
    """Report new files in a folder to the Prefect server, which starts an update; runs until ctrl-C.

    `deita up` includes this. Files are reported once nothing in the folder has changed for ten seconds.
    """
    from deita_core.errors import InputError
    from flows.cli.server import named_server

    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder, so nothing can arrive there.")
    # Without a named server the client would start its own, which has no deployments.
    if not named_server():
        raise InputError("No Prefect server is named to tell; set PREFECT_API_URL, such as http://server:4200/api.")
    from prefect.client.orchestration import get_client

    from flows.ops.server import watch

    with _until_stopped(), get_client(sync_client=True) as client:
        for line in watch(client, str(folder), folder, []):
            typer.echo(line)


@app.command(epilog="Examples:  deita doctor   ·   deita doctor --store .deita --repair")
def doctor(
    store: Annotated[
        str | None, typer.Option(help="Folder or URI of a store to check: every table is read in full.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Take damaged tables of the store back to their newest whole version.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Show what is installed and which presets can run here; with --store, check every table of a store.

    --repair first says what would be lost, and asks. It deletes nothing: damaged files are moved to the folder
    `damaged` of the store.
    """
    from deita_core.errors import InputError

    if store is not None:
        _check_store(store, repair, yes)
        return
    if repair:
        raise InputError("No store is named to repair; give --store.")
    from flows.cli.summary import print_doctor

    print_doctor()


def _check_store(uri: str, repair: bool, yes: bool) -> None:
    from deita_core.errors import InputError, StoreError
    from deita_core.stages.repair import examine
    from deita_core.stages.repair import repair as take_back
    from deita_core.store import Store

    store = Store(uri)
    with store.lock("deita doctor --repair") if repair else nullcontext():
        found = []
        for health in examine(store):
            typer.echo(f"table {health.name:<40}{health}")
            found.append(health)
        damaged = [health for health in found if health.can_be_repaired]
        if repair and damaged:
            for health in damaged:
                typer.echo(f"{health.name}: {health.loss}.")
            if not yes and not sys.stdin.isatty():
                raise InputError("Nothing was repaired, as there is no terminal to ask on; give --yes.")
            if not yes:
                typer.confirm("Repair the store in this way?", abort=True)
            for line in take_back(store, damaged):
                typer.echo(line)
            return
    if not found:
        typer.echo(f"The store {uri} has no tables.")
    if bad := [health.name for health in found if health.trouble or health.broken]:
        raise StoreError(
            f"{len(bad)} of the {len(found)} tables of {uri} are not whole ({', '.join(bad)}); --repair says what "
            f"going back to their newest whole versions would lose, and asks."
        )


def _variables(given: dict[str, str]) -> dict[str, str]:
    """Return the variables of prefect.yaml: options first, then environment, then defaults; with absolute folders."""
    from deita_core.config.settings import load_settings
    from deita_core.errors import InputError
    from flows.ops.deploy_steps import VARIABLES

    found = {**VARIABLES, **{name: os.environ[name] for name in VARIABLES if os.environ.get(name)}, **given}
    config = given.get("DEITA_CONFIG") or os.environ.get("DEITA_CONFIG")
    found["DEITA_STORE"] = load_settings(Path(config) if config else None, store=given.get("DEITA_STORE")).store
    found["DEITA_HOME"] = str(Path(found["DEITA_HOME"]).expanduser().resolve())
    pool = found["DEITA_POOL"]
    if "://" in pool or "*" in pool:
        return found
    folder = Path(found["DEITA_HOME"], Path(pool).expanduser())
    if not folder.exists():
        raise InputError(f"The pool {folder} is not there; make the folder, or give another with --pool-folder.")
    return {**found, "DEITA_POOL": str(folder)}


def _store_at(variables: dict[str, str]) -> str:
    """The store of the deployments, which start in DEITA_HOME."""
    store = variables["DEITA_STORE"]
    return store if "://" in store else str(Path(variables["DEITA_HOME"], Path(store).expanduser()))


@contextmanager
def _until_stopped() -> Iterator[None]:
    """Let ctrl-C, a closed terminal or SIGTERM end the block in order; ignore further signals meanwhile."""

    def end(number: int, frame: FrameType | None) -> None:
        for known in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(known, signal.SIG_IGN)
        raise KeyboardInterrupt

    for known in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(known, end)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("Stopped. Runs that were broken off can be retried, and go on where they were.")


def _announce(client: "SyncPrefectClient", place: "Place", reports: str) -> None:
    from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL

    from flows.ops.server import deployments, log_of, next_runs

    ui = PREFECT_UI_URL.value() or str(PREFECT_API_URL.value()).removesuffix("/api")
    typer.echo(f"\nPrefect is at {ui}")
    typer.echo(f"Reports are at {reports}\n")
    for name in deployments(client):
        typer.echo(f"  {name}")
    for name, when in next_runs(client).items():
        typer.echo(f"Next: {name} at {when.astimezone():%A %d %B %H:%M %Z}")
    if place.watched:
        typer.echo(f"A file that arrives in {place.watched} starts an update.")
    typer.echo(f"Logs: {log_of('server').parent}. Ctrl-C ends all of it.")
