import json
import re
import socket

import pytest

from deita_core.config.settings import EvolutionSettings
from deita_core.errors import InputError, LLMError, StoreError
from deita_core.scorers.training.examples import read_chains
from deita_core.stages.evolution.estimate import estimate_evolution
from deita_core.store import Store
from deita_core.tables import CHAINS, RANKINGS
from tests.support import commands, llm_server
from tests.support.commands import PROGRESS
from tests.support.evolution_run import KEY, holders, lines, llm_settings, seed_row, write_seeds
from tests.support.llm_rules import Reply
from tests.support.llm_server import LLMServer, evenly
from tests.support.prefect_runs import ended_tasks

pytestmark = pytest.mark.slow

SEEDS = 12
SETTINGS = {"axis": "both", "rounds": 2, "tries": 2, "audit": 3}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("DEITA_LLM__API_KEY", KEY)


@pytest.fixture(scope="module")
def run_flow(prefect_server):
    """Runs the flow against a test double; returns its report."""
    from flows.evolve import evolve

    def run(server, pool, store, out, llm=None, **settings):
        asked = EvolutionSettings(
            llm=llm_settings(server.url, **(llm or {})), store=str(store), **{**SETTINGS, **settings}
        )
        return evolve([str(pool)], str(out), asked)

    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evolve")
    (folder / "pool").mkdir()
    write_seeds(folder / "pool/seeds.jsonl", SEEDS)
    with (folder / "pool/seeds.jsonl").open("a") as file:
        file.write('{"instruction": "Broken\n')
    return folder


@pytest.fixture(scope="module")
def server():
    with LLMServer(faults=evenly(0.1, ["500", "429", "truncated", "refusal", "missing_score", "no_json"])) as server:
        yield server


@pytest.fixture(scope="module")
def first(run_flow, server, place):
    """A run over the whole pool, and how many requests it took."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEITA_LLM__API_KEY", KEY)
        report = run_flow(server, place / "pool", place / "store", place / "out")
    return report, len(server.answered())


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


# -- a whole run


def test_every_seed_has_a_fate_on_each_axis(first):
    report, _ = first
    for counts in report.counts.values():
        assert counts.seeds == SEEDS == counts.complete + counts.short + counts.quarantined
        assert counts.complete > SEEDS / 2


def test_the_folder_holds_what_trainers_read(first, place):
    for axis in ("complexity", "quality"):
        examples = read_chains([place / "out" / f"{axis}.jsonl"], axis)
        assert len(examples) == len(lines(place / "out" / f"{axis}_scorer.jsonl")) > 2 * SEEDS
    assert manifest(place / "out")["requests_of_this_run"] == first[1]
    assert not list((place / "out").glob(".*"))


def test_nothing_was_paid_twice(first, server):
    assert set(server.answered().values()) == {1}
    assert len(server.log) > len(server.answered()), "some requests failed on the way"


def test_the_key_is_sent_and_kept_nowhere(first, server, place):
    assert {entry.authorization for entry in server.log} == {f"Bearer {KEY}"}
    assert holders(place, KEY) == []


def flow_run(name, last="write "):
    """The latest flow run into a folder, with its artifacts and tasks, once the server knows the end of the last."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    only = FlowRunFilter(name={"any_": [f"evolve into {name}"]})
    with get_client(sync_client=True) as client:
        [run] = client.read_flow_runs(flow_run_filter=only, sort=FlowRunSort.START_TIME_DESC, limit=1)
        mine = FlowRunFilter(id={"any_": [run.id]})
        tasks = ended_tasks(mine, last)
        return run, client.read_artifacts(flow_run_filter=mine), {task.name: task for task in tasks}


def test_counts_and_progress_are_artifacts(first, place):
    run, artifacts, tasks = flow_run(place / "out")
    assert run.state.is_completed()
    [table] = [artifact for artifact in artifacts if artifact.key == "evolution-chains"]
    rows = {row["axis"]: row for row in json.loads(table.data)}
    assert rows["quality"]["seeds"] == SEEDS
    assert re.search(r"over [123] chains", rows["complexity"]["judge agrees"])
    progress = {artifact.key: artifact for artifact in artifacts if artifact.type == "progress"}
    assert set(progress) == {f"{step}-{axis}" for step in ("evolving", "ranking") for axis in ("complexity", "quality")}
    assert all(re.search(r"\d+ of \d+ requests", artifact.description) for artifact in progress.values())
    assert {f"evolve {SEEDS} complexity chains", "draw seeds", "count chains"} <= set(tasks)
    assert KEY not in repr([run, artifacts, tasks])


def test_a_second_run_asks_nothing_and_writes_the_same(first, run_flow, server, place):
    before = len(server.log)
    report = run_flow(server, place / "pool", place / "store", place / "again")
    assert len(server.log) == before and report.asked == 0
    assert report.counts == first[0].counts and report.audits == first[0].audits
    for name in ("complexity.jsonl", "quality.jsonl", "quality_scorer.jsonl", "quarantined.jsonl"):
        assert (place / "again" / name).read_bytes() == (place / "out" / name).read_bytes()
    _, artifacts, tasks = flow_run(place / "again")
    assert [artifact.key for artifact in artifacts] == ["evolution-chains"]
    assert not [name for name in tasks if name.startswith(("evolve ", "rank "))]


def test_other_settings_make_other_chains_beside_those_there_are(first, run_flow, server, place):
    store = Store(place / "store")
    chains, rankings = store.read(CHAINS), store.read(RANKINGS)
    report = run_flow(server, place / "pool", place / "store", place / "longer", rounds=3, axis="complexity")
    assert set(report.job.chains("complexity")).isdisjoint(first[0].job.chains("complexity"))
    assert max(len(chain["variants"]) for chain in lines(place / "longer/complexity.jsonl")) == 4
    after = store.read(CHAINS)
    assert after.join(chains, on=["chain", "step", "attempt"], how="semi").height == chains.height
    assert store.read(RANKINGS).join(rankings, on=["ranking", "step"], how="semi").height == rankings.height
    # The first two rounds ask what was asked before; only the third and the rankings are new.
    assert report.asked <= SEEDS * (2 + 3) + 3 * 3


def test_the_files_of_a_run_are_no_seeds_of_the_next(run_flow, server, tmp_path):
    write_seeds(tmp_path / "seeds.jsonl", 3)
    for _ in range(2):
        report = run_flow(server, tmp_path, tmp_path / "store", tmp_path / "out", axis="complexity")
        assert report.counts["complexity"].seeds == 3


def test_a_limit_takes_the_first_rows_and_a_dry_run_counts_them_alike(run_flow, server, place, tmp_path):
    settings = {"axis": "complexity", "limit": 5}
    asked = EvolutionSettings(llm=llm_settings(server.url), store=str(tmp_path), **{**SETTINGS, **settings})
    assert estimate_evolution([str(place / "pool")], asked).seeds == {"complexity": 5}
    report = run_flow(server, place / "pool", tmp_path / "store", tmp_path / "out", **settings)
    assert report.counts["complexity"].seeds == 5


# -- the judge


def test_an_audit_says_how_far_the_judge_agrees_with_itself(first):
    for found in first[0].audits.values():
        # Those whose rankings could be read both times.
        assert 1 <= found.chains <= 3
        assert (found.spearman, found.pairs_alike, found.is_noisy) == (1, 1, False)


def test_a_judge_who_goes_by_the_place_is_told_to_be_noisy(run_flow, tmp_path, monkeypatch, capsys):
    from flows.cli.summary import print_evolution

    evolved = llm_server.reply

    def by_place(prompt, *rest):
        """The first text shown gets 1, the next 2 and so on."""
        if "<text-" not in prompt:
            return evolved(prompt, *rest)
        n = prompt.count("</text-")
        return Reply(json.dumps({"scores": [{"index": i, "score": min(i, 6)} for i in range(1, n + 1)]}))

    monkeypatch.setattr(llm_server, "reply", by_place)
    pool = write_seeds(tmp_path / "seeds.jsonl", 10)
    with LLMServer() as server:
        report = run_flow(server, pool, tmp_path / "store", tmp_path / "out", axis="quality", rounds=5, audit=10)
    found = report.audits["quality"]
    assert found.chains == 10 and found.place == 1 and found.is_noisy
    print_evolution(report, tmp_path / "out")
    said = capsys.readouterr().out
    assert "ranked 10 chains twice" in said and "noisy judge" in said
    assert "place shown 1.00" in said


def test_a_judge_who_wavers_a_little_is_not(run_flow, tmp_path, capsys):
    from flows.cli.summary import print_evolution

    pool = write_seeds(tmp_path / "seeds.jsonl", 10)
    with LLMServer(noise=0.3) as server:
        report = run_flow(server, pool, tmp_path / "store", tmp_path / "out", axis="complexity", rounds=5, audit=10)
    found = report.audits["complexity"]
    assert 0.8 < found.spearman < 1 and 0 < found.difference < 1
    print_evolution(report, tmp_path / "out")
    said = capsys.readouterr().out
    assert "noisy" not in said and f"{found.spearman:.2f}" in said


# -- the key


def test_a_secret_block_is_the_key(run_flow, tmp_path, monkeypatch):
    from prefect.blocks.system import Secret

    monkeypatch.delenv("DEITA_LLM__API_KEY")
    secret = "sk-from-a-block-0123456789"
    Secret(value=secret).save("test-evolve-key", overwrite=True)
    pool = write_seeds(tmp_path / "seeds.jsonl", 2)
    with LLMServer(keys=[secret]) as server:
        llm = {"api_key_block": "test-evolve-key"}
        report = run_flow(server, pool, tmp_path / "store", tmp_path / "out", llm, axis="complexity")
        assert {entry.authorization for entry in server.log} == {f"Bearer {secret}"}
    assert report.counts["complexity"].complete == 2
    assert holders(tmp_path, secret) == []
    assert secret not in repr(flow_run(tmp_path / "out")) + report.model_dump_json()


def test_a_block_that_is_not_there_is_named_before_anything_is_read(run_flow, server, place, tmp_path):
    with pytest.raises(LLMError, match="'no-such-block'"):
        run_flow(server, place / "pool", tmp_path / "store", tmp_path / "out", {"api_key_block": "no-such-block"})
    assert list(tmp_path.iterdir()) == []


# -- failures


def test_a_failed_run_writes_no_file_and_goes_on_when_it_can(run_flow, place, tmp_path):
    with LLMServer(keys=["another"]) as server, pytest.raises(LLMError, match="401") as refused:
        run_flow(server, place / "pool", tmp_path / "store", tmp_path / "out")
    assert KEY not in str(refused.value)
    assert not (tmp_path / "out").exists()
    _, _, tasks = flow_run(tmp_path / "out", last="evolve ")
    assert next(task for name, task in tasks.items() if name.startswith("evolve ")).run_count == 1
    with LLMServer() as server:
        report = run_flow(server, place / "pool", tmp_path / "store", tmp_path / "out")
    assert report.counts["complexity"].complete == SEEDS


def test_a_locked_store_and_a_bad_folder_are_refused_at_once(run_flow, server, place, tmp_path):
    before = len(server.log)
    with Store(tmp_path / "store").lock("nightly run 7"), pytest.raises(StoreError, match="nightly run 7"):
        run_flow(server, place / "pool", tmp_path / "store", tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        run_flow(server, place / "pool", tmp_path / "store", tmp_path / "file")
    with pytest.raises(InputError, match=r"nowhere\.jsonl does not exist"):
        run_flow(server, tmp_path / "nowhere.jsonl", tmp_path / "store", tmp_path / "out")
    assert len(server.log) == before


# -- the command


def deita(*arguments, cwd, key=KEY, **more):
    """Run `deita evolve` to its end."""
    return commands.deita("evolve", *arguments, cwd=cwd, DEITA_LLM__API_KEY=key, **more)


def is_one_sentence(run):
    """One line on stderr, as the command words its errors, and nothing of a traceback or of the key."""
    said = [line for line in run.stderr.splitlines() if not PROGRESS.search(line)]
    assert KEY not in run.stdout + run.stderr
    return len(said) == 1 and said[0].startswith("deita: ") and "Traceback" not in run.stdout + run.stderr


@pytest.fixture
def pool(tmp_path):
    return write_seeds(tmp_path / "seeds.jsonl", 4)


@pytest.fixture
def quick(prefect_server):
    """The environment in which a command uses the session's server and an impatient client."""
    return {
        "DEITA_ROUNDS": "2",
        "DEITA_LLM__FIRST_PAUSE": "0.01",
        "DEITA_LLM__TIMEOUT": "10",
    }


def test_a_dry_run_says_what_it_would_ask_and_cost_and_writes_nothing(pool, tmp_path):
    prices = ["--input-price", "1", "--output-price", "2"]
    run = deita(pool, "--model", "m", "--dry-run", *prices, "--audit", "1", cwd=tmp_path, key=None)
    assert run.returncode == 0, run.stderr
    assert "complexity: 4 seeds" in run.stdout and "quality: 4 seeds" in run.stdout
    # Two axes of four chains of five rounds and a ranking, and an audit of each axis.
    assert f"about {2 * (4 * 6 + 1)} requests to m" in run.stdout
    assert re.search(r"about 0\.\d+ at the prices given", run.stdout)
    assert [path.name for path in tmp_path.iterdir()] == [pool.name]


def test_a_run_without_a_folder_or_a_model_is_bad_usage(pool, tmp_path):
    run = deita(pool, "--model", "m", cwd=tmp_path)
    assert run.returncode == 2 and "--out" in run.stderr and "Traceback" not in run.stderr
    run = deita(pool, "--out", "out", cwd=tmp_path)
    assert run.returncode == 2 and is_one_sentence(run), run.stderr
    assert "model" in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == [pool.name]


def test_a_wrong_key_is_one_sentence_without_the_key(quick, pool, tmp_path):
    with LLMServer(keys=["another"]) as server:
        run = deita(pool, "--model", "m", "--base-url", server.url, "--out", "out", cwd=tmp_path, **quick)
        assert len(server.log) <= 16
    assert run.returncode == 1
    assert is_one_sentence(run), run.stderr
    assert "401" in run.stderr and "DEITA_LLM__API_KEY" in run.stderr and server.url in run.stderr
    assert not (tmp_path / "out").exists()


def test_a_spend_cap_is_one_sentence_and_a_higher_one_goes_on_to_the_end(quick, pool, tmp_path):
    with LLMServer(keys=[KEY]) as server:
        arguments = [pool, "--model", "m", "--base-url", server.url, "--axis", "quality", "--audit", "0"]
        arguments += ["--input-price", "10", "--output-price", "10", "--concurrency", "1", "--out", "out"]
        small = {**quick, "DEITA_LLM__MAX_TOKENS": "100"}
        run = deita(*arguments, "--spend-cap", "0.03", cwd=tmp_path, **small)
        assert run.returncode == 1
        assert is_one_sentence(run), run.stderr
        assert "spend cap of 0.03" in run.stderr and "--spend-cap" in run.stderr
        assert 0 < len(server.log) < 4 * 3
        run = deita(*arguments, "--spend-cap", "10", cwd=tmp_path, **small)
        assert run.returncode == 0, run.stderr
        assert set(server.answered().values()) == {1} and len(server.log) == 4 * 3
    assert "quality: 4 seeds, 4 chains complete, 0 ended early, 0 quarantined." in run.stdout
    assert re.search(r"\d+ requests answered in this run, 12 in all: [\d,]+ tokens, 0\.\d+ spent", run.stdout)
    assert "deita train out/quality.jsonl --axis quality" in run.stdout
    assert len(lines(tmp_path / "out/quality.jsonl")) == 4
    assert "prefect" not in (run.stdout + run.stderr).lower()
    assert KEY not in run.stdout + run.stderr and holders(tmp_path, KEY) == []


def test_no_endpoint_is_one_sentence_that_names_it(quick, pool, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        run = deita(pool, "--model", "m", "--base-url", url, "--out", "out", cwd=tmp_path, **quick)
    assert run.returncode == 1
    assert is_one_sentence(run), run.stderr
    assert url in run.stderr


@pytest.mark.parametrize(
    ("fault", "reason"), [("cut_off", "cut_off"), ("refusal", "refusal"), ("no_json", "unreadable")]
)
def test_a_run_in_which_every_seed_failed_says_why_and_is_no_success(fault, reason, quick, pool, tmp_path):
    with LLMServer(faults={fault: 1.0}) as server:
        asked = [pool, "--model", "m", "--base-url", server.url, "--axis", "complexity", "--audit", "0"]
        run = deita(*asked, "--out", "out", cwd=tmp_path, **quick)
        sent = len(server.log)
        # What was found out is kept: a second run pays for nothing and ends alike.
        again = deita(*asked, "--out", "out", cwd=tmp_path, **quick)
        assert len(server.log) == sent > 0
    assert run.returncode == 1 == again.returncode and run.stderr.splitlines()[-1] == again.stderr.splitlines()[-1]
    assert is_one_sentence(run), run.stderr
    assert f"All 4 seeds failed, most often for the reason {reason} (4 of 4)" in run.stderr
    assert ("DEITA_LLM__MAX_TOKENS" in run.stderr) == (fault == "cut_off")
    assert "deita train" not in run.stdout + run.stderr
    assert [row["reason"] for row in lines(tmp_path / "out/quarantined.jsonl")] == [reason] * 4
    assert manifest(tmp_path / "out")["requests_sent"] == 0


def test_a_slow_endpoint_is_told_of_and_its_answers_counted(quick, pool, tmp_path):
    with LLMServer(latency=1.2, one_at_a_time=True) as server:
        asked = ["--axis", "complexity", "--audit", "0", "--out", "out"]
        run = deita(
            pool, "--model", "m", "--base-url", server.url, *asked, cwd=tmp_path,
            **{**quick, "DEITA_LLM__TIMEOUT": "2", "DEITA_ROUNDS": "1"},
        )  # fmt: skip
        sent = len(server.log)
    assert run.returncode == 0, run.stderr
    assert "The endpoint is slow: nothing came for 2 s" in run.stderr and "DEITA_LLM__TIMEOUT" in run.stderr
    assert "complexity: 4 seeds, 4 chains complete" in run.stdout
    timed_out = manifest(tmp_path / "out")["requests_timed_out"]
    assert "8 requests answered in this run, 8 in all" in run.stdout
    assert f"{sent:,} were sent for that, of which {timed_out} timed out." in run.stdout and timed_out == sent - 8 > 0


def test_a_key_in_a_settings_file_is_refused_and_not_shown(quick, pool, tmp_path):
    (tmp_path / "deita.yaml").write_text(f"llm:\n  model: m\n  api_key: {KEY}\n")
    run = deita(pool, "--config", "deita.yaml", "--out", "out", cwd=tmp_path, key=None, **quick)
    assert run.returncode == 2
    assert is_one_sentence(run), run.stderr
    assert "api_key" in run.stderr


def test_texts_of_seeds_reach_neither_terminal_nor_artifacts(first, place):
    """The pool is private: only the files and the store have it."""
    words = seed_row(0)["instruction"]
    assert holders(place / "out", words)
    assert words not in repr(flow_run(place / "out")[1])
