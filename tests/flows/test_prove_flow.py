"""`deita prove` as a user meets it: a table, a verdict, and no training twice."""

import json

import polars as pl
import pytest

from deita_core.config.proof import ProofSettings
from tests.support.alignment import write_rows
from tests.support.commands import deita

pytestmark = pytest.mark.slow
TRAINING = {"batch": 8, "max_tokens": 256, "learning_rate": 5e-3, "epochs": 2}


@pytest.fixture
def files(tmp_path):
    """A pool of answers of the sea, the last of its rows held out, and answers of rain as an arm of its own."""
    rows = write_rows(tmp_path / "all.jsonl", 60).read_text().splitlines(keepends=True)
    (tmp_path / "pool.jsonl").write_text("".join(rows[:52]))
    (tmp_path / "heldout.jsonl").write_text("".join(rows[52:]))
    rain = [row.replace("a small thing of the sea", "rain rain rain on rain") for row in rows]
    (tmp_path / "rain.jsonl").write_text("".join(rain[:52]))
    (tmp_path / "weaker.jsonl").write_text("".join(rain[52:]))
    return tmp_path


def test_an_arm_that_teaches_other_answers_is_worse_and_nothing_is_trained_twice(
    prefect_server, tiny_llama, tiny_models, files
):
    from flows.prove import prove

    settings = ProofSettings(
        base_model=str(tiny_llama),
        chat_template="vicuna",
        heldout=str(files / "heldout.jsonl"),
        weaker=str(files / "weaker.jsonl"),
        against=["random"],
        arms={"rain": str(files / "rain.jsonl")},
        seeds=2,
        training=TRAINING,
        budget=20,
        store=str(files / "store"),
        **tiny_models,
    )
    report = prove([str(files / "pool.jsonl")], str(files / "out"), settings)
    assert [one.arm for one in report.figures] == ["base", "deita", "random", "rain"]
    base, deita_arm, random, rain = report.figures
    assert rain.difference.shown == 1 and "better than" in report.verdict and "rain" in report.verdict
    assert deita_arm.likelier.mean > rain.likelier.mean
    assert deita_arm.per_token.mean < base.per_token.mean and random.difference is not None
    assert report.measured == 8 and report.unmeasured == 0
    assert {path.name for path in (files / "out").iterdir()} == {
        "README.md",
        "losses.parquet",
        "overlaps.parquet",
        "results.json",
        "subsets.parquet",
    }
    assert json.loads((files / "out/results.json").read_text())["verdict"] == report.verdict
    losses = pl.read_parquet(files / "out/losses.parquet")
    assert len(losses) == (1 + 3 * 2) * 16 and report.verdict in (files / "out/README.md").read_text()
    trained = {path: path.stat().st_mtime_ns for path in (files / "store").rglob("run.json")}
    assert len(trained) == 7
    again = prove([str(files / "pool.jsonl")], str(files / "again"), settings)
    assert {path: path.stat().st_mtime_ns for path in (files / "store").rglob("run.json")} == trained
    assert (files / "again/losses.parquet").read_bytes() == (files / "out/losses.parquet").read_bytes()
    assert again.figures == report.figures


def test_the_command_prints_the_table_and_the_verdict(prefect_server, tiny_llama, tiny_models, files):
    models = [f"--{name.replace('_', '-')}={value}" for name, value in tiny_models.items()]
    given = ["--base-model", tiny_llama, "--chat-template", "vicuna", "--max-tokens", "256", "--batch", "8"]
    line = ["prove", "pool.jsonl", "--budget", "10", "--heldout", "heldout.jsonl", "--out", "out", "--epochs", "1"]
    done = deita(*line, "--against", "random", "--arm", "rain=rain.jsonl", "--seeds", "1", *given, *models, cwd=files)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[:5]] == ["arm", "base", "deita", "random", "rain"]
    assert "On the held-out answers the selection of deita" in done.stdout
    wrong = deita(*line, "--arm", "rain", *given, *models, cwd=files)
    assert wrong.returncode == 2 and "is not of the form NAME=FILE" in wrong.stderr
    lacking = deita("prove", "pool.jsonl", "--budget", "10", "--out", "out", "--heldout", "heldout.jsonl", cwd=files)
    assert lacking.returncode == 2 and "The setting base_model is needed" in lacking.stderr
