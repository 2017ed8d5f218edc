"""Serves the reports of a store's folders beside the UI of `deita up`: to read, and nothing else of these folders."""

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from deita_core.errors import DeitaError, InputError
from deita_core.export.files import REPORT
from deita_core.stages.snapshots import folder_key, snapshots
from deita_core.store import Store
from flows.ops.prefect_settings import LOOPBACK

# Beside Prefect's 4200.
PORT = 4201
# Addresses of a server that listens on all of its machine's.
EVERY = ("0.0.0.0", "::")  # noqa: S104
# The report's own policy allows only its script and style, by their hashes; this one holds for every page.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@contextmanager
def serving_reports(store: str, host: str = "127.0.0.1", port: int | None = None) -> Iterator[str]:
    """Serve the reports of a store until the block ends; yields the address.

    Without a port it is PORT, or a free one where that is taken. Raises InputError if the server cannot listen.
    """
    try:
        server = _listening(store, host, PORT if port is None else port, or_free=port is None)
    except OSError as error:
        raise InputError(
            f"Reports cannot be served on port {port or PORT} of {host} ({error.strerror or error}); give another "
            f"--report-port or --report-host."
        ) from None
    threading.Thread(target=server.serve_forever, daemon=True, name="reports").start()
    try:
        yield server.address
    finally:
        server.shutdown()
        server.server_close()


def _listening(store: str, host: str, port: int, or_free: bool) -> "ReportServer":
    try:
        return ReportServer(store, host, port)
    except OSError:
        if not or_free:
            raise
        return ReportServer(store, host, 0)


class ReportServer(ThreadingHTTPServer):
    """Answers GET and HEAD: / lists the folders of the store that have a report, /KEY is the report of one."""

    def __init__(self, store: str, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.store, self.is_local = store, host in LOOPBACK and host not in EVERY
        super().__init__((host, port), _Handler)
        name = socket.gethostname() if host in EVERY else f"[{host}]" if ":" in host else host
        self.address = f"http://{name}:{self.server_port}"

    def server_bind(self) -> None:
        """Bind without the parent's look-up of the host's full name, which may take seconds and is not needed."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]


@dataclass(frozen=True)
class _Listed:
    """A folder with a report, and its last snapshot."""

    folder: str
    number: int
    finished: str


def listed(store: str) -> dict[str, _Listed]:
    """Folders of a store's snapshots that have a report on this machine, the latest first, by their keys."""
    last: dict[str, _Listed] = {}
    for number, finished, folder in reversed(
        list(snapshots(Store(store)).select("number", "finished", "folder").rows())
    ):
        if (Path(folder) / REPORT).is_file():
            last.setdefault(folder_key(folder), _Listed(folder, number, finished))
    return last


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer
    server_version, sys_version = "deita", ""
    # Seconds of silence after which a client is given up.
    timeout = 30

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: the terminal is that of `deita up`."""

    def do_GET(self) -> None:
        self._answer(send=self.wfile.write)

    def do_HEAD(self) -> None:
        self._answer(send=lambda _: None)

    def _answer(self, send: Callable[[bytes], object]) -> None:
        status, page = self._found()
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Length": str(len(page))}.items():
            self.send_header(name, value)
        self.end_headers()
        send(page)

    def _found(self) -> tuple[HTTPStatus, bytes]:
        """The status and the page for the path that is asked for."""
        if self.server.is_local and not self._is_asked_by_its_name():
            return HTTPStatus.MISDIRECTED_REQUEST, _page("This server goes by other names.")
        try:
            reports = listed(self.server.store)
            path = urlsplit(self.path).path
            if path == "/":
                return HTTPStatus.OK, _index(reports)
            # A key leads to a folder that the store knows; nothing of the path is the name of a file.
            if found := reports.get(path.removeprefix("/")):
                return HTTPStatus.OK, (Path(found.folder) / REPORT).read_bytes()
        except DeitaError as error:
            return HTTPStatus.INTERNAL_SERVER_ERROR, _page(str(error))
        except (OSError, ValueError):
            # A report that was deleted just now, or an address that is none.
            pass
        return HTTPStatus.NOT_FOUND, _page("There is no report here.")

    def _is_asked_by_its_name(self) -> bool:
        """Whether the request names this machine: a page from elsewhere may have its own name point here."""
        try:
            return urlsplit(f"//{self.headers.get('Host', '')}").hostname in LOOPBACK
        except ValueError:
            return False


def _index(reports: Mapping[str, _Listed]) -> bytes:
    rows = "".join(
        f'<tr><td><a href="/{key}">{escape(found.folder)}</a></td><td>{found.number}</td>'
        f"<td>{escape(found.finished)}</td></tr>\n"
        for key, found in reports.items()
    )
    if not rows:
        return _page("No folder of the store has a report yet.")
    table = f"<table>\n<tr><th>folder</th><th>snapshot</th><th>finished</th></tr>\n{rows}</table>"
    return _document(table)


def _page(sentence: str) -> bytes:
    return _document(f"<p>{escape(sentence)}</p>")


def _document(content: str) -> bytes:
    page = (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        "<title>Reports</title>\n<style>body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem } "
        "th, td { text-align: left; padding: .2rem 1rem }</style></head>\n"
        f"<body><h1>Reports</h1>\n{content}\n</body>\n</html>\n"
    )
    # A folder may have a name that is no Unicode.
    return page.encode(errors="replace")
