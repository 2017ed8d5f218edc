"""The deployments as an operator runs them, on a real server with real workers: schedules, kills, retries, cancels."""

import json
import re
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from time import sleep
from uuid import UUID

import polars as pl
import pytest
import yaml

from deita_core.store import Store
from flows.ops.deploy_steps import VARIABLES
from tests.support.installation import ENDED, ROOT, Installation, make_heads, write_rows

pytestmark = pytest.mark.slow

NAMES = {"update/nightly", "train/weekly", "select/on-demand", "evolve/on-demand", "train/on-demand"}
# So many words make a row that fifty of them are a shard.
LONG = 1_300
BROKEN = [b'{"instruction": "Broken', b'{"instruction": "Blank", "output": " "}']


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model):
    """A server on which everything is deployed, for the tiny encoder and scorers of its own."""
    folder = tmp_path_factory.mktemp("operating")
    heads = make_heads(folder / "heads", tiny_model)
    settings = {
        "DEITA_ENCODER": tiny_model,
        "DEITA_COMPLEXITY_SCORER": heads / "complexity",
        "DEITA_QUALITY_SCORER": heads / "quality",
        "DEITA_BUDGET": 15,
        "DEITA_THRESHOLD": 0.99,
    }
    with Installation(folder, **settings) as place:
        made = place.prefect("work-pool", "create", "laptop", "--type", "process")
        assert made.returncode == 0, made.stdout
        done = place.prefect("--no-prompt", "deploy", "--all")
        assert done.returncode == 0, done.stdout + done.stderr
        # A lost run is noticed sooner here than with deployments/lost-runs.yaml as it is.
        described = yaml.safe_load((ROOT / "deployments/lost-runs.yaml").read_text())
        described["automations"][0]["trigger"]["within"] = 45
        (folder / "lost-runs.yaml").write_text(yaml.safe_dump(described))
        made = place.prefect("automation", "create", "--from-file", str(folder / "lost-runs.yaml"))
        assert made.returncode == 0, made.stdout
        yield place


@pytest.fixture
def worker(place):
    """A worker, killed at the end with all its runs."""
    program = place.start_worker()
    yield program
    place.kill(program)


def vectors(folder):
    """How many texts a store has vectors of."""
    store = Store(folder)
    tables = [name for name in store.tables() if name.startswith("vectors")]
    # A table that is just being made has its folder before it can be opened.
    handle = store._handle(tables[0]) if tables else None
    return handle.count_rows() if handle else 0


def counts(folder):
    return json.loads((folder / "manifest.json").read_text())["counts"]


def test_deploying_makes_every_deployment_with_its_schedule(place):
    found = place.deployments()
    assert set(found) == NAMES
    assert all("deita" in one["tags"] and one["description"] for one in found.values())
    [nightly] = found["update/nightly"]["schedules"]
    assert nightly["schedule"] == {"cron": "0 2 * * *", "timezone": "Europe/Oslo", "day_or": True}
    assert nightly["active"]
    weekly = found["train/weekly"]["schedules"]
    assert {one["slug"] for one in weekly} == {"complexity", "quality"}
    assert {one["parameters"]["settings"]["axis"] for one in weekly} == {"complexity", "quality"}
    # There are no chains to train on yet.
    assert not any(one["active"] for one in weekly)


def test_the_schedule_has_its_next_run_soon(place):
    name = place.deployments()["update/nightly"]["id"]
    runs = place.until(
        lambda: place.post("flow_runs/filter", deployments={"id": {"any_": [name]}}, sort="EXPECTED_START_TIME_ASC"),
        180,
    )
    assert runs[0]["auto_scheduled"]
    assert datetime.fromisoformat(runs[0]["expected_start_time"]).minute == 0


def test_the_settings_of_the_installation_are_parameters_with_their_types(place, tiny_model):
    parameters = place.deployments()["update/nightly"]["parameters"]
    assert parameters["settings"]["budget"] == 15
    assert parameters["settings"]["encoder"] == str(tiny_model)
    assert parameters["pool"] == [str(place.pool)]
    assert parameters["out"] == "out/nightly"


def test_one_queue_lets_one_run_at_a_time_write_the_store(place):
    assert {one["work_queue_name"] for one in place.deployments().values()} == {"store"}
    [queue] = [q for q in place.post("work_pools/laptop/queues/filter") if q["name"] == "store"]
    assert queue["concurrency_limit"] == 1


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_deployment_has_a_form_that_says_what_each_field_is(place, name):
    schema = place.deployments()[name]["parameter_openapi_schema"]
    assert all(field.get("description") for field in schema["properties"].values())
    for kind in schema["definitions"].values():
        fields = kind.get("properties", {})
        assert all(field.get("description") for field in fields.values()), kind["title"]
        needed = kind.get("required", [])
        assert all("default" in field or field_name in needed for field_name, field in fields.items()), kind["title"]


def test_a_run_that_cannot_be_is_refused_by_the_form(place):
    deployment = place.deployments()["select/on-demand"]["id"]
    with pytest.raises(AssertionError, match="tresholt"):
        place.post(f"deployments/{deployment}/create_flow_run", parameters={"settings": {"tresholt": 0.8}})


def test_a_variable_that_is_not_set_is_named(place):
    refused = place.prefect("--no-prompt", "deploy", "--all", DEITA_CHAINS="")
    assert refused.returncode != 0
    assert "prefect.yaml needs DEITA_CHAINS" in refused.stdout + refused.stderr


def test_the_example_of_an_environment_has_every_variable_and_no_other():
    named = set(re.findall(r"\$(DEITA_\w+)", (ROOT / "prefect.yaml").read_text()))
    example = dict(re.findall(r"^(DEITA_\w+)=(.*)$", (ROOT / "deployments/laptop.env").read_text(), re.M))
    assert named == set(VARIABLES)
    assert set(example) == {*VARIABLES, "DEITA_BUDGET"}
    assert {name: example[name].strip('"') for name in VARIABLES if name != "DEITA_HOME"} == {
        name: value for name, value in VARIABLES.items() if name != "DEITA_HOME"
    }


def test_the_job_template_makes_a_work_pool_of_kubernetes(place):
    file = ROOT / "deployments" / "kubernetes.json"
    made = place.prefect("work-pool", "create", "cluster", "--type", "kubernetes", "--base-job-template", str(file))
    assert made.returncode == 0, made.stdout
    pool = place.get("work_pools/cluster")
    variables = set(pool["base_job_template"]["variables"]["properties"])
    named = set(re.findall(r"{{ (\w+) }}", json.dumps(pool["base_job_template"]["job_configuration"])))
    assert named == variables
    default = place.prefect("work-pool", "get-default-base-job-template", "--type", "kubernetes")
    assert variables == {*json.loads(default.stdout)["variables"]["properties"], "volume_claim"}


def test_deployments_at_work_in_another_folder_are_not_taken_over(place, worker, tmp_path):
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from deita_core.errors import InputError
    from flows.ops.server import Place, check_alone

    with temporary_settings({PREFECT_API_URL: place.api}), get_client(sync_client=True) as client:
        place.until(lambda: any(one.status == "ONLINE" for one in client.read_workers_for_work_pool("laptop")), 180)
        check_alone(client, Place(None, None, ROOT, {"DEITA_HOME": str(place.data)}))
        with pytest.raises(InputError, match=f"belong to {place.data}, where a worker of the pool laptop"):
            check_alone(client, Place(None, None, ROOT, {"DEITA_HOME": str(tmp_path)}))


def test_the_weekly_training_makes_heads_for_the_encoder_of_the_nightly_update(place, tiny_model):
    weekly = place.deployments()["train/weekly"]
    made = [weekly["parameters"], *(one["parameters"] for one in weekly["schedules"])]
    assert [one["settings"]["encoder"] for one in made] == [str(tiny_model)] * 3
    assert {one["settings"]["store"] for one in made} == {".deita"}


def test_the_group_that_a_volume_is_opened_to_is_that_of_the_image():
    template = json.loads((ROOT / "deployments/kubernetes.json").read_text())
    pod = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert f"--uid {pod['securityContext']['fsGroup']} " in (ROOT / "deployments/Dockerfile").read_text()


@pytest.fixture(scope="module")
def first_night(place):
    """A nightly run over a pool of which two rows are broken; its id."""
    write_rows(place.pool / "monday.jsonl", 0, 20, odd=BROKEN)
    worker = place.start_worker()
    run = place.ask("update/nightly")
    assert place.wait(run)["type"] == "COMPLETED", place.logs(run)
    place.kill(worker)
    return run


def test_a_run_shows_its_progress_counts_rejects_top_rows_and_folder(place, first_night):
    found = place.post("artifacts/filter", artifacts={"flow_run_id": {"any_": [first_night]}})
    shown = {artifact["key"]: artifact["data"] for artifact in found}
    assert shown["encoding"] == shown["scoring-complexity-and-quality"] == 100
    rejects = json.loads(shown["selection-rejects"])
    assert [row["place"].rsplit("/")[-1] for row in rejects] == ["monday.jsonl:21", "monday.jsonl:22"]
    assert rejects[0]["reason"].startswith("broken_json")
    assert len(json.loads(shown["selection-top"])) == counts(place.data / "out" / "nightly")["selected"]
    assert "out/nightly/report.html" in shown["selection-folder"]
    decisions = pl.read_parquet(place.data / "out" / "nightly" / "decisions.parquet")
    [best] = [row for row in json.loads(shown["selection-scores"]) if (row["score"], row["rows"]) == ("score", "all")]
    assert best["50%"] == round(decisions["score"].median(), 2)
    assert "| read | 22 |" in shown["selection-counts"]


def test_a_killed_night_is_noticed_and_retried_and_ends_as_from_scratch(place, first_night, worker, tmp_path):
    out = place.data / "out" / "nightly"
    monday = counts(out)
    assert (monday["read"], monday["rejected"]) == (22, 2)

    # The second night, with a file more; everything is killed once some of it is encoded.
    write_rows(place.pool / "tuesday.jsonl", 1_000, 160, words=LONG)
    before = vectors(place.data / ".deita")
    second = place.ask("update/nightly")
    place.until(lambda: vectors(place.data / ".deita") > before, 300, every=0.05)
    place.kill(worker)
    kept = vectors(place.data / ".deita")
    assert counts(out) == monday, "the snapshot of before stays the current one"
    assert place.state(second)["type"] == "RUNNING"
    assert "its process is gone" in place.wait(second, "CRASHED")["message"]

    place.start_worker()
    retried = place.prefect("flow-run", "retry", second)
    assert retried.returncode == 0, retried.stdout
    assert place.wait(second, "COMPLETED", "FAILED")["type"] == "COMPLETED", place.logs(second)
    assert before < kept < vectors(place.data / ".deita")
    assert counts(out)["encoded"] == vectors(place.data / ".deita") - kept, "something was encoded twice"

    scratch = place.ask("select/on-demand", out=str(tmp_path / "out"), settings=place.settings(tmp_path / "store"))
    assert place.wait(scratch)["type"] == "COMPLETED", place.logs(scratch)
    assert (out / "selected.jsonl").read_bytes() == (tmp_path / "out" / "selected.jsonl").read_bytes()
    ours, theirs = (pl.read_parquet(folder / "decisions.parquet") for folder in (out, tmp_path / "out"))
    assert ours.equals(theirs)


def test_two_runs_of_a_store_go_one_after_the_other(place, worker, tmp_path):
    write_rows(tmp_path / "pool" / "few.jsonl", 6_000, 10)
    asked = {"pool": [str(tmp_path / "pool")], "settings": place.settings(tmp_path / "store")}
    runs = [place.ask(name, out=str(tmp_path / name), **asked) for name in ("select/on-demand", "update/nightly")]
    while not all(place.state(run)["type"] in ENDED for run in runs):
        assert sum(place.state(run)["type"] in ("PENDING", "RUNNING") for run in runs) <= 1
        sleep(0.1)
    assert [place.state(run)["type"] for run in runs] == ["COMPLETED", "COMPLETED"]


def test_a_cancelled_run_stops_cleanly_and_the_next_one_goes_on(place, worker, tmp_path):
    write_rows(tmp_path / "pool" / "many.jsonl", 8_000, 160, words=LONG)
    asked = {"pool": [str(tmp_path / "pool")], "out": str(tmp_path / "out"), "settings": place.settings(tmp_path / "s")}
    run = place.ask("select/on-demand", **asked)
    place.until(lambda: vectors(tmp_path / "s"), 300, every=0.05)
    place.post(f"flow_runs/{run}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
    assert place.wait(run, seconds=180)["type"] == "CANCELLED"
    assert not (tmp_path / "out").exists()
    kept = vectors(tmp_path / "s")
    run = place.ask("select/on-demand", **asked)
    assert place.wait(run)["type"] == "COMPLETED", place.logs(run)
    assert counts(tmp_path / "out")["encoded"] == vectors(tmp_path / "s") - kept


@pytest.fixture
def messages(place, tmp_path):
    """Bodies that come to a webhook, which the automation of deployments/notify.yaml sends messages to."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.settings import PREFECT_API_URL, temporary_settings

    came = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            came.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with temporary_settings({PREFECT_API_URL: place.api}):
            fields = {"subject": "{{subject}}", "body": "{{body}}"}
            hook = CustomWebhookNotificationBlock(
                name="hook", url=f"http://127.0.0.1:{server.server_port}", json_data=fields
            )
            block = hook.save("hook")
        described = (ROOT / "deployments/notify.yaml").read_text().replace(str(UUID(int=0)), str(block))
        (tmp_path / "notify.yaml").write_text(described)
        made = place.prefect("automation", "create", "--from-file", str(tmp_path / "notify.yaml"))
        assert made.returncode == 0, made.stdout
        yield came
        place.prefect("automation", "delete", "deita, failures")
        server.shutdown()


def test_a_run_that_fails_says_why_in_one_sentence_and_sends_it(place, worker, messages, tmp_path):
    run = place.ask("select/on-demand", pool=[str(tmp_path / "absent.jsonl")], out=str(tmp_path / "out"))
    state = place.wait(run)
    assert state["type"] == "FAILED"
    assert "absent.jsonl" in state["message"]
    # Of other runs, which tests before this one have killed, messages may come at any time.
    [message] = place.until(lambda: [one for one in messages if run in one["body"]], 180)
    assert message["subject"].startswith("deita: ") and message["subject"].endswith(" is Failed")
    assert state["message"] in message["body"]
