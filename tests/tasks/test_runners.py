"""Runs whose shards are computed elsewhere, or that somebody stops; real processes, clusters and signals."""

import os
import signal
import socket
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from threading import Thread
from time import monotonic, sleep

import psutil
import pytest
from prefect.task_runners import ThreadPoolTaskRunner

from benchmarks.tiny import WORDS
from deita_core.config.settings import SelectionSettings, load_settings
from deita_core.errors import DeitaError, InputError, ModelError
from deita_core.models.cancellation import CANCELLED
from deita_core.models.encoder_spec import find_encoder
from deita_core.models.sentence_encoder import TOKENS_PER_BATCH, SentenceEncoder
from deita_core.scorers import ScorerFiles
from deita_core.stages.shards import Shard
from deita_core.store import Store
from tasks.embed import found_here
from tests.support.commands import deita
from tests.support.paths import ROOT
from tests.support.prefect_runs import ended_tasks
from tests.support.runner_pool import write_place

pytestmark = pytest.mark.slow

# Three shards of texts to encode, of some seconds each.
CHARS = 850_000
SECONDS = 240
# Tokens of a batch in a process of its own; within the tests' process it is less.
OWN_BATCH = 2_048
# Within which a run has to be over once it is stopped: some seconds here, more where others use the machine.
SOON = 60


def words(name, runner):
    """The arguments of a run of a name: a store and an output of its own."""
    models = ["--encoder", "encoder", "--complexity-scorer", "complexity-head", "--quality-scorer", "quality-head"]
    own = ["--store", f"store-{name}", "--out", f"out-{name}"]
    return ["select", "pool.jsonl", "--runner", runner, "--threshold", "0.99999", *models, *own]


def files(place, name):
    """The files that a run of a name has written."""
    return {file: (place / f"out-{name}" / file).read_bytes() for file in ("selected.jsonl", "decisions.parquet")}


class Run:
    """`deita select` in a folder, with a store and an output of its own, and paths that are relative to the folder."""

    def __init__(self, place, name, runner, server):
        self.place, self.name = place, name
        line = [sys.executable, "-m", "flows.cli", *words(name, runner)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "DEITA_PRECISION": "float32", "COLUMNS": "200"}
        if server:
            environment["PREFECT_API_URL"] = server
        started = partial(subprocess.Popen, line, cwd=place, env=environment, start_new_session=True, text=True)
        self.process = started(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    @property
    def store(self):
        return Store(self.place / f"store-{self.name}")

    def vectors(self):
        """Which vectors are written, by the version of their table."""
        return {table: version for table, version in self.store.versions().items() if table.startswith("vectors")}

    def wait_for_encoding(self, seconds):
        """Until so long after the shards were planned that one is in flight."""
        while "plans" not in self.store.tables():
            assert self.process.poll() is None, self.process.stdout.read()
            sleep(0.1)
        sleep(seconds)
        assert self.process.poll() is None, self.process.stdout.read()

    def end(self):
        """What it said, its exit code, and what of it is left running."""
        said, _ = self.process.communicate(timeout=SECONDS)
        return said, self.process.returncode, left_over(self.process.pid)

    def files(self):
        return files(self.place, self.name)


def left_over(session, patience=5.0):
    """Processes of a session that are still there, some seconds later."""
    until = monotonic() + patience
    while True:
        found = [p for p in psutil.process_iter() if _is_in(p, session)]
        if not found or monotonic() > until:
            return [" ".join(p.cmdline()) for p in found]
        sleep(0.1)


def _is_in(process, session):
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.NoSuchProcess):
        return False


@pytest.fixture(scope="module")
def place(tiny_model, tmp_path_factory):
    return write_place(tmp_path_factory.mktemp("runners") / "place", tiny_model, CHARS)


@pytest.fixture(scope="module")
def start(place, prefect_server):
    def started(name, runner, server=prefect_server):
        return Run(place, name, runner, server)

    return started


@pytest.fixture(scope="module")
def select(place, prefect_server):
    """Runs `deita select` in threads of this process, with batches as in a process of its own; returns its files."""

    def run(name):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(TOKENS_PER_BATCH, "cpu", OWN_BATCH)
            done = deita(*words(name, "threads"), cwd=place, DEITA_PRECISION="float32")
        assert done.returncode == 0, done.stderr
        return files(place, name)

    return run


@pytest.fixture(scope="module")
def threads(select):
    """The files that a run in threads writes."""
    written = select("threads")
    assert b"\n" in written["selected.jsonl"]
    return written


@pytest.fixture(scope="module")
def dask(place):
    """A Dask cluster of two worker processes, in another working directory than the runs."""
    if find_spec("prefect_dask") is None:
        pytest.skip("prefect-dask is not installed (pip install 'deita-flows[dask]')")
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def ray():
    """The address of a Ray cluster on this machine, with a token that its clients find in the environment."""
    if find_spec("prefect_ray") is None:
        pytest.skip("prefect-ray is not installed (pip install 'deita-flows[ray]')")
    ports = [free_port() for _ in range(2)]
    line = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus", "2"]
    # No accelerator of that kind needs to be there: what asks for one waits for its turn, as for a real one.
    line += ["--num-gpus", "2", "--port", str(ports[0]), "--ray-client-server-port", str(ports[1])]
    line += ["--include-dashboard", "false"]
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token_hex(32)}
    os.environ.update(token)
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    # The head gives up on a client's process after 30 s, which a loaded machine can need.
    environment["RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S"] = str(SECONDS)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    process = subprocess.Popen(line, env=environment, **quiet)
    try:
        if not answers(ports[1], process):
            pytest.skip("Ray does not start here")
        # Its port is open before it lets the first client in.
        greeting = f"import ray; ray.init('ray://127.0.0.1:{ports[1]}'); ray.get(ray.remote(lambda: 1).remote())"
        for _ in range(3):
            met = subprocess.run([sys.executable, "-c", greeting], capture_output=True, text=True, timeout=SECONDS)
            if met.returncode == 0:
                break
        assert met.returncode == 0, met.stderr
        yield f"127.0.0.1:{ports[1]}"
    finally:
        family = [process, *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            member.kill()
        for name in token:
            del os.environ[name]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def answers(port, process):
    until = monotonic() + 60
    while monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except OSError:
            sleep(0.2)
    return False


# -- the same run elsewhere


def task_states(name):
    """States of the task runs of the last run into a folder, by the task's name."""
    from prefect.client.schemas.filters import FlowRunFilter

    tasks = ended_tasks(FlowRunFilter(name={"like_": f"out-{name}"}), "record run")
    return {task.name: task.state.name for task in tasks}


def check_same(run, threads):
    said, code, left = run.end()
    assert (code, left) == (0, []), said
    assert "Traceback" not in said and "Error" not in said, said
    assert run.files() == threads
    states = task_states(run.name)
    assert sum(name.startswith("encode") for name in states) == 3
    assert set(states.values()) == {"Completed"}


def test_processes_write_the_same_files(start, threads):
    check_same(start("processes", "processes"), threads)


def test_dask_writes_the_same_files(start, threads, dask):
    check_same(start("dask", dask.scheduler_address.replace("tcp", "dask")), threads)


def test_ray_writes_the_same_files(start, threads, ray):
    check_same(start("ray", f"ray://{ray}"), threads)


@pytest.mark.parametrize(("refusals", "let_in"), [(2, True), (3, False)])
def test_a_ray_head_that_gives_up_on_its_process_is_asked_three_times(prefect_server, refusals, let_in):
    from prefect import flow

    from tasks.runtime.runners import _let_in

    asked = []

    def enter():
        asked.append(1)
        if len(asked) <= refusals:
            raise RuntimeError("Starting Ray client server failed. See ray_client_server_23002.err for detailed logs.")
        return ThreadPoolTaskRunner()

    @flow
    def entering():
        return isinstance(_let_in(enter, "127.0.0.1:10001"), ThreadPoolTaskRunner)

    if let_in:
        assert entering()
    else:
        with pytest.raises(InputError, match="does not let the run in"):
            entering()
    assert len(asked) == 3


def test_ray_lets_shards_that_compute_a_model_wait_for_a_gpu_and_keeps_their_workers(ray, prefect_server, tiny_model):
    from prefect import flow, task

    from tasks.runtime.runners import open_runner

    @task
    def look(shard, encoder=None, scorers=None):
        sleep(1)
        return os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid()

    @flow
    def looking(given):
        with open_runner(f"ray://{ray}") as submit:
            asked = [submit(look, given, Shard(key=str(i), rows=1)) for i in range(6)]
            return [future.result() for future in asked]

    encoder = {"encoder": find_encoder(str(tiny_model))}
    seen = looking(encoder)
    assert {gpu for gpu, _ in seen} == {"0", "1"}
    assert len({pid for _, pid in seen}) == 2
    # Heads and served scorers compute nothing that needs one.
    head = ScorerFiles(name="head", axis="quality", path=Path(), fingerprint="0" * 32)
    assert {gpu for gpu, _ in looking({**encoder, "scorers": [head]})}.isdisjoint({"0", "1"})


def test_a_run_outlives_a_dask_worker(start, threads, dask):
    run = start("killed", dask.scheduler_address.replace("tcp", "dask"))
    # Its workers have the model already: all is encoded within a second.
    run.wait_for_encoding(0.3)
    victim = next(iter(dask.workers.values())).process.pid
    os.kill(victim, signal.SIGKILL)
    said, code, _ = run.end()
    assert code == 0, said
    assert run.files() == threads


def test_a_dead_worker_process_ends_the_run_in_a_sentence_and_the_next_goes_on(start, select, threads):
    run = start("crashed", "processes")
    run.wait_for_encoding(3)
    workers = [p for p in psutil.Process(run.process.pid).children() if "spawn_main" in " ".join(p.cmdline())]
    workers[0].kill()
    said, code, left = run.end()
    assert (code, left) == (1, []), said
    assert "A worker process of the run died" in said and "Traceback" not in said
    assert select("crashed") == threads


# -- stopped


@pytest.mark.parametrize(
    ("runner", "sent", "whom", "own_server"),
    [("threads", signal.SIGINT, os.killpg, True), ("processes", signal.SIGTERM, os.kill, False)],
)
def test_a_stopped_run_ends_at_once_and_the_next_goes_on(start, select, threads, runner, sent, whom, own_server):
    """Ctrl-C, which a terminal sends to all of its processes, and the signal by which a run is cancelled."""
    name = f"stopped-{runner}"
    run = start(name, runner, server=None) if own_server else start(name, runner)
    run.wait_for_encoding(4)
    stopped, before = monotonic(), run.vectors()
    whom(run.process.pid, sent)
    said, code, left = run.end()
    assert monotonic() - stopped < SOON
    assert (code, left) == (1, []), said
    assert "stopped; what is done is kept" in said and "Traceback" not in said
    # The shards in flight were given up, not waited for, and those that waited did not start.
    assert run.vectors() == before
    with run.store.lock("the next run"):
        pass
    assert select(name) == threads


def test_worker_processes_end_with_a_run_that_is_killed(start):
    run = start("gone", "processes")
    run.wait_for_encoding(3)
    run.process.kill()
    assert run.end()[2] == []


def test_an_interrupted_encoder_stops_before_its_next_batch_and_can_be_used_again(tiny_model):
    encoder = SentenceEncoder(find_encoder(str(tiny_model)), "cpu", max_tokens_per_batch=1)
    texts = [f"{word} fox" for word in WORDS] * 200
    told = []

    def work():
        try:
            while True:
                encoder.encode(texts)
        except DeitaError as error:
            told.append(str(error))

    thread = Thread(target=work)
    thread.start()
    sleep(0.2)
    try:
        CANCELLED.set()
        thread.join(10)
        assert not thread.is_alive()
        with pytest.raises(DeitaError, match="interrupted"):
            encoder.encode(texts)
    finally:
        CANCELLED.clear()
    assert len(told) == 1 and "run the same command" in told[0]
    assert len(encoder.encode(texts[:3]).vectors) == 3


# -- what cannot work


@pytest.mark.parametrize("runner", ["dask", "dask:/x", "ray://host", "spark://host:1", "threads://2", ""])
def test_an_unknown_runner_is_refused_by_what_it_may_be(runner):
    with pytest.raises(InputError, match="dask://HOST:PORT"):
        load_settings(runner=runner)


@pytest.mark.parametrize("runner", ["threads", "processes", "dask://", "ray://head.example:10001", "dask://[::1]:8786"])
def test_a_known_runner_is_a_setting(runner):
    assert SelectionSettings(runner=runner).runner == runner


@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_a_cluster_that_does_not_answer_is_told_within_seconds(kind):
    from tasks.runtime.runners import check_runner

    if find_spec(f"prefect_{kind}") is None:
        pytest.skip(f"prefect-{kind} is not installed")
    begun = monotonic()
    with pytest.raises(InputError, match=f"No {kind.title()} cluster answers at {kind}://127.0.0.1:"):
        check_runner(f"{kind}://127.0.0.1:{free_port()}")
    assert monotonic() - begun < SOON


@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_a_missing_package_is_told_with_the_command_that_installs_it(kind, monkeypatch):
    from tasks.runtime.runners import check_runner

    monkeypatch.setitem(sys.modules, f"prefect_{kind}", None)
    with pytest.raises(InputError, match=rf"pip install 'deita-flows\[{kind}\]'"):
        check_runner(f"{kind}://")


def test_workers_share_the_processors():
    from tasks.runtime.runners import shares

    workers, each = shares()
    assert 1 <= workers * each <= max(workers, os.cpu_count())
    code = (
        "from tasks.runtime.runners import prepare_worker; prepare_worker(1); "
        "import torch; print(torch.get_num_threads())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert said.stdout.strip() == "1", said.stderr


# -- another machine


def test_a_worker_finds_the_encoder_by_name_where_the_folder_is_another(tiny_model, other_tiny_model, tmp_path):
    files = find_encoder(str(tiny_model), "float32")
    moved = files.model_copy(update={"path": tmp_path / "elsewhere"})
    assert found_here(moved) == files
    with pytest.raises(ModelError, match="not the run's"):
        found_here(moved.model_copy(update={"name": str(other_tiny_model)}))
