"""The reports beside the UI of `deita up`: they can be read, and nothing else can be had or done there."""

import http.client
import re
import socket
from urllib.parse import urlsplit

import polars as pl
import pytest

from deita_core.errors import InputError
from deita_core.export.files import REPORT
from deita_core.stages.snapshots import folder_key
from deita_core.store import Store
from deita_core.tables import SNAPSHOTS
from flows.ops.report_server import serving_reports

PAGE = "<!doctype html><title>kept</title>"
HOSTILE = "<img src=x onerror=alert(1)>&"


@pytest.fixture
def store(tmp_path):
    """A store with snapshots of four folders: two with a report, one without, one that is gone."""
    folders = [tmp_path / name for name in ("plain", HOSTILE, "without")]
    for folder in folders:
        folder.mkdir()
        (folder / "selected.jsonl").write_text("secret")
    for folder in folders[:2]:
        (folder / REPORT).write_text(f"{PAGE}{folder.name}")
    rows = [
        {"number": n, "run_id": f"run-{n}", "finished": f"2026-01-0{n}T00:00:00", "folder": str(folder), "report": "{}"}
        for n, folder in enumerate([folders[0], *folders, tmp_path / "gone"], 1)
    ]
    Store(tmp_path / "store").write(SNAPSHOTS, pl.DataFrame(rows, schema=SNAPSHOTS.empty().schema))
    return str(tmp_path / "store")


@pytest.fixture
def address(store):
    with serving_reports(store, port=0) as address:
        yield address


def ask(address, path="/", method="GET", **headers):
    """The answer to a request, sent as it is written: status, headers, body."""
    at = urlsplit(address)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, body


def test_the_index_lists_the_folders_that_have_a_report_with_their_last_snapshot(address, tmp_path):
    status, _, body = ask(address)
    assert status == 200
    rows = re.findall(r'<a href="/([0-9a-f]{32})">(.*?)</a></td><td>(\d+)<', body)
    escaped = HOSTILE.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert rows == [
        (folder_key(tmp_path / HOSTILE), f"{tmp_path}/{escaped}", "3"),
        (folder_key(tmp_path / "plain"), f"{tmp_path}/plain", "2"),
    ]
    assert "<img" not in body


def test_a_report_is_served_as_it_is_now(address, tmp_path):
    path = f"/{folder_key(tmp_path / 'plain')}"
    assert ask(address, path)[::2] == (200, f"{PAGE}plain")
    (tmp_path / "plain" / REPORT).write_text("changed")
    assert ask(address, path)[2] == "changed"
    (tmp_path / "plain" / REPORT).unlink()
    assert ask(address, path)[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "/report.html",
        "/../plain/report.html",
        "/%2e%2e/plain/report.html",
        "/{key}/selected.jsonl",
        "/{key}/../../plain/selected.jsonl",
        "{plain}/report.html",
        "/{without}",
        "/{gone}",
        "/[",
    ],
)
def test_no_path_leads_to_another_file(address, tmp_path, path):
    keys = {name: folder_key(tmp_path / name) for name in ("without", "gone")}
    path = path.format(key=folder_key(tmp_path / "plain"), plain=tmp_path / "plain", **keys)
    status, _, body = ask(address, path)
    assert status == 404 and "secret" not in body and "kept" not in body and str(tmp_path) not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_but_reading_is_understood(address, tmp_path, method):
    assert ask(address, f"/{folder_key(tmp_path / 'plain')}", method)[0] == 501
    assert (tmp_path / "plain" / REPORT).read_text() == f"{PAGE}plain"


def test_head_tells_the_length_and_sends_nothing(address, tmp_path):
    status, headers, body = ask(address, f"/{folder_key(tmp_path / 'plain')}", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(len(f"{PAGE}plain")), "")


def test_every_answer_forbids_requests_frames_and_forms(address, tmp_path):
    for path in ("/", f"/{folder_key(tmp_path / 'plain')}", "/nothing"):
        headers = ask(address, path)[1]
        policy = headers["Content-Security-Policy"]
        for part in ("default-src 'none'", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'"):
            assert part in policy
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Server"] == "deita "


@pytest.mark.parametrize(
    ("host", "status"), [("evil.example", 421), ("", 421), ("[", 421), ("localhost:1", 200), ("127.0.0.1", 200)]
)
def test_a_page_from_elsewhere_that_points_its_name_here_reads_nothing(address, host, status):
    found, _, body = ask(address, Host=host)
    assert found == status and ("plain" in body) == (status == 200)


def test_a_store_without_a_report_has_an_empty_index_and_is_not_made(tmp_path):
    with serving_reports(str(tmp_path / "nowhere"), port=0) as address:
        assert "No folder of the store has a report yet." in ask(address)[2]
    assert not (tmp_path / "nowhere").exists()


def test_a_port_that_is_taken_is_an_error_only_if_it_was_asked_for(store, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        monkeypatch.setattr("flows.ops.report_server.PORT", taken)
        with serving_reports(store) as address:
            assert address != f"http://127.0.0.1:{taken}" and ask(address)[0] == 200
        with (
            pytest.raises(InputError, match=rf"port {taken} of 127\.0\.0\.1 \(.+\); give another --report-port"),
            serving_reports(store, port=taken),
        ):
            pass


def test_an_address_that_is_none_is_said(store):
    with pytest.raises(InputError, match=r"of 203\.0\.113\.1"), serving_reports(store, host="203.0.113.1"):
        pass


def test_it_can_listen_elsewhere(store):
    with serving_reports(store, host="0.0.0.0", port=0) as address:
        port = urlsplit(address).port
        assert ask(f"http://127.0.0.1:{port}", Host="machine.example")[0] == 200
