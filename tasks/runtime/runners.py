"""Runs shards in threads or processes of this machine, or on a Dask or Ray cluster."""

import logging
import os
import signal
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from multiprocessing import active_children, parent_process
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread, Timer
from typing import Any

from prefect import Task, get_run_logger
from prefect.client.orchestration import get_client
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from deita_core.alignment.rank_model import RankModelFiles
from deita_core.errors import DeitaError, InputError, cause
from deita_core.models.cancellation import CANCELLED
from deita_core.models.devices import count_gpus
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.scorers import ScorerFiles
from deita_core.stages.shards import Shard
from deita_core.stages.token_counts import TokenizerFiles
from tasks.runtime.progress import INTERRUPTIONS

# Two shards at a time: one is read or written while the other is computed.
THREADS = 2
# Seconds for a cluster to respond.
REACH = 10
# Seconds for a worker process to end its shard after an interrupt.
GRACE = 10.0

Files = EncoderFiles | ScorerFiles | TokenizerFiles | RankModelFiles
Given = Mapping[str, str | Files | list[ScorerFiles]]
Submit = Callable[[Task[..., int], Given, Shard], PrefectFuture[int]]
Runner = TaskRunner[Any]


@contextmanager
def open_runner(name: str) -> Iterator[Submit]:
    """Start a runner for shards: threads, processes, dask://HOST:PORT or ray://HOST:PORT, local ones without a host.

    Yields `submit(task, given, shard)`, for use within the flow run: the task's parameters are `given` and the shard.
    After an interrupt, waiting shards do not start, and running shards end within seconds; on an existing cluster they
    run to their end. Raises InputError as `check_runner`, DeitaError if a worker is lost for good.
    """
    check_runner(name)
    CANCELLED.clear()
    kind, _, address = name.partition("://")
    # Workers must report to this run's server, even if it is a temporary one that no setting names; otherwise each
    # worker would start its own. New settings cost a tenth of a second, so they are made once.
    server = str(get_client(sync_client=True).api_url)
    settings = nullcontext() if PREFECT_API_URL.value() == server else temporary_settings({PREFECT_API_URL: server})
    with _started(kind, address) as runner, settings:
        try:
            yield partial(_submit, runner, _on_ray_gpu if kind == "ray" else nullcontext)
        except INTERRUPTIONS:
            CANCELLED.set()
            raise


def _started(kind: str, address: str) -> AbstractContextManager[Runner]:
    if kind == "threads":
        return ThreadPoolTaskRunner(max_workers=THREADS)
    if kind == "processes":
        return _processes()
    return _dask(address) if kind == "dask" else _ray(address)


def _submit(
    runner: Runner, on_gpu: Callable[[], AbstractContextManager[Any]], task: Task[..., int], given: Given, shard: Shard
) -> PrefectFuture[int]:
    parameters = {**{name: _anywhere(value) for name, value in given.items()}, "shard": shard}
    place = on_gpu() if _computes(given) else nullcontext()
    with place, _ctrl_c_blocked():
        return runner.submit(task, parameters)


def _computes(given: Given) -> bool:
    """Whether a shard runs a large model here: heads only read vectors, and served models run elsewhere."""
    scorers = given.get("scorers")
    if isinstance(scorers, list):
        return any(scorer.kind in ("causal", "classifier") for scorer in scorers)
    return "encoder" in given or "model" in given


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Block ctrl-C in threads and processes started here: a terminal sends it to all, but the run must end them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _anywhere(value: Any) -> Any:
    """Make the paths in a parameter (store, model folders) absolute, for processes with another working directory."""
    if isinstance(value, list):
        return [_anywhere(one) for one in value]
    if isinstance(value, str):
        return value if "://" in value else _absolute(value)
    name = _absolute(value.name) if Path(value.name).expanduser().is_dir() else value.name
    if isinstance(value, TokenizerFiles):
        encoder = _anywhere(value.encoder) if value.encoder else None
        return value.model_copy(update={"name": name, "encoder": encoder})
    return value.model_copy(update={"name": name, "path": value.path and value.path.absolute()})


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


# -- processes of this machine


def shares() -> tuple[int, int]:
    """Return the number of worker processes on this machine, and the compute threads of each.

    Their product is about the number of processors: by default torch uses all of them in every process, and threads
    that compete for processors make a run slower than a single process. Each process loads its own model; a machine
    with GPUs gets one process per GPU.
    """
    processors = os.cpu_count() or 1
    asked = get_current_settings().tasks.runner.process_pool_max_workers
    workers = asked or count_gpus() or min(processors, max(2, processors // 4))
    return workers, max(1, processors // workers)


@contextmanager
def _processes() -> Iterator[Runner]:
    workers, threads = shares()
    others = active_children()
    runner = ProcessPoolTaskRunner(max_workers=workers, initializer=prepare_worker, initargs=(threads,))
    with runner:
        try:
            yield runner
        except BrokenProcessPool:
            raise DeitaError(
                "A worker process of the run died, as when memory runs out; what is done is kept, run the same command "
                "to go on, with fewer of them (PREFECT_TASKS_RUNNER_PROCESS_POOL_MAX_WORKERS) or --runner threads."
            ) from None
        except INTERRUPTIONS:
            _end([child for child in active_children() if child not in others])
            raise


def _end(workers: list[BaseProcess]) -> None:
    """Ask worker processes to end; kill those still alive after GRACE seconds."""
    for worker in workers:
        worker.terminate()
    timer = Timer(GRACE, _kill, [workers])
    timer.daemon = True
    timer.start()


def _kill(workers: list[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()


def prepare_worker(threads: int) -> None:
    """Set up a worker process: its number of threads, and when it ends."""
    # Torch reads this when it is imported, which happens later.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    signal.signal(signal.SIGTERM, lambda *_: CANCELLED.set())
    Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """Exit when the run's process ends for any reason; otherwise a worker would wait for the next shard forever."""
    if parent := parent_process():
        wait([parent.sentinel])
        os._exit(1)


# -- clusters


def check_runner(name: str) -> None:
    """Raise InputError if a runner's package is missing, or nothing responds at its address."""
    kind, _, address = name.partition("://")
    package = {"dask": "prefect_dask", "ray": "prefect_ray"}.get(kind)
    if package and find_spec(package) is None:
        raise InputError(f"The runner {kind}:// needs a package more: pip install 'deita-flows[{kind}]'.")
    if not address:
        return
    host, _, port = address.rpartition(":")
    try:
        # Ray's own client would try for half a minute.
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()
    except OSError as error:
        raise InputError(
            f"No {kind.title()} cluster answers at {name} ({cause(error)}); check the address, or use another --runner."
        ) from None


@contextmanager
def _dask(address: str) -> Iterator[Runner]:
    import distributed
    from prefect_dask import DaskTaskRunner

    where: dict[str, Any] = {"address": f"tcp://{address}"} if address else {"cluster_kwargs": _local_dask()}
    with DaskTaskRunner(**where, client_kwargs={"timeout": REACH}) as runner:
        try:
            # The client is created on first access; do it now, to raise its errors before the work is planned.
            assert runner.client
            yield runner
        except (distributed.KilledWorker, distributed.client.FutureCancelledError) as error:
            raise _lost("Dask", error) from None


def _local_dask() -> dict[str, Any]:
    workers, threads = shares()
    # No dashboard: its port may be in use, and Prefect shows the run.
    return {
        "n_workers": workers,
        "threads_per_worker": 1,
        "env": {"OMP_NUM_THREADS": str(threads)},
        "dashboard_address": None,
        "silence_logs": logging.CRITICAL,
    }


@contextmanager
def _ray(address: str) -> Iterator[Runner]:
    import ray
    from prefect_ray import RayTaskRunner

    # Ray reports usage statistics of every cluster that it starts, unless this is set.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    where: dict[str, Any] = {"address": f"ray://{address}"} if address else {"init_kwargs": _local_ray()}
    with ExitStack() as stack:
        with warnings.catch_warnings():
            # lancedb warns about forks, but Ray's forks start another program at once.
            warnings.filterwarnings("ignore", "lancedb fork")
            runner = _let_in(lambda: stack.enter_context(RayTaskRunner(**where)), address)
        try:
            yield runner
        except ray.exceptions.RayError as error:
            raise _lost("Ray", error) from None


def _let_in(enter: Callable[[], Runner], address: str, tries: int = 3) -> Runner:
    """Connect to a Ray cluster; a busy head may give up on the process that it starts for a client, so ask again."""
    try:
        return enter()
    except (ConnectionError, RuntimeError) as error:
        if tries == 1 or "Starting Ray client server failed" not in str(error):
            raise InputError(
                f"The Ray cluster at ray://{address} does not let the run in ({cause(error)}); check that it has "
                f"this version of Ray and Python, and RAY_AUTH_MODE and RAY_AUTH_TOKEN if it asks for a token."
            ) from None
    get_run_logger().warning("The Ray cluster at ray://%s did not start a process for this run; trying again", address)
    return _let_in(enter, address, tries - 1)


def _on_ray_gpu() -> AbstractContextManager[Any]:
    """Reserve a GPU for each shard if the cluster has any.

    Its worker stays alive for the next shard, because it holds the model, and keeps its first GPU, whatever Ray
    assigns.
    """
    import ray
    from prefect_ray.context import remote_options

    return remote_options(num_gpus=1, max_calls=0) if ray.cluster_resources().get("GPU") else nullcontext()


def _local_ray() -> dict[str, Any]:
    workers, threads = shares()
    # Logs are sent to the server in batches; the last batch must be sent before the cluster stops.
    variables = {"OMP_NUM_THREADS": str(threads), "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.1"}
    return {
        "num_cpus": workers,
        "runtime_env": {"env_vars": variables},
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }


def _lost(cluster: str, error: Exception) -> DeitaError:
    return DeitaError(
        f"The {cluster} cluster lost a shard for good ({cause(error)}); what is done is kept, see the workers' logs "
        f"and run the same command to go on."
    )
