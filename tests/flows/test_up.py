"""`deita up` on a machine of its own: what it starts, what it says, and that nothing of it stays behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import psutil
import pytest

from deita_core.errors import InputError
from deita_core.stages.snapshots import folder_key
from flows.cli.operate import _variables
from flows.ops.folder_watch import FolderWatch
from flows.ops.processes import descendants, running
from tests.support.installation import ROOT, Installation, environment, free_port, make_heads, write_rows

pytestmark = pytest.mark.slow


class Up:
    """`deita up` in a folder, and all that it says."""

    def __init__(self, folder, env, *flags):
        self.said = folder / "said.txt"
        words = [sys.executable, "-m", "flows.cli", "up", *flags]
        with self.said.open("wb") as out:
            self.program = subprocess.Popen(
                words, cwd=folder, env={**env, "PYTHONPATH": str(ROOT)}, stdout=out, stderr=out, start_new_session=True
            )

    @property
    def text(self):
        return self.said.read_text()

    def wait_for(self, words, seconds=180):
        end = time.monotonic() + seconds
        while words not in self.text:
            assert self.program.poll() is None and time.monotonic() < end, self.text
            time.sleep(0.2)

    def end(self, number):
        """Send a signal; the exit code, and which of the processes it had started are still there."""
        family = descendants(self.program.pid)
        self.program.send_signal(number)
        code = self.program.wait(180)
        return code, [pid for pid in family if is_there(pid)]


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def start_up(tmp_path):
    """Starts `deita up` in a folder with a pool; killed at the end if it is still there."""
    (tmp_path / "pool").mkdir()
    started = []

    def start(*flags, **variables):
        started.append(Up(tmp_path, environment(tmp_path / "prefect", **variables), *flags))
        return started[-1]

    yield start
    for up in started:
        Installation.kill(up.program)


def test_up_starts_everything_in_any_folder_and_ctrl_c_ends_all_of_it(start_up, tmp_path):
    port = free_port()
    up = start_up("--port", str(port))
    up.wait_for("Ctrl-C")
    assert f"http://127.0.0.1:{port}" in up.text
    # A browser on another machine reaches the API by the name it has for the server.
    assert httpx.get(f"http://127.0.0.1:{port}/ui-settings").json()["api_url"] == "/api"
    assert "update/nightly" in up.text and "evolve/on-demand" in up.text
    assert "Next: update/nightly at " in up.text
    assert len(descendants(up.program.pid)) >= 2
    assert up.end(signal.SIGINT) == (0, [])
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_up_uses_a_running_server_and_a_file_that_arrives_starts_an_update(start_up, tmp_path, tiny_model):
    heads = make_heads(tmp_path / "heads", tiny_model)
    scorers = {f"DEITA_{axis.upper()}_SCORER": heads / axis for axis in ("complexity", "quality")}
    with Installation(tmp_path / "server") as place:
        up = start_up("--work-pool", "other", PREFECT_API_URL=place.api, DEITA_ENCODER=tiny_model, **scorers)
        up.wait_for("Ctrl-C")
        write_rows(tmp_path / "pool" / "new.jsonl", 0, 12)
        up.wait_for("new.jsonl changed")
        manifest = tmp_path / "out" / "nightly" / "manifest.json"
        place.until(manifest.is_file, 90)
        reports = re.search(r"Reports are at (http://127\.0\.0\.1:\d+)\n", up.text)[1]
        link = f"{reports}/{folder_key(tmp_path / 'out' / 'nightly')}"
        shown = {"key": {"any_": ["selection-folder"]}}
        [artifact] = place.until(lambda: place.post("artifacts/filter", artifacts=shown), 90)
        assert f"({link})" in artifact["data"]
        assert link.removeprefix(reports) in httpx.get(reports).text
        assert httpx.get(link).content == (manifest.parent / "report.html").read_bytes()
        assert up.end(signal.SIGTERM) == (0, [])
        assert httpx.get(f"{place.api}/health").json() is True


def test_nothing_stays_behind_where_up_is_killed(start_up):
    up = start_up("--port", str(free_port()))
    up.wait_for("Ctrl-C")
    family = descendants(up.program.pid)
    assert len(family) >= 3
    up.program.kill()
    end = time.monotonic() + 180
    while any(is_running(pid) for pid in family):
        assert time.monotonic() < end
        time.sleep(0.2)


def is_running(pid):
    """Whether a process runs; one that has ended may wait for process 1 to take note of it."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


GUARDED = """
import os, signal, sys, time
from pathlib import Path
from flows.ops.guard import Guard
from flows.ops.processes import running

shell = "trap '' TERM; trap 'exit 0' INT; sleep 600 & echo ready; while true; do sleep 0.1; done"
with Guard() as guard:
    with running(["sh", "-c", shell], os.environ, Path(sys.argv[1]), signal.SIGINT) as program:
        guard.watch(program.pid, signal.SIGINT)
        print(program.pid, flush=True)
        sys.stdin.read()
"""


@pytest.mark.parametrize("killed", [True, False])
def test_a_guarded_program_ends_with_its_starter_and_the_guard_with_both(tmp_path, killed):
    log = tmp_path / "log"
    words = [sys.executable, "-c", GUARDED, str(log)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        int(starter.stdout.readline())
        end = time.monotonic() + 60
        while "ready" not in log.read_text():
            assert time.monotonic() < end
        # The guard, the shell, and its sleep.
        family = descendants(starter.pid)
        assert len(family) >= 3
        if killed:
            starter.kill()
        else:
            starter.stdin.close()
    while any(is_running(pid) for pid in family):
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("flags", "variables", "sentence"),
    [
        (["--port", "{taken}"], {}, "Port {taken} of 127.0.0.1 cannot be had"),
        (["--pool-folder", "absent"], {}, "absent is not there; make the folder, or give another with --pool-folder"),
        ([], {"PREFECT_API_URL": "http://127.0.0.1:{closed}/api"}, "No Prefect server answers at http://127.0.0.1"),
        ([], {"DEITA_BUDGET": "many"}, "The setting budget cannot be 'many'"),
    ],
)
def test_what_cannot_start_is_said_in_one_sentence(start_up, flags, variables, sentence):
    with socket.create_server(("127.0.0.1", 0)) as other:
        known = {"taken": other.getsockname()[1], "closed": free_port()}
        variables = {name: value.format(**known) for name, value in variables.items()}
        up = start_up(*(flag.format(**known) for flag in flags), **variables)
        assert up.program.wait(180) == 2
    assert sentence.format(**known) in up.text
    assert "Traceback" not in up.text


def test_the_store_of_the_settings_file_is_that_of_all_deployments_unless_a_flag_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pool").mkdir()
    (tmp_path / "deita.yaml").write_text("store: elsewhere")
    given = {"DEITA_CONFIG": "deita.yaml"}
    assert _variables(given)["DEITA_STORE"] == "elsewhere"
    assert _variables({**given, "DEITA_STORE": "flagged"})["DEITA_STORE"] == "flagged"
    assert _variables({})["DEITA_STORE"] == ".deita"


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [({}, "set PREFECT_API_URL"), ({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "No Prefect server answers at")],
)
def test_a_watch_that_could_tell_nobody_is_refused(tmp_path, variables, sentence):
    words = [sys.executable, "-m", "flows.cli", "watch", str(tmp_path)]
    env = environment(tmp_path / "prefect", PYTHONPATH=ROOT, **variables)
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 2
    assert sentence in done.stderr and done.stderr.count("\n") == 1


def test_files_that_no_server_could_be_told_of_are_kept_and_told_of_later(tmp_path, monkeypatch):
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.ops.server import watch

    monkeypatch.setattr("flows.ops.server.CHECK_INTERVAL", 0.05)
    monkeypatch.setattr("flows.ops.server.FolderWatch", lambda folder: FolderWatch(folder, settled=0))
    port, told = free_port(), []

    class Events(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def do_POST(self):
            told.append(self.rfile.read(int(self.headers["content-length"])).decode())
            self.send_response(204)
            self.end_headers()

    with (
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}),
        get_client(sync_client=True) as client,
    ):
        lines = watch(client, "pool", tmp_path, [])
        timer = threading.Timer(0.5, lambda: (tmp_path / "new.jsonl").write_text("a"))
        timer.start()
        assert "new.jsonl changed, but the server cannot be told" in next(lines)
        with HTTPServer(("127.0.0.1", port), Events) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            assert next(lines) == "new.jsonl changed: an update is asked for."
            server.shutdown()
    assert len(told) == 1 and "new.jsonl" in told[0]


def test_a_server_that_is_away_ends_a_command_with_one_sentence(capsys, monkeypatch):
    from flows.cli import main as cli

    def fail():
        raise httpx.ConnectError("All connection attempts failed")

    monkeypatch.setattr(cli, "app", fail)
    said, code = cli.run()
    assert said.startswith("The Prefect server went away (All connection attempts failed); what is done is kept")
    assert code == 1 and capsys.readouterr().err == ""
    monkeypatch.setenv("DEITA_DEBUG", "1")
    assert cli.run() == (said, 1)
    assert "Traceback" in capsys.readouterr().err


def test_programs_are_found_where_there_is_no_ps(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with running(["/bin/sh", "-c", "/bin/sleep 600 & wait"], {}, tmp_path / "log", signal.SIGTERM) as program:
        end = time.monotonic() + 60
        while not (family := descendants(program.pid)):
            assert time.monotonic() < end
    # Killed, they are there until process 1 has taken note of it.
    while any(pid in descendants(1) for pid in family):
        assert time.monotonic() < end


def test_a_failed_deploy_gives_the_reason_and_exit_code_2_where_a_setting_is_wrong(tmp_path):
    from flows.ops.server import OperatingError, _refused

    last = "prefect.deployments.steps.core.StepExecutionError: Encountered error while running here\n"
    setting = "    raise InputError(problem) from None\ndeita_core.errors.InputError: The budget is odd.\n\n" + last
    refused = _refused(tmp_path, setting, tmp_path)
    assert isinstance(refused, InputError) and "cannot be deployed: The budget is odd; " in str(refused)
    cron = '1 validation error for CronSchedule\ncron\n  Value error, Invalid cron string: "x"\n    For further\n'
    assert _refused(tmp_path, cron, tmp_path).exit_code == 2
    lost = _refused(tmp_path, "httpcore.ConnectError: low\n\nhttpx.ConnectError: All attempts failed\n", tmp_path)
    assert isinstance(lost, OperatingError) and "deployed: All attempts failed; " in str(lost)


def test_a_folder_that_is_away_for_a_while_is_watched_again(tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    (folder / "old.jsonl").write_text("old")
    watch = FolderWatch(folder, settled=1)
    folder.rename(tmp_path / "away")
    assert watch.look(10) == watch.look(20) == []
    (tmp_path / "away").rename(folder)
    (folder / "new.jsonl").write_text("new")
    assert [watch.look(30), watch.look(40)] == [[], ["new.jsonl"]]


def test_a_program_that_does_not_want_to_end_is_ended_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.ops.processes.GRACE", 1.0)
    stubborn = "trap '' INT TERM; sleep 300 & echo ready; while true; do sleep 1; done"
    with running(["sh", "-c", stubborn], os.environ, tmp_path / "log", signal.SIGINT) as program:
        while "ready" not in (tmp_path / "log").read_text():
            time.sleep(0.05)
        family = [program.pid, *descendants(program.pid)]
        assert len(family) >= 2
    time.sleep(0.2)
    assert [pid for pid in family[1:] if pid in descendants(os.getpid())] == []
    assert program.poll() is not None


def test_a_file_is_told_of_once_it_has_stopped_growing(tmp_path):
    (tmp_path / "old.jsonl").write_text("old")
    watch = FolderWatch(tmp_path, settled=10)
    assert watch.look(0) == []
    (tmp_path / "new.jsonl").write_text("a")
    assert watch.look(20) == []
    (tmp_path / "new.jsonl").write_text("ab")
    assert watch.look(29) == []
    assert watch.look(38) == []
    assert watch.look(39) == ["new.jsonl"]
    assert watch.look(100) == []


def test_files_that_change_or_go_are_told_of_and_hidden_ones_are_not(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(name)
    watch = FolderWatch(tmp_path, settled=0)
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "b.jsonl").write_text("other")
    (tmp_path / ".part.jsonl").write_text("half")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "c.jsonl").write_text("new")
    assert watch.look(1) == ["a.jsonl", "b.jsonl", "deeper/c.jsonl"]
    assert watch.look(2) == []
