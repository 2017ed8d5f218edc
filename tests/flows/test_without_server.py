"""Commands where Prefect's server or settings cannot be used: one sentence, soon, and no process that stays behind."""

import json
import os
import re
import signal
import socket
import socketserver
import sqlite3
import subprocess
import sys
import time
from importlib.util import find_spec
from threading import Thread
from uuid import uuid4

import psutil
import pytest

from deita_core.errors import DeitaError, InputError
from flows.cli import server as cli_server
from flows.cli.server import TemporaryServer, check_named, last_words
from flows.ops.prefect_settings import LOOPBACK, spare_loopback
from tests.support.commands import PROGRESS, deita
from tests.support.paths import ROOT as PROJECT

pytestmark = pytest.mark.slow

ROWS = "".join(
    json.dumps({"instruction": f"the quick fox {number}", "output": f"it runs {number}"}) + "\n" for number in range(4)
)
ROOT = str(PROJECT)
# The variable by which the processes of one command are told from all others.
MARK = "TEST_OF_A_DEITA_COMMAND"
# Nothing listens there.
DEAD = "127.0.0.1:9"


class Command:
    """A command in a folder of its own, with a Prefect home of its own and no settings of this test run."""

    def __init__(self, folder, *words, **variables):
        self.mark = uuid4().hex
        path = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))
        hidden = re.compile("PREFECT_|DEITA_|.*_PROXY$", re.IGNORECASE)
        env = {name: value for name, value in os.environ.items() if not hidden.match(name)}
        env |= {
            "PREFECT_HOME": str(folder / "home"),
            "PYTHONPATH": path,
            "COLUMNS": "300",
            MARK: self.mark,
            **variables,
        }
        self.program = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *map(str, words)],
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def processes(self):
        """What is there of it: the process itself and all that it has started."""
        return [process for process in psutil.process_iter() if self._is_mine(process)]

    def _is_mine(self, process):
        try:
            return process.environ().get(MARK) == self.mark
        except psutil.Error:
            return False

    def wait(self):
        """Until it has ended; its exit code, its stderr without the lines on progress, and what is left of it."""
        _, said = self.program.communicate(timeout=300)
        end = time.monotonic() + 30
        while self.processes() and time.monotonic() < end:
            time.sleep(0.1)
        left = self.processes()
        for process in left:
            process.kill()
        lines = [line for line in said.splitlines() if not PROGRESS.search(line)]
        return self.program.returncode, "\n".join(lines), left


@pytest.fixture
def run(tmp_path):
    """Runs a command to its end, in a folder that has rows.jsonl."""
    (tmp_path / "rows.jsonl").write_text(ROWS)

    def run_it(*words, **variables):
        return Command(tmp_path, *(words or ("calibrate", "rows.jsonl")), **variables).wait()

    return run_it


def assert_one_sentence(said, *parts):
    assert said.startswith("deita: ") and said.count("\n") == 0, said
    for part in parts:
        assert part in said


def make_foreign_database(home):
    home.mkdir()
    with sqlite3.connect(home / "prefect.db") as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES ('0123456789ab')")


# -- servers that do not start


def test_a_database_of_another_version_is_named_with_what_to_do(run, tmp_path):
    make_foreign_database(tmp_path / "home")
    code, said, left = run()
    assert_one_sentence(said, "0123456789ab", str(tmp_path / "home"), "PREFECT_HOME=FOLDER")
    assert (code, left) == (1, [])


def test_a_home_that_cannot_be_written_is_named_with_what_to_do(tmp_path, monkeypatch):
    # Root may write anywhere, but not below a file.
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    said = failed_start(tmp_path / "home")
    for part in ("unable to open database file", str(tmp_path / "home"), "PREFECT_HOME=FOLDER"):
        assert part in said


def test_a_server_that_ends_at_once_is_noticed_by_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "sqlite+nothing:///x.db")
    said = failed_start(tmp_path)
    assert "ended as soon as it was started" in said and "sqlite.nothing" in said


def failed_start(home):
    """What a temporary server says that does not start; nothing of it is left."""
    server = TemporaryServer(str(home), seconds=180)
    with pytest.raises(DeitaError) as failed:
        server.join()
    assert not [child for child in psutil.Process().children() if child.cmdline()[-2:-1] == [cli_server.__file__]]
    assert "\n" not in str(failed.value)
    return str(failed.value)


def test_a_server_that_ends_later_is_not_taken_for_one_that_somebody_else_started(tmp_path):
    server = TemporaryServer(str(tmp_path), seconds=180)
    server.join()
    assert server.loss() is None
    (process,) = [found for found in psutil.Process().children() if found.cmdline()[-2].endswith("server.py")]
    process.kill()
    process.wait()
    assert "The temporary Prefect server ended" in str(server.loss())
    server.stop()


def test_files_that_hide_standard_modules_do_not_matter(run, tmp_path, tiny_model, prefect_home):
    for name in ("random.py", "queue.py"):
        (tmp_path / name).write_text("raise SystemExit('not the library')")
    code, said, left = run("calibrate", "rows.jsonl", "--encoder", tiny_model)
    assert (code, said, left) == (0, "", [])


# -- servers that are named


def test_a_server_that_never_answered_did_not_go_away(run):
    code, said, left = run(PREFECT_API_URL=f"http://{DEAD}/api")
    assert_one_sentence(said, f"No Prefect server answers at http://{DEAD}/api", "or unset PREFECT_API_URL")
    assert (code, left) == (2, [])


def test_an_address_without_a_scheme_is_named():
    with pytest.raises(InputError, match=r"^No Prefect server answers at 127\.0\.0\.1:4200/api"):
        check_named("127.0.0.1:4200/api")


def test_what_answers_but_is_no_prefect_server_is_named():
    with (
        answering(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n") as (port, _),
        pytest.raises(InputError, match=r"404 Not Found, as no Prefect server .* check PREFECT_API_URL"),
    ):
        check_named(f"http://127.0.0.1:{port}/api")


def test_without_a_server_and_leave_to_start_one_the_sentence_says_which_settings_to_make(run):
    code, said, left = run(PREFECT_SERVER_ALLOW_EPHEMERAL_MODE="false")
    assert_one_sentence(said, "PREFECT_API_URL", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE")
    assert (code, left) == (2, [])


# -- settings


# Every command loads Prefect's settings in the same way, so each of the three has one of the files.
@pytest.mark.parametrize(
    ("words", "name", "text", "parts"),
    [
        (("calibrate", "rows.jsonl"), "home/profiles.toml", "active = [", ["home/profiles.toml"]),
        (("up", "--pool-folder", "."), "pyproject.toml", "[tool.prefect", ["pyproject.toml"]),
        (("watch", "."), ".env", "PREFECT_LOGGING_LEVEL=LOUD", [".env", "'LOUD'", "'WARNING'"]),
    ],
)
def test_settings_that_prefect_cannot_use_are_named_with_their_file(run, tmp_path, words, name, text, parts):
    (tmp_path / "home").mkdir()
    (tmp_path / name).write_text(text)
    code, said, left = run(*words)
    assert_one_sentence(said, *parts)
    assert (code, left) == (2, [])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject.toml", "[tool]\nprefect = 3"),
        ("pyproject.toml", "[tool.prefect.logging]\nlevel = 'LOUD'"),
        ("prefect.toml", "= 3"),
        ("home/profiles.toml", "profiles = 3"),
        ("home/profiles.toml", "active = 'x'\n[profiles.x]\nPREFECT_LOGGING_LEVEL = 'LOUD'"),
    ],
)
def test_more_settings_that_prefect_cannot_use_are_named_with_their_file(run, tmp_path, name, text):
    (tmp_path / "home").mkdir()
    (tmp_path / name).write_text(text)
    code, said, left = run()
    assert_one_sentence(said, name)
    assert (code, left) == (2, [])


def test_a_wrong_variable_is_named(run):
    code, said, left = run(PREFECT_LOGGING_LEVEL="LOUD")
    assert_one_sentence(said, "PREFECT_LOGGING_LEVEL", "'LOUD'", "'WARNING'")
    assert (code, left) == (2, [])


def test_a_line_of_env_that_is_for_another_program_is_said_once_and_stops_nothing(
    run, tmp_path, tiny_model, prefect_server
):
    (tmp_path / ".env").write_text('A=1\nthis is = not "a line\n')
    code, said, left = run("calibrate", "rows.jsonl", "--encoder", tiny_model, PREFECT_API_URL=prefect_server)
    assert_one_sentence(said, ".env", "line 2")
    assert (code, left) == (0, [])


# -- `deita up`


def test_up_names_the_last_words_of_a_server_that_does_not_start(run, tmp_path):
    make_foreign_database(tmp_path / "home")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code, said, left = run("up", "--pool-folder", ".", "--port", str(port))
    assert_one_sentence(said, "The server does not start", "0123456789ab")
    assert (code, left) == (1, [])


def test_up_names_a_home_that_cannot_be_written(run, tmp_path):
    (tmp_path / "home").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code, said, left = run("up", "--pool-folder", ".", "--port", str(port))
    assert_one_sentence(said, str(tmp_path / "home"), "PREFECT_HOME=FOLDER")
    assert (code, left) == (1, [])


# -- proxies


class answering:  # noqa: N801
    """A server that answers every request with the same bytes; its port, and the first line of each request."""

    def __init__(self, reply):
        asked = self.asked = []

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                asked.append(self.rfile.readline().decode(errors="replace"))
                self.wfile.write(reply)

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)

    def __enter__(self):
        Thread(target=self.server.serve_forever, daemon=True).start()
        return self.server.server_address[1], self.asked

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def test_a_temporary_server_is_asked_without_a_proxy(run, tiny_model, prefect_home):
    needs_socks()
    proxy = {"all_proxy": f"socks5://{DEAD}", "HTTP_PROXY": f"http://{DEAD}", "no_proxy": "example.com"}
    code, said, left = run("calibrate", "rows.jsonl", "--encoder", tiny_model, **proxy)
    assert (code, said, left) == (0, "", [])


def needs_socks():
    if find_spec("socksio") is None:
        pytest.skip("SOCKS proxies need the package socksio")


@pytest.mark.parametrize(
    "variables",
    [
        {"HTTP_PROXY": f"http://{DEAD}", "http_proxy": f"http://{DEAD}", "HTTPS_PROXY": f"http://{DEAD}"},
        {"ALL_PROXY": f"http://{DEAD}", "no_proxy": "example.com"},
        {"all_proxy": f"socks5://{DEAD}", "NO_PROXY": "localhost,127.0.0.1"},
        {"ALL_PROXY": f"socks5://{DEAD}"},
    ],
)
def test_loopback_goes_through_no_proxy(prefect_server, tiny_model, tmp_path, variables):
    if "socks5" in str(variables):
        needs_socks()
    (tmp_path / "rows.jsonl").write_text(ROWS)
    done = deita("calibrate", "rows.jsonl", "--encoder", tiny_model, cwd=tmp_path, **variables)
    assert done.returncode == 0, done.stderr


def test_a_server_on_loopback_that_is_named_is_asked_without_a_proxy(prefect_server, tiny_model, tmp_path):
    (tmp_path / "rows.jsonl").write_text(ROWS)
    with answering(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n") as (port, asked):
        proxy = {"HTTP_PROXY": f"http://127.0.0.1:{port}"}
        done = deita("calibrate", "rows.jsonl", "--encoder", tiny_model, cwd=tmp_path, **proxy)
    assert done.returncode == 0 and asked == [], done.stderr


def test_an_endpoint_elsewhere_goes_through_the_proxy(run, prefect_home):
    with answering(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n") as (port, asked):
        code, said, left = run(
            *("evolve", "rows.jsonl", "--model", "m", "--out", "out", "--base-url", "http://endpoint.invalid/v1"),
            **{"ALL_PROXY": f"http://127.0.0.1:{port}", "OPENAI_API_KEY": "key"},
        )
    assert code == 1 and left == [], said
    assert asked and all("http://endpoint.invalid/v1/" in line for line in asked)


def test_a_proxy_of_an_unknown_kind_is_one_sentence(run):
    code, said, left = run(ALL_PROXY=f"socks://{DEAD}")
    assert_one_sentence(said, "ALL_PROXY", "socks://")
    assert (code, left) == (2, [])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"NO_PROXY": None, "no_proxy": None}),
        ({"HTTP_PROXY": "http://p"}, {"NO_PROXY": ",".join(LOOPBACK), "no_proxy": ",".join(LOOPBACK)}),
        ({"all_proxy": "http://p", "no_proxy": "a, 127.0.0.1"}, {"no_proxy": "a,127.0.0.1,localhost,::1,0.0.0.0"}),
        ({"all_proxy": "http://p", "no_proxy": "a"}, {"NO_PROXY": f"a,{','.join(LOOPBACK)}"}),
        ({"all_proxy": "http://p", "NO_PROXY": "a", "no_proxy": "b"}, {"NO_PROXY": f"a,{','.join(LOOPBACK)}"}),
        ({"all_proxy": "http://p", "NO_PROXY": "*"}, {"NO_PROXY": "*"}),
    ],
)
def test_what_the_user_keeps_out_of_the_proxy_stays_out_of_it(monkeypatch, before, after):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("NO_PROXY", "no_proxy"):
        # So that what is set below is taken back.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    spare_loopback()
    assert {name: os.environ.get(name) for name in after} == after


# -- the last words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ""),
        ("one\ntwo.\n\n", "two"),
        ("Traceback:\n  x\na.b.CommandError: no such one\n\nERROR: Exiting.", "a.b.CommandError: no such one"),
        ("ValueError: " + "x" * 1_000, "ValueError: " + "x" * 288),
    ],
)
def test_the_last_words_of_a_program_are_its_last_error_or_its_last_line(text, words):
    assert last_words(text) == words


# -- interruptions


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["the server starts", "the flow runs"])
def test_an_interruption_is_one_sentence_and_leaves_nothing(tmp_path, stage, number, prefect_home):
    """To the whole group and twice in a row, which is what `timeout` does."""
    (tmp_path / "rows.jsonl").write_text(ROWS)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        words = ("evolve", "rows.jsonl", "--model", "m", "--out", "out", "--base-url", endpoint)
        # What is in flight is paid for, so it is waited for.
        command = Command(tmp_path, *words, OPENAI_API_KEY="key", DEITA_LLM__TIMEOUT="2")
        end = time.monotonic() + 200
        if stage == "the server starts":
            while len(command.processes()) < 2:
                assert time.monotonic() < end
                time.sleep(0.05)
        else:
            silent.settimeout(200)
            silent.accept()
        os.killpg(command.program.pid, number)
        if number == signal.SIGTERM:
            os.killpg(command.program.pid, number)
        code, said, left = command.wait()
    assert_one_sentence(said, "stopped")
    assert (code, left) == (1, [])


def test_a_command_that_is_killed_leaves_no_server(tmp_path):
    (tmp_path / "rows.jsonl").write_text(ROWS)
    command = Command(tmp_path, "calibrate", "rows.jsonl")
    end = time.monotonic() + 200
    while len(command.processes()) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    command.program.kill()
    assert command.wait()[2] == []
