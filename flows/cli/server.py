"""The Prefect server of a command's flow: a named server, or a temporary one that ends with the command.

The temporary server is this file, run as a program.
"""

import atexit
import os
import re
import signal
import socket
import subprocess
import sys
from collections import deque
from threading import Thread
from time import monotonic, sleep
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from deita_core.errors import DeitaError

# Seconds for a named server to respond; it may be busy.
REACH = 15.0
# Seconds for the temporary server to end on its own; Prefect uses the same.
GRACE = 5.0
# Seconds between checks whether it responds.
CHECK_INTERVAL = 0.05
HERE = "127.0.0.1"
# At this level the server's output is read but not shown.
QUIET = "CRITICAL"
HEARD = {"PREFECT_SERVER_LOGGING_LEVEL": "ERROR", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "ERROR", "COLUMNS": "400"}
# The variables of Prefect's own temporary server.
LIKE_PREFECTS = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
ELSEWHERE = "give it another with PREFECT_HOME=FOLDER, or name a running server with PREFECT_API_URL"


class NamedServer:
    """The server of PREFECT_API_URL."""

    def __init__(self, api: str) -> None:
        self._api = api

    def join(self) -> None:
        """Raise InputError if no Prefect server answers."""
        check_named(self._api)


class TemporaryServer:
    """A server of this command in a separate process; it ends with the command, even if that is killed."""

    def __init__(self, home: str, seconds: float) -> None:
        self._home, self._end = home, monotonic() + seconds
        self._words = deque[str](maxlen=200)
        self._shows = os.environ.get("PREFECT_SERVER_LOGGING_LEVEL", QUIET) != QUIET
        with socket.socket() as reserved:
            reserved.bind((HERE, 0))
            self._port = reserved.getsockname()[1]
            self._process = subprocess.Popen(  # noqa: S603
                # -P: files in the working directory, such as a random.py, must not hide standard library modules.
                [sys.executable, "-P", __file__, str(reserved.fileno())],
                env={**os.environ, **LIKE_PREFECTS, **({} if self._shows else HEARD)},
                # A pipe that closes when this process ends.
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                pass_fds=[reserved.fileno()],
                # Ctrl-C and SIGTERM reach all processes of a terminal or process group. The run must first report to
                # the server that it was stopped, and then ends the server.
                start_new_session=True,
            )
        self._reader = Thread(target=self._listen, args=[self._process.stderr], daemon=True)
        atexit.register(self.stop)
        self._reader.start()

    @property
    def api(self) -> str:
        """The address of its API."""
        return f"http://{HERE}:{self._port}/api"

    def join(self) -> None:
        """Wait until the server responds. Raises DeitaError if it ends first, or after the time limit."""
        from deita_core.store.store import load_library

        # A flow needs it next, and the server takes longer to start.
        load_library()
        while not self._answers():
            if self._process.poll() is not None:
                raise self._error("ended as soon as it was started")
            if monotonic() > self._end:
                self.stop()
                raise self._error("does not begin to answer")
            sleep(CHECK_INTERVAL)

    def stop(self) -> None:
        """Stop the server."""
        self._process.terminate()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # An interrupt may come before the thread is started.
        if self._reader.is_alive():
            self._reader.join(1)

    def loss(self) -> "DeitaError | None":
        """Return an error if the server ended while it was in use, else None."""
        if self._process.poll() is None:
            return None
        from deita_core.errors import DeitaError

        return DeitaError(
            f"The temporary Prefect server ended ({self._last_words()}); what is done is kept, run the same command to "
            f"go on."
        )

    def _answers(self) -> bool:
        try:
            # It listens only when it is ready.
            socket.create_connection((HERE, self._port), timeout=1).close()
        except OSError:
            return False
        return True

    def _error(self, what: str) -> "DeitaError":
        from deita_core.errors import DeitaError

        return DeitaError(
            f"The temporary Prefect server, whose home is {self._home}, {what} ({self._last_words()}); {ELSEWHERE}."
        )

    def _listen(self, said: IO[str]) -> None:
        for line in said:
            self._words.append(line)
            if self._shows:
                sys.stderr.write(line)

    def _last_words(self) -> str:
        self._reader.join(1)
        return last_words("".join(self._words)) or f"exit code {self._process.returncode}, without a word"


def start_server() -> NamedServer | TemporaryServer:
    """Return the server for a flow, started if none is named; import the rest, and call `join` before the flow starts.

    Raises InputError if Prefect's settings are invalid or allow no server.
    """
    from deita_core.errors import InputError
    from flows.ops.prefect_settings import load_prefect

    settings = load_prefect()
    if settings.api.url:
        return NamedServer(settings.api.url)
    if not settings.server.ephemeral.enabled:
        raise InputError(
            "No Prefect server is named, and Prefect's settings allow no temporary one; set PREFECT_API_URL, such as "
            "http://127.0.0.1:4200/api, or PREFECT_SERVER_ALLOW_EPHEMERAL_MODE=true."
        )
    global _temporary
    _temporary = TemporaryServer(str(settings.home), settings.server.ephemeral.startup_timeout_seconds)
    # For this process, which has already read its settings, and for its child processes.
    os.environ["PREFECT_API_URL"] = _temporary.api
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()
    return _temporary


_temporary: TemporaryServer | None = None


def lost_server() -> "DeitaError | None":
    """Return an error if this command's own server has ended, else None."""
    return _temporary.loss() if _temporary else None


def named_server() -> str | None:
    """Return the address in PREFECT_API_URL, or None. Raises InputError if no Prefect server responds there."""
    from flows.ops.prefect_settings import load_prefect

    api = load_prefect().api.url
    if api:
        check_named(api)
    return api


def check_named(api: str) -> None:
    """Raise InputError if no Prefect server at this address accepts the user."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import (
        PREFECT_API_REQUEST_TIMEOUT,
        PREFECT_API_URL,
        PREFECT_CLIENT_MAX_RETRIES,
        temporary_settings,
    )

    from deita_core.errors import InputError, cause

    once = {PREFECT_API_URL: api, PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: REACH}
    try:
        with temporary_settings(once), get_client(sync_client=True) as client:
            if client.request("GET", "/health").json() is True:
                return
    except httpx.HTTPStatusError as error:
        said = f"{error.response.status_code} {error.response.reason_phrase}"
    except ValueError:
        said = "something else"
    except httpx.HTTPError as error:
        raise InputError(
            f"No Prefect server answers at {api} ({cause(error).rstrip('.')}); start it, or unset PREFECT_API_URL."
        ) from None
    raise InputError(
        f"{api} answers {said}, as no Prefect server does that can be used; check PREFECT_API_URL, which ends with "
        f"/api, PREFECT_API_KEY and PREFECT_API_AUTH_STRING."
    )


def last_words(text: str) -> str:
    """Return the last output line that names an error, else the last line; at most 300 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"([\w.]+\.)?\w*(Error|Exception|Exit)\b: .", line)]
    return (errors or lines or [""])[-1].rstrip(".")[:300]


# -- the program


def _serve(descriptor: int) -> None:
    """Serve Prefect's API on a bound socket, as Prefect's own temporary server does."""
    Thread(target=_end_with_starter, daemon=True).start()
    import uvicorn

    app = "prefect.server.api.server:create_app"
    config = uvicorn.Config(app, factory=True, log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


def _end_with_starter() -> None:
    """Exit when standard input closes, which means that the parent process is gone."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    sleep(GRACE)
    os._exit(1)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
