"""The Prefect server that a command's flow reports to: the one that is named, or one of its own until it ends.

The server of its own is this file, run as a program.
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

# Seconds for a server that is named to answer; it may be busy.
REACH = 15.0
# Seconds for a server of the command's own to end by itself, which are those that Prefect gives it.
GRACE = 5.0
# Seconds between two looks at whether it answers.
LOOK = 0.05
HERE = "127.0.0.1"
# The level at which nothing is shown of what it says, which is heard all the same.
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
    """A server of the command's own, in a process of its own; it ends with the command, however that ends."""

    def __init__(self, home: str, seconds: float) -> None:
        self._home, self._end = home, monotonic() + seconds
        self._words = deque[str](maxlen=200)
        self._shows = os.environ.get("PREFECT_SERVER_LOGGING_LEVEL", QUIET) != QUIET
        with socket.socket() as reserved:
            reserved.bind((HERE, 0))
            self._port = reserved.getsockname()[1]
            self._process = subprocess.Popen(  # noqa: S603
                # -P: files of the working directory, such as a random.py, hide nothing of the standard library.
                [sys.executable, "-P", __file__, str(reserved.fileno())],
                env={**os.environ, **LIKE_PREFECTS, **({} if self._shows else HEARD)},
                # Open as long as this process is there.
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                pass_fds=[reserved.fileno()],
                # Ctrl-C and SIGTERM reach every process of a terminal or of a script's group; the run reports to the
                # server that it was stopped, and ends it then.
                start_new_session=True,
            )
        atexit.register(self.stop)
        self._reader = Thread(target=self._listen, args=[self._process.stderr], daemon=True)
        self._reader.start()

    @property
    def api(self) -> str:
        """The address of its API."""
        return f"http://{HERE}:{self._port}/api"

    def join(self) -> None:
        """Wait until it answers. Raises DeitaError as soon as it has ended instead, or when the time is over."""
        while not self._answers():
            if self._process.poll() is not None:
                raise self._error("ended as soon as it was started")
            if monotonic() > self._end:
                self.stop()
                raise self._error("does not begin to answer")
            sleep(LOOK)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(1)

    def loss(self) -> "DeitaError | None":
        """What has become of it, if it ended while it was in use."""
        if self._process.poll() is None:
            return None
        from deita_core.errors import DeitaError

        return DeitaError(
            f"The temporary Prefect server ended ({self._last_words()}); what is done is kept, run the same command to "
            f"go on."
        )

    def _answers(self) -> bool:
        try:
            # It listens once it can answer.
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
    """The server for a flow, begun if none is named; import the rest, and `join` it before the flow begins.

    Raises InputError if Prefect's settings cannot be used, or allow no server.
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
    # For this process, which has read its settings, and those that it starts.
    os.environ["PREFECT_API_URL"] = _temporary.api
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()
    return _temporary


_temporary: TemporaryServer | None = None


def lost_server() -> "DeitaError | None":
    """What has become of this command's own server, if it had one and it has ended."""
    return _temporary.loss() if _temporary else None


def named_server() -> str | None:
    """The address in PREFECT_API_URL, if there is one. Raises InputError if no Prefect server answers there."""
    from flows.ops.prefect_settings import load_prefect

    api = load_prefect().api.url
    if api:
        check_named(api)
    return api


def check_named(api: str) -> None:
    """Raise InputError if no Prefect server answers at an address that lets the user in."""
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
    """The last line of a program's output that names an error, or else its last line; short enough for a sentence."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"([\w.]+\.)?\w*(Error|Exception|Exit)\b: .", line)]
    return (errors or lines or [""])[-1].rstrip(".")[:300]


# -- the program


def _serve(descriptor: int) -> None:
    """Serve Prefect's API on a socket that has its port, as Prefect's own temporary server does."""
    Thread(target=_end_with_starter, daemon=True).start()
    import uvicorn

    app = "prefect.server.api.server:create_app"
    config = uvicorn.Config(app, factory=True, log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


def _end_with_starter() -> None:
    """End when the standard input does, which is when the process that holds its other side is gone."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    sleep(GRACE)
    os._exit(1)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
