"""Prefect's temporary server, started while the rest is imported."""

import signal
from contextlib import suppress
from importlib import import_module
from threading import Thread


def start_server() -> Thread:
    """Start Prefect's temporary server, if no other is configured, in a process of its own.

    That takes seconds, in which the caller can import the rest. The flow uses the server that is there by then, and
    reports it if none could be started.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    def start() -> None:
        # Makes what this thread starts deaf to ctrl-C, which a terminal sends to every process in it: the run reports
        # to the server that it was stopped, and ends it then.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        with suppress(Exception):
            get_client(sync_client=True)

    if not PREFECT_API_URL.value():
        # Before the thread, with which importing would only take turns.
        import_module("prefect.server.api.server")
    thread = Thread(target=start)
    thread.start()
    return thread
