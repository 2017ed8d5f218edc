"""Tasks that fail once: the run ends as an undisturbed one. benchmarks.faults has each of them by itself."""

from contextlib import ExitStack

import pytest

from benchmarks.faults import BUCKET, FLOWS, POINTS, Fault, Place, hurried, project_tasks, undisturbed, visible
from deita_core.errors import StoreError
from deita_core.store import Store
from deita_core.tables import DECISIONS
from tests.support.evolution_run import KEY
from tests.support.llm_server import LLMServer
from tests.support.remote_server import s3_server

pytestmark = pytest.mark.slow

RETRIED = [flow for flow in FLOWS if flow != "export"]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("DEITA_LLM__API_KEY", KEY)


@pytest.fixture(scope="module")
def tasks(prefect_server):
    tasks = project_tasks()
    with hurried(tasks):
        yield tasks


@pytest.fixture(scope="module")
def endpoint():
    with LLMServer() as server:
        yield server


@pytest.fixture(scope="module")
def place(tmp_path_factory, endpoint):
    return Place(tmp_path_factory.mktemp("faults"), endpoint, None)


def run_with(place, flow, tasks, faults):
    """Run a flow from its beginning, with faults; what it returns."""
    place.restore()
    with ExitStack() as stack:
        for fault in faults:
            stack.enter_context(fault.injected(tasks))
        return getattr(place, flow)()


def counted(place, flow, tasks):
    """The tasks of a flow, each with the number of writes its first run makes."""
    faults = [Fault(name, "half-way", None) for name in tasks]
    run_with(place, flow, tasks, faults)
    return {fault.task: fault.effects for fault in faults if fault.met}


@pytest.mark.parametrize("flow", RETRIED)
def test_a_run_in_which_every_task_fails_once_is_an_undisturbed_one(flow, key, tasks, place, monkeypatch):
    monkeypatch.setenv("DEITA_LLM__API_KEY", KEY)
    _, after, counts = undisturbed(place, flow)
    effects = counted(place, flow, tasks)
    assert effects, "no task was seen"
    for point, error in zip(POINTS, (OSError, RuntimeError, OSError), strict=True):
        faults = [Fault(name, point, error, writes) for name, writes in effects.items()]
        assert run_with(place, flow, tasks, faults) == counts
        assert all(fault.met for fault in faults)
        assert place.state() == after


@pytest.mark.parametrize("point", POINTS)
def test_an_export_that_fails_leaves_all_as_it_was_or_has_done_all(point, tasks, place):
    before, after, _ = undisturbed(place, "export")
    name = "export_selection"
    fault = Fault(name, point, OSError, counted(place, "export", tasks)[name])
    with pytest.raises(OSError, match="injected"):
        run_with(place, "export", tasks, [fault])
    assert place.state() == (after if point == "end" else before)


@pytest.mark.parametrize("name", ["select_samples", "prepare_files", "close_run"])
def test_a_run_that_fails_for_good_leaves_what_stood_before_and_the_next_is_right(name, tasks, place):
    before, after, counts = undisturbed(place, "update")
    fault = Fault(name, "end" if name == "select_samples" else "start", OSError, lasting=True)
    with pytest.raises(OSError, match="injected"):
        run_with(place, "update", tasks, [fault])
    assert visible(place.state()) == visible(before)
    assert place.update() == counts.model_copy(update={"encoded": 0, "scored": 0})
    assert visible(place.state()) == visible(after)


def test_files_that_cannot_take_their_places_leave_the_earlier_ones(tasks, place):
    before, *_ = undisturbed(place, "update")
    with pytest.raises(OSError, match="injected"):
        run_with(place, "update", tasks, [Fault("place_files", "start", OSError, lasting=True)])
    assert place.state()["files"] == before["files"]
    assert place.state()["hidden"] == []


def test_every_task_may_fail_once_with_a_store_on_object_storage(tasks, endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("DEITA_CACHE", str(tmp_path / "cache"))
    with s3_server(BUCKET) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        place = Place(tmp_path / "place", endpoint, variables["AWS_ENDPOINT_URL"])
        _, after, counts = undisturbed(place, "select")
        effects = counted(place, "select", tasks)
        faults = [Fault(name, "half-way", OSError, writes) for name, writes in effects.items()]
        assert run_with(place, "select", tasks, faults) == counts
        assert place.state() == after


def test_files_that_do_not_agree_with_the_store_are_not_placed(tasks, place):
    place.lay("export")
    before = place.state()["files"]
    store = Store(place.store)
    store.delete(DECISIONS, "rank = 1")
    with pytest.raises(StoreError, match=r"do not agree .* so none of them was put in place"):
        place.export()
    assert place.state()["files"] == before
    assert place.state()["hidden"] == []
