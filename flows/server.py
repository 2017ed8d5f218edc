"""Prefect's temporary server, started while the rest is imported."""

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
        with suppress(Exception):
            get_client(sync_client=True)

    if not PREFECT_API_URL.value():
        # Before the thread, with which importing would only take turns.
        import_module("prefect.server.api.server")
    thread = Thread(target=start)
    thread.start()
    return thread
