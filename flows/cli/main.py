"""The `deita` command. Its commands are in the modules beside this one, and import heavy libraries when they run."""

import io
import os
import signal
import sys
import traceback
import warnings
from types import FrameType
from typing import Annotated

import typer
from typer.core import TyperGroup

from flows.cli import align as align_commands
from flows.cli import compare as compare_commands
from flows.cli import evaluate as evaluate_commands
from flows.cli import operate
from flows.cli import pool as pool_commands
from flows.cli import prove as prove_commands
from flows.cli import report as report_commands
from flows.cli import scorers as scorer_commands
from flows.cli import snapshots as snapshot_commands
from flows.cli.server import lost_server
from flows.cli.variables import unknown_variables
from flows.ops.prefect_settings import spare_loopback

INTERRUPTED = 130
STOPPED = "stopped; what is done is kept, run the same command to go on."
SHARED = ("--verbose", "--debug")


class _Group(TyperGroup):
    """Accepts the options shared by all commands before and after the command."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        options = args[: args.index("--")] if "--" in args else args
        shared = [option for option in options if option in SHARED]
        return super().parse_args(ctx, [*shared, *(o for o in options if o not in SHARED), *args[len(options) :]])


app = typer.Typer(
    name="deita",
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Pick the few thousand conversations worth fine-tuning on, and say why for each one.",
)
for commands in (
    pool_commands,
    report_commands,
    snapshot_commands,
    scorer_commands,
    align_commands,
    evaluate_commands,
    prove_commands,
    compare_commands,
    operate,
):
    app.add_typer(commands.app)


@app.callback()
def _common(
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Prefect's log. After a command, too.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show an error's traceback. After a command, too.")] = False,
) -> None:
    prepare_environment(verbose)
    if debug:
        os.environ["DEITA_DEBUG"] = "1"
    # Help must be fast, so it skips these imports.
    if not {"--help", "-h"}.intersection(sys.argv):
        for said in unknown_variables(os.environ):
            typer.echo(f"deita: {said}", err=True)


def prepare_environment(verbose: bool) -> None:
    """Set what Prefect reads on import: no console logs, no telemetry, no waiting for a heartbeat at exit."""
    quiet = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_FLOWS": '{"heartbeat_frequency": null}',
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO" if verbose else "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING" if verbose else "CRITICAL",
        # A busy machine needs longer than the default to start the temporary server.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "LANCEDB_LOG": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    # Python programs started here with -m or -c do not import the working directory's files, such as a random.py.
    safe = {"PYTHONSAFEPATH": "1"}
    for name, value in {**quiet, **safe}.items():
        os.environ.setdefault(name, value)
    spare_loopback()
    # A library's future changes do not concern the user.
    warnings.filterwarnings("ignore", category=FutureWarning)


def main() -> None:
    """Run the command; an error that the user can fix is printed as one sentence, and sets the exit code."""
    # Characters that the terminal cannot encode are shown as question marks.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    signal.signal(signal.SIGTERM, _interrupt)
    said, code = run()
    if said:
        # From here on ctrl-C ends the process at once, and with it the programs that it started.
        signal.signal(signal.SIGINT, lambda *_: os._exit(1))
        typer.echo(f"deita: {said}", err=True)
    sys.exit(code)


def run() -> tuple[str | None, str | int | None]:
    """Run the command in `sys.argv`; returns its error as one sentence, or None, and the exit code."""
    try:
        app()
    except KeyboardInterrupt:
        return STOPPED, 1
    except SystemExit as end:
        # Typer turns ctrl-C into this exit code.
        return (STOPPED, 1) if end.code == INTERRUPTED else (None, end.code)
    except Exception as error:
        if os.environ.get("DEITA_DEBUG"):
            traceback.print_exc()
        return sentence(error), getattr(error, "exit_code", 1)
    return None, 0


def sentence(error: Exception) -> str:
    """Return an error as one sentence for the user; --debug prints the traceback as well."""
    from deita_core.errors import DeitaError, cause

    if isinstance(error, DeitaError):
        return f"{error}"
    if isinstance(error, OSError):
        return f"{type(error).__name__}: {error}; with --debug there is more."
    if _is_lost_server(error):
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        own = lost_server()
        return (
            str(own)
            if own
            else (f"The Prefect server went away ({reason}); what is done is kept, start it and run the same command.")
        )
    return f"Unexpected {type(error).__name__}: {cause(error)}; run the command with --debug for the traceback."


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM like ctrl-C; `timeout`, for example, sends it twice, so the second is ignored."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _is_lost_server(error: Exception) -> bool:
    """Whether an error of Prefect's client means that no server responds; httpx is loaded if that is possible."""
    httpx = sys.modules.get("httpx")
    lost = httpx is not None and isinstance(error, httpx.TransportError)
    return lost or (isinstance(error, RuntimeError) and str(error).startswith("Failed to reach API at"))


if __name__ == "__main__":
    main()
