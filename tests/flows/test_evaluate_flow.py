"""`deita evaluate judge` and `deita evaluate benchmarks`: the commands, their files, artifacts and errors."""

import json
from functools import partial

import pytest

from tests.support import commands
from tests.support.commands import PROGRESS
from tests.support.evaluation_run import alpaca_eval, mt_bench, with_template, write_rows
from tests.support.evolution_run import KEY, holders, lines
from tests.support.llm_server import LLMServer
from tests.support.task_folder import write_task

pytestmark = pytest.mark.slow

FILES = {"answers.jsonl", "judgements.jsonl", "README.md", "figures.json"}


@pytest.fixture(scope="module")
def model(tiny_llama, tmp_path_factory):
    return with_template(tiny_llama, tmp_path_factory.mktemp("models") / "chat")


@pytest.fixture
def deita(prefect_server, tmp_path):
    """Runs `deita evaluate` in a folder of its own, with a key and an impatient client."""
    limits = {"DEITA_LLM__API_KEY": KEY, "DEITA_LLM__FIRST_PAUSE": "0.01", "DEITA_LLM__ATTEMPTS": "4"}
    return partial(commands.deita, "evaluate", cwd=tmp_path, **limits)


def is_one_sentence(run):
    said = [line for line in run.stderr.splitlines() if not PROGRESS.search(line)]
    return len(said) == 1 and said[0].startswith("deita: ") and KEY not in run.stdout + run.stderr


def test_scores_of_a_model_on_this_machine(deita, model, tmp_path):
    questions = write_rows(tmp_path / "question.jsonl", mt_bench(6))
    with LLMServer(keys=[KEY]) as server:
        asked = ["judge", model, "--questions", questions, "--judge", f"{server.url}#m", "--max-tokens", "8"]
        run = deita(*asked, "--out", "out")
        assert run.returncode == 0, run.stderr
        assert len(server.log) == 12 and set(server.answered().values()) == {1}
        again = deita(*asked, "--out", "again")
        assert again.returncode == 0 and len(server.log) == 12
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    figures = json.loads((tmp_path / "out/figures.json").read_text())
    assert figures["counts"]["verdicts"] == 12 and figures["figures"]["turns"].keys() == {"1", "2"}
    assert figures["run"]["requests"] == {"answers": 12, "judge": 12} and figures["settings"]["max_tokens"] == 8
    assert f"{figures['figures']['overall']['mean']:.3f}" in (tmp_path / "out/README.md").read_text()
    assert "6 questions, 12 answers, 12 verdicts read, 0 quarantined." in run.stdout
    assert "judge: 0 of 12 asked now" in again.stdout
    for name in ("answers.jsonl", "judgements.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert holders(tmp_path, KEY) == [] and KEY not in run.stdout + run.stderr


def test_a_served_model_is_compared_and_each_endpoint_gets_its_own_key(deita, tmp_path):
    questions = write_rows(tmp_path / "alpaca_eval.jsonl", alpaca_eval(10))
    with LLMServer(keys=[KEY]) as judge, LLMServer(keys=["sk-of-the-model"]) as served:
        asked = ["judge", f"{served.url}#tuned", "--questions", questions, "--reference", questions]
        run = deita(
            *asked, "--judge", f"{judge.url}#m", "--out", "out", DEITA_ANSWERING__API_KEY="sk-of-the-model",
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        assert (len(served.log), len(judge.log)) == (10, 20)
    figures = json.loads((tmp_path / "out/figures.json").read_text())
    assert (figures["protocol"], figures["reference"], figures["model"]) == (
        "pairwise",
        "davinci",
        f"{served.url}#tuned",
    )
    assert "win rate" in run.stdout and "in both orders" in run.stdout
    assert len(lines(tmp_path / "out/judgements.jsonl")) == 20


def test_a_key_of_the_judge_does_not_reach_another_address(deita, tmp_path):
    questions = write_rows(tmp_path / "q.jsonl", alpaca_eval(2))
    with LLMServer() as judge, LLMServer() as served:
        run = deita("judge", f"{served.url}#t", "--questions", questions, "--judge", f"{judge.url}#m", "--out", "out")
        assert run.returncode == 0, run.stderr
        assert {entry.authorization for entry in served.log} == {"Bearer none"}
        assert {entry.authorization for entry in judge.log} == {f"Bearer {KEY}"}


def test_the_figures_are_an_artifact_without_texts(deita, tmp_path):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    questions = write_rows(tmp_path / "q.jsonl", alpaca_eval(3))
    with LLMServer() as server:
        run = deita("judge", f"{server.url}#t", "--questions", questions, "--judge", f"{server.url}#m", "--out", "seen")
    assert run.returncode == 0, run.stderr
    with get_client(sync_client=True) as client:
        # By key, since the server gives a page of all artifacts at a time.
        figures = ArtifactFilter(key=ArtifactFilterKey(any_=["evaluation-figures"]))
        found = [a for a in client.read_artifacts(artifact_filter=figures) if "`seen`" in a.data]
    assert len(found) == 1 and "score, all turns" in found[0].data
    assert alpaca_eval(1)[0]["instruction"] not in found[0].data


def test_no_readable_verdict_is_no_success_and_the_replies_are_there(deita, tmp_path):
    questions = write_rows(tmp_path / "q.jsonl", alpaca_eval(4))
    with LLMServer(faults={"no_json": 1.0}) as server:
        run = deita("judge", f"{server.url}#t", "--questions", questions, "--judge", f"{server.url}#m", "--out", "out")
    assert run.returncode == 1 and is_one_sentence(run), run.stderr
    assert "No verdict could be read (unreadable 4)" in run.stderr
    rows = lines(tmp_path / "out/judgements.jsonl")
    assert [(row["score"], row["reason"]) for row in rows] == [(None, "unreadable")] * 4 and rows[0]["reply"]


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"--judge": None}, 2, "llm"),
        ({"--judge": "http://127.0.0.1:9/v1"}, 2, "without a model"),
        ({"--questions": "nowhere.jsonl"}, 2, "nowhere.jsonl is not a file"),
        ({"model": "nowhere"}, 1, "There is no model nowhere"),
        ({"model": "http://k:secret@127.0.0.1/v1#m"}, 2, "holds no key"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(changes, code, said, deita, tmp_path):
    write_rows(tmp_path / "q.jsonl", alpaca_eval(1))
    given = {
        "model": "http://127.0.0.1:9/v1#m",
        "--questions": "q.jsonl",
        "--judge": "http://127.0.0.1:9/v1#m",
        **changes,
    }
    options = [word for name, value in given.items() if value and name != "model" for word in (name, value)]
    run = deita("judge", given["model"], *options, "--out", "out")
    assert run.returncode == code and is_one_sentence(run), run.stderr
    assert said in run.stderr
    assert not (tmp_path / "out").exists()


def test_a_task_of_ones_own_is_a_benchmark(deita, tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write_task(tmp_path / "tasks")
    asked = ["benchmarks", tiny_llama, "--tasks", "things", "--task-folder", "tasks"]
    run = deita(*asked, "--out", "out")
    assert run.returncode == 0, run.stderr
    results = json.loads((tmp_path / "out/results.json").read_text())["results"]
    assert f"{results['results']['things']['acc,none']:.4f}" in run.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "results.json"}
    run = deita("benchmarks", tiny_llama, "--tasks", "arc_challenge", "--task-folder", "tasks", "--out", "other")
    assert run.returncode == 2 and "There is no task arc_challenge in tasks" in run.stderr
