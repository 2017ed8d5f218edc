"""`deita align` as a user meets it: a model from a selection, a better one from pairs, errors in one sentence."""

import json
import subprocess
import sys

import pytest

from tests.support.alignment import write_pairs, write_rows
from tests.support.commands import deita
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow
QUICK = ["--chat-template", "vicuna", "--batch", "8", "--max-tokens", "256", "--epochs", "1"]


def test_a_selection_is_fine_tuned_on_and_then_pairs(prefect_server, tiny_llama, tiny_models, tmp_path):
    rows, pairs = write_rows(tmp_path / "rows.jsonl"), write_pairs(tmp_path / "pairs.jsonl")
    models = [f"--{name.replace('_', '-')}={value}" for name, value in tiny_models.items()]
    chosen = deita("select", rows, "--out", "chosen", "--budget", 12, *models, cwd=tmp_path)
    assert chosen.returncode == 0, chosen.stderr
    line = ("align", "sft", "chosen", "--base-model", tiny_llama, "--out", "sft", *QUICK)
    tuned = deita(*line, cwd=tmp_path)
    assert tuned.returncode == 0, tuned.stderr
    metrics = json.loads((tmp_path / "sft/metrics.json").read_text())
    selected = (tmp_path / "chosen/selected.jsonl").read_text().splitlines()
    assert metrics["rows"] + metrics["held_out_rows"] == len(selected) > 2
    assert f"{metrics['loss_after']:.4f} after" in tuned.stdout
    # Nothing is trained again.
    again = deita(*line, cwd=tmp_path)
    assert again.returncode == 0 and json.loads((tmp_path / "sft/metrics.json").read_text()) == metrics
    preferred = deita("align", "dpo", pairs, "--model", "sft", "--out", "dpo", *QUICK[2:], cwd=tmp_path)
    assert preferred.returncode == 0, preferred.stderr
    assert "reward margin" in preferred.stdout
    assert (tmp_path / "dpo/adapter_model.safetensors").is_file()


def test_errors_are_one_sentence(prefect_server, tiny_llama, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl")
    bare = deita("align", "sft", rows, "--base-model", tiny_llama, "--out", "sft", cwd=tmp_path)
    assert bare.returncode != 0 and "has no chat template; give --chat-template" in bare.stderr
    unnamed = deita("align", "sft", rows, "--out", "sft", cwd=tmp_path)
    assert unnamed.returncode != 0 and "The setting base_model is needed" in unnamed.stderr
    no_pairs = deita("align", "dpo", rows, "--model", tiny_llama, "--out", "dpo", *QUICK, cwd=tmp_path)
    assert no_pairs.returncode != 0 and "There is no pair of answers" in no_pairs.stderr
    for said in (bare, unnamed, no_pairs):
        assert "Traceback" not in said.stderr


def test_two_processes_train_as_one(prefect_server, tiny_llama, tmp_path):
    """A step learns from the same rows, so that only the order of sums differs."""
    rows = write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "settings.yaml").write_text("lora_dropout: 0.0\nmicro_batch: 2\n")
    given = ["align", "sft", rows, "--base-model", tiny_llama, *QUICK, "--config", tmp_path / "settings.yaml"]
    one = deita(*given, "--out", "one", cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "flows.cli"]
    two = subprocess.run(
        [*launch, *given, "--out", tmp_path / "two"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("The model is in") == 1
    figures = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    assert figures[0]["steps"] == figures[1]["steps"]
    assert figures[1]["loss_after"] == pytest.approx(figures[0]["loss_after"], rel=1e-3)
    assert figures[1]["loss_after"] < figures[1]["loss_before"]
    odd = subprocess.run(
        [*launch, *given, "--batch", "6", "--out", tmp_path / "odd"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert odd.returncode != 0 and "cannot be shared by 2 processes with 2 rows in memory each" in odd.stderr
