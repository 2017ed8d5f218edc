import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args
from unittest.mock import patch

import polars as pl
import pytest

from deita_core.literals import Layout, TrainedKind, Turns
from deita_core.models.encoder_spec import find_encoder
from deita_core.models.sentence_encoder import TOKENS_PER_BATCH
from deita_core.stages.encoding import encoder_table
from deita_core.store import Store
from flows.cli.main import run as run_command
from flows.cli.variables import unknown_variables
from flows.ops.deploy_steps import VARIABLES
from tests.support.commands import PROGRESS, deita
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

RAW = ROOT.parent / "shared/data/raw_samples"
HEAVY = (
    "torch",
    "transformers",
    "sentence_transformers",
    "lancedb",
    "prefect",
    "pandera",
    "polars",
    "pyarrow",
    "numpy",
)
ROWS = [
    {"instruction": "Why is the sky blue?", "output": "Air scatters short waves of light more than long ones."},
    {"instruction": "Name a prime.", "output": "Seventeen."},
    {"instruction": "Translate to French: the cat sleeps.", "output": "Le chat dort."},
]


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "TERM": "dumb", **more}


@pytest.fixture
def pool(tmp_path):
    file = tmp_path / "pool.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def everything_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def is_one_sentence(run):
    """One line on stderr, as the command words its errors, and nothing of a traceback."""
    lines = [line for line in run.stderr.splitlines() if not PROGRESS.search(line)]
    return len(lines) == 1 and lines[0].startswith("deita: ") and "Traceback" not in run.stdout + run.stderr


# -- without work


@pytest.mark.parametrize("arguments", [["--help"], ["select", "--help"], ["doctor", "--help"]])
def test_help_imports_nothing_heavy(arguments, tmp_path):
    program = (
        "import sys, flows.cli.main\n"
        f"sys.argv = ['deita', *{arguments!r}]\n"
        "try:\n    flows.cli.main.main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('HEAVY', sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "Usage" in run.stdout
    assert run.stdout.splitlines()[-1] == "HEAVY []"


def test_help_names_every_command_and_every_option_says_what_it_is(tmp_path):
    assert all(name in deita("--help", cwd=tmp_path).stdout for name in ("select", "doctor"))
    text = deita("select", "--help", cwd=tmp_path).stdout
    for option in (
        "--out",
        "--budget",
        "--threshold",
        "--store",
        "--preset",
        "--limit",
        "--config",
        "--dry-run",
        "--format",
    ):
        assert option in text


@pytest.mark.parametrize(
    ("command", "option", "choices"),
    [("select", "--turns", Turns), ("select", "--layout", Layout), ("train", "--kind", TrainedKind)],
)
def test_what_an_option_may_be_is_what_the_setting_may_be(command, option, choices, pool, tmp_path):
    assert "|".join(get_args(choices)) in deita(command, "--help", cwd=tmp_path).stdout
    required = ["--axis", "quality", "--out", "out"] if command == "train" else ["--dry-run"]
    run = deita(command, pool, option, "else", *required, cwd=tmp_path)
    assert run.returncode == 2 and all(choice in run.stderr for choice in get_args(choices))


def test_doctor_lists_the_presets_and_why_one_cannot_run(tmp_path, laptop):
    run = deita("doctor", cwd=tmp_path)
    assert run.returncode == 0
    assert re.search(r"preset laptop +can run", run.stdout)
    assert re.search(r"preset fast +can run", run.stdout)
    assert re.search(r"preset paper +cannot run yet: .*causal", run.stdout)
    assert everything_below(tmp_path) == []


# -- bad usage and bad input


@pytest.mark.parametrize(
    "arguments",
    [["--budgets", "3"], ["--turns", "median"], ["--preset", "desktop"], ["--budget", "many"], ["--format", "xml"], []],
    ids=["unknown option", "unknown choice", "unknown preset", "no number", "unknown format", "no --out"],
)
def test_bad_usage_ends_with_2(arguments, pool, tmp_path):
    run = deita("select", pool, *arguments, cwd=tmp_path)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    assert everything_below(tmp_path) == ["pool.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--budget", "0"], "budget"),
        (["--threshold", "2"], "threshold"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--store", "ftp://host/store", "--dry-run"], "ftp://host/store"),
    ],
)
def test_a_bad_setting_is_one_sentence_and_ends_with_2(arguments, said, pool, tmp_path):
    run = deita("select", pool, "--out", "out", *arguments, cwd=tmp_path)
    assert run.returncode == 2
    assert is_one_sentence(run), run.stderr
    assert said in run.stderr
    assert everything_below(tmp_path) == ["pool.jsonl"]


def test_an_error_shows_its_traceback_with_debug_only(pool, tmp_path):
    quiet = deita("select", pool, "--out", "out", "--budget", "0", cwd=tmp_path)
    assert is_one_sentence(quiet), quiet.stderr
    loud = deita("--debug", "select", pool, "--out", "out", "--budget", "0", cwd=tmp_path)
    assert "Traceback" in loud.stderr and "budget" in loud.stderr


def test_debug_changes_no_exit_code(pool, tmp_path):
    run = deita("--debug", "select", pool, "--out", "out", "--budget", "0", cwd=tmp_path)
    assert "Traceback" in run.stderr
    assert run.returncode == 2


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_stands_anywhere(place, pool, tmp_path):
    words = ["select", pool, "--budget", "0", "--dry-run"]
    words.insert((0, 1, len(words))[place], "--debug")
    run = deita(*words, cwd=tmp_path)
    assert "Traceback" in run.stderr and "budget" in run.stderr and run.returncode == 2


def test_what_follows_two_dashes_is_no_option(tmp_path):
    run = deita("select", "--dry-run", "--", "--debug", cwd=tmp_path)
    assert is_one_sentence(run) and "--debug" in run.stderr, run.stderr


@pytest.mark.parametrize("words", [["--verbose", "snapshots"], ["snapshots", "--verbose"], ["snapshots"]])
def test_verbose_shows_prefects_log_wherever_it_stands(words, tmp_path, monkeypatch):
    level = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["deita", *words])
    with patch.dict(os.environ):
        del os.environ[level]
        assert run_command() == (None, 0)
        assert os.environ[level] == ("INFO" if "--verbose" in words else "CRITICAL")


# -- misspelt variables


def test_a_misspelt_variable_is_named_once_with_the_nearest_one_and_the_command_goes_on(tmp_path):
    run = deita("snapshots", cwd=tmp_path, DEITA_BUGDET="5", DEITA_STORE=".deita", DEITA_LLM__API_KEY="sk-secret")
    assert run.returncode == 0, run.stderr
    said = "deita: The variable DEITA_BUGDET is not known, so it is ignored; did you mean DEITA_BUDGET?"
    assert run.stderr.splitlines() == [said]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("DEITA_LLM__MAXTOKENS", "DEITA_LLM__MAX_TOKENS"),
        ("DEITA_LLM_API_KEY", "DEITA_LLM__API_KEY"),
        ("DEITA_TUNING__EPOCH", "DEITA_TUNING__EPOCHS"),
        ("DEITA_NIGHTLY_CORN", "DEITA_NIGHTLY_CRON"),
        ("DEITA_CACHES", "DEITA_CACHE"),
        ("DEITA_XYZQ", None),
    ],
)
def test_the_nearest_variable_is_one_of_any_command(name, nearest):
    [said] = unknown_variables([name, "PATH", "DEITA_BUDGET"])
    assert said == f"The variable {name} is not known, so it is ignored" + (
        f"; did you mean {nearest}?" if nearest else "."
    )


def test_every_variable_that_has_an_effect_is_known():
    known = [*VARIABLES, "DEITA_CONFIG", "DEITA_CACHE", "DEITA_DEBUG", "DEITA_LLM__API_KEY", "DEITA_RUNNER"]
    known += ["DEITA_ROUNDS", "DEITA_LLM__MODEL", "DEITA_LLM__SPEND_CAP", "DEITA_TUNING__BASE_MODEL", "DEITA_KIND"]
    assert list(unknown_variables(known)) == []


def test_the_installed_command_is_this_one(tmp_path):
    script = Path(sys.executable).with_name("deita")
    if not script.exists():
        pytest.skip("the package is not installed beside this interpreter, so there is no deita script")
    run = subprocess.run([script, "--help"], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert run.returncode == 0
    assert "fine-tuning" in run.stdout


# -- runs


@pytest.fixture
def server(prefect_server, laptop):
    """The environment in which a command uses the session's server."""
    return {"PREFECT_API_URL": prefect_server}


def test_a_pool_that_is_not_there_ends_with_2(tmp_path):
    run = deita("select", "nowhere.jsonl", "--dry-run", cwd=tmp_path)
    assert run.returncode == 2
    assert is_one_sentence(run), run.stderr
    assert "nowhere.jsonl does not exist" in run.stderr


def test_an_encoder_that_cannot_be_used_ends_with_1(pool, tmp_path):
    (tmp_path / "model").mkdir()
    run = deita("select", pool, "--encoder", "model", "--dry-run", cwd=tmp_path)
    assert run.returncode == 1
    assert is_one_sentence(run), run.stderr
    assert "model.safetensors" in run.stderr


def test_a_store_in_use_ends_with_1_and_names_its_holder(server, pool, tmp_path):
    with Store(tmp_path / "store").lock("the nightly run"):
        run = deita("select", pool, "--out", "out", "--store", "store", cwd=tmp_path, **server)
    assert run.returncode == 1
    assert is_one_sentence(run), run.stderr
    assert "the nightly run" in run.stderr and str(os.getpid()) in run.stderr
    assert not (tmp_path / "out").exists()


def test_an_out_that_is_a_file_is_one_sentence(server, pool, tmp_path):
    (tmp_path / "out").write_text("mine")
    run = deita("select", pool, "--out", "out", cwd=tmp_path, **server)
    assert run.returncode in (1, 2)
    assert is_one_sentence(run), run.stderr[-1000:]
    assert (tmp_path / "out").read_text() == "mine"


def test_a_dry_run_says_what_is_to_do_and_writes_nothing(laptop, pool, tmp_path):
    run = deita("select", pool, "--dry-run", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "3 rows of 1 files" in run.stdout and "3 distinct conversations" in run.stdout
    assert "encode 6 of 6 distinct texts" in run.stdout and "score 3 conversations" in run.stdout
    assert everything_below(tmp_path) == ["pool.jsonl"]


def test_settings_come_from_file_environment_and_flags(server, pool, tmp_path):
    (tmp_path / "deita.yaml").write_text("budget: 1\nformat: alpaca\nstore: from-yaml\n")
    more = {**server, "DEITA_BUDGET": "2", "DEITA_FORMAT": "sharegpt"}
    run = deita("select", pool, "--out", "out", "--config", "deita.yaml", "--format", "messages", cwd=tmp_path, **more)
    assert run.returncode == 0, run.stderr
    rows = [json.loads(line) for line in (tmp_path / "out/selected.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert all(set(row) == {"messages", "deita"} for row in rows)
    assert (tmp_path / "from-yaml").is_dir() and not (tmp_path / ".deita").exists()
    assert "2 selected of 3 read" in run.stdout
    assert "prefect" not in (run.stdout + run.stderr).lower()


# -- real files


def first_rows(file, folder, n):
    """The first rows of a file, as a file of its kind."""
    target = folder / file.name
    if file.suffix == ".json":
        target.write_text(json.dumps(json.loads(file.read_text())[:n], ensure_ascii=False))
    elif file.suffix == ".jsonl":
        target.write_text("".join(file.read_text().splitlines(keepends=True)[:n]))
    elif file.suffix == ".parquet":
        pl.read_parquet(file).head(n).write_parquet(target)
    else:
        with file.open(newline="") as source, target.open("w", newline="") as copy:
            csv.writer(copy).writerows([row for row, _ in zip(csv.reader(source), range(n + 1), strict=False)])
    return target


def own_rows(file):
    """The rows of a file as plain Python values, read without the program."""
    if file.suffix == ".json":
        return json.loads(file.read_text())
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    if file.suffix == ".parquet":
        return pl.read_parquet(file).to_dicts()
    with file.open(newline="") as source:
        return list(csv.DictReader(source))


@pytest.mark.realdata
@pytest.mark.skipif(not RAW.is_dir(), reason=f"the real data is not at {RAW}")
def test_real_files_in_every_layout_make_one_pool(laptop, tmp_path):
    """With Prefect's temporary server, as on a laptop."""
    (tmp_path / "pool").mkdir()
    files = [first_rows(file, tmp_path / "pool", 2) for file in sorted(RAW.iterdir())]
    assert len(files) == 12
    command = [sys.executable, "-m", "flows.cli", "select", *map(str, files), "--out", "out", "--limit", "24"]
    run = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    counts = json.loads((tmp_path / "out/manifest.json").read_text())["counts"]
    assert counts["read"] == 24
    assert counts["read"] == counts["selected"] + counts["skipped"] + counts["rejected"] + counts["merged"]
    assert counts["selected"] >= 10
    given = {file.name: own_rows(file) for file in files}
    selected = [json.loads(line) for line in (tmp_path / "out/selected.jsonl").read_text().splitlines()]
    assert len(selected) == counts["selected"]
    for row in selected:
        facts = row.pop("deita")
        assert row in given[Path(facts["file"]).name]
    assert pl.read_parquet(tmp_path / "out/decisions.parquet")["file"].n_unique() >= 9
    assert sorted(everything_below(tmp_path / "out")) == [
        "README.md", "decisions.parquet", "manifest.json", "map.svg", "report.html", "scores.svg", "selected.jsonl",
        "selected.parquet",
    ]  # fmt: skip


# -- killed

SHARD = 2_500
# With batches as in the tests' process, so that the vectors are the same.
DRIVER = f"""
import deita_core.stages.encoding as encoding
from deita_core.models.sentence_encoder import TOKENS_PER_BATCH
TOKENS_PER_BATCH["cpu"] = {TOKENS_PER_BATCH["cpu"]}
encoding.CHARS_PER_SHARD = {SHARD}
from flows.cli.main import main
main()
"""
NOUNS = ["river", "lamp", "garden", "engine", "letter", "mountain", "clock", "market", "forest", "bridge", "violin"]
VERBS = ["carries", "hides", "repairs", "forgets", "paints", "follows", "measures", "opens", "remembers", "studies"]


def varied_rows(n):
    """Rows of made-up but different texts, in all lengths."""
    draw = random.Random(11)

    def sentence():
        a, b, c = draw.sample(NOUNS, 3)
        return f"The {a} {draw.choice(VERBS)} the {b} near the {c} in {draw.randint(1500, 2000)}."

    for i in range(n):
        answer = " ".join(sentence() for _ in range(draw.randint(1, 7)))
        yield {"instruction": f"Story {i}: why is it that {sentence().lower()[:-1]}?", "output": answer}


def variables(settings):
    """Settings as variables."""
    return {f"DEITA_{name.upper()}": str(value) for name, value in settings.items()}


def test_a_killed_run_is_resumed_where_it_broke_off_and_ends_as_if_undisturbed(
    prefect_server, tiny_models, tmp_path, monkeypatch
):
    from deita_core.config.settings import SelectionSettings
    from deita_core.stages import encoding
    from flows.selection import select

    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in varied_rows(150)))
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, "driver.py", "select", "pool.jsonl", "--store", "killed-store", "--out", "killed"]
    how = {"cwd": tmp_path, "env": environment(PREFECT_API_URL=prefect_server, **variables(tiny_models))}

    table, store = encoder_table(find_encoder(tiny_models["encoder"])), Store(tmp_path / "killed-store")
    victim = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **how)
    try:
        while store.count(table) == 0:
            assert victim.poll() is None, "it ended before a shard was written"
            time.sleep(0.02)
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    present = store.count(table)
    assert 0 < present < 300, "it was killed between its first shard and its last"
    assert not (tmp_path / "killed").exists()

    run = subprocess.run(command, capture_output=True, text=True, timeout=300, **how)
    assert run.returncode == 0, run.stderr
    resumed = json.loads((tmp_path / "killed/manifest.json").read_text())["counts"]
    assert resumed["encoded"] == 300 - present

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(encoding, "CHARS_PER_SHARD", SHARD)
    report = select(["pool.jsonl"], "undisturbed", SelectionSettings(store="undisturbed-store", **tiny_models))
    assert report.counts.encoded == 300
    assert {**resumed, "encoded": 300} == {**report.counts.model_dump(), "skipped": report.counts.skipped}
    for name in ("selected.jsonl", "decisions.parquet"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def test_a_run_stopped_by_hand_says_that_it_can_go_on(prefect_server, tiny_models, tmp_path):
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in varied_rows(150)))
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, "driver.py", "select", "pool.jsonl", "--store", "store", "--out", "out"]
    env = environment(PREFECT_API_URL=prefect_server, **variables(tiny_models))
    run = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    table, store = encoder_table(find_encoder(tiny_models["encoder"])), Store(tmp_path / "store")
    try:
        # Only now: an interrupt that arrives while Python collects garbage is lost on the way.
        while store.count(table) == 0:
            assert run.poll() is None, "it ended before there was anything to stop"
            time.sleep(0.02)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=120)
    finally:
        run.kill()
    assert "what is done is kept" in said
    assert "Traceback" not in said
    assert run.returncode == 1
    assert not (tmp_path / "out/manifest.json").exists()
