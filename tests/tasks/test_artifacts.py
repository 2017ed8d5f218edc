"""Runs whose server is away just when it is to be shown something: a warning, and the work is done all the same."""

import json
import socket
from contextlib import suppress
from threading import Thread
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from prefect.artifacts import Artifact
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from deita_core.models.fine_tuning import TuningProgress
from tasks import artifacts
from tests.support.paths import ROOT

CHAINS = ROOT / "examples" / "evolution" / "complexity.jsonl"


class Proxy:
    """Passes what it is sent on to the Prefect server; without `shows`, it breaks off whatever is about artifacts."""

    def __init__(self, url):
        self.target = (urlsplit(url).hostname, urlsplit(url).port)
        self.shows, self.asked = True, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/api"
        Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.target)
            Thread(target=self._pass_on, args=(client, server, True), daemon=True).start()
            Thread(target=self._pass_on, args=(server, client, False), daemon=True).start()

    def _pass_on(self, source, target, is_request):
        with suppress(OSError), source, target:
            while data := source.recv(65_536):
                if is_request and b" /api/artifacts/" in data.partition(b"\r\n")[0]:
                    self.asked += 1
                    if not self.shows:
                        for end in (source, target):
                            end.shutdown(socket.SHUT_RDWR)
                        return
                target.sendall(data)

    def die(self):
        """Nobody listens any more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def proxy(prefect_server, monkeypatch):
    """The session's server behind a proxy, with a client that tries once."""
    monkeypatch.setattr(artifacts, "_silent_until", 0.0)
    between = Proxy(prefect_server)
    with temporary_settings({PREFECT_API_URL: between.url, PREFECT_CLIENT_MAX_RETRIES: 0}):
        yield between
    with suppress(OSError):
        between.die()


def warnings_in(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("The Prefect server")]


def step(number):
    return TuningProgress(epoch=1, step=number, steps=10, loss=1.5, held_out_loss=1.0, seconds=2.0)


def test_training_goes_on_when_the_server_dies_and_says_so_once(proxy, capsys):
    from tasks.train import step_reporter

    seen = []
    report = step_reporter("training complexity", lambda percent, note: seen.append(percent))
    report(step(1))
    assert not warnings_in(capsys)
    proxy.die()
    for number in (2, 3, 4):
        report(step(number))
    [said] = warnings_in(capsys)
    assert said.startswith("The Prefect server could not be told of progress (") and said.endswith("5 minutes.")
    assert seen == [10, 20, 30, 40]


def test_training_begins_where_the_server_is_away_and_never_asks_it_in_the_next_minutes(proxy, capsys):
    from tasks.train import step_reporter

    proxy.shows = False
    report = step_reporter("training complexity", lambda percent, note: None)
    report(step(1))
    step_reporter("training quality", lambda percent, note: None)(step(1))
    assert proxy.asked == 1 and len(warnings_in(capsys)) == 1


def test_a_server_that_was_left_alone_is_told_again_later(proxy, monkeypatch, capsys):
    progress = artifacts.ProgressArtifact("training quality")
    proxy.shows = False
    progress.update(10.0)
    progress.update(20.0)
    assert proxy.asked == 2
    proxy.shows = True
    monkeypatch.setattr(artifacts, "_silent_until", 0.0)
    progress.update(30.0)
    assert isinstance(progress._id, UUID) and Artifact.get("training-quality").data == 30.0


def test_a_head_whose_figures_cannot_be_shown_is_trained_all_the_same(proxy, laptop, tmp_path, capsys):
    from deita_core.config.settings import TrainingSettings
    from flows.train import train

    chains = tmp_path / "chains.jsonl"
    chains.write_bytes(b"\n".join(CHAINS.read_bytes().splitlines()[:12]) + b"\n")
    proxy.shows = False
    out = tmp_path / "head"
    trained = train([str(chains)], str(out), TrainingSettings(axis="complexity", store=str(tmp_path / "store")))
    assert trained.folder == str(out) and (out / "trained.json").is_file()
    said = warnings_in(capsys)
    assert said[-1].startswith("The Prefect server could not be shown the results (")
    assert said[-1].endswith(f"they are complete in {out}.")


def test_a_selection_that_cannot_be_shown_is_made_all_the_same(proxy, laptop, tmp_path, capsys):
    from deita_core.config.settings import SelectionSettings
    from flows.selection import select

    pool = tmp_path / "pool.jsonl"
    pool.write_text(
        "".join(json.dumps({"instruction": f"fox {n}?", "output": f"it runs {n}"}) + "\n" for n in range(4))
    )
    proxy.shows = False
    out = tmp_path / "out"
    select([str(pool)], str(out), SelectionSettings(store=str(tmp_path / "store"), limit=4))
    assert (out / "manifest.json").is_file()
    progress, results = warnings_in(capsys)
    assert "could not be told of progress" in progress and results.endswith(f"they are complete in {out}.")
