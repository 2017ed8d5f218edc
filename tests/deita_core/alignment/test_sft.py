"""Supervised fine-tuning of a tiny model: it learns, a killed run ends as an undisturbed one, and nothing is lost."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from deita_core.alignment.chat import IGNORED, load_chat_tokenizer
from deita_core.alignment.likelihood import answer_losses, mean_loss
from deita_core.alignment.rows import TrainingRow, read_rows, set_aside
from deita_core.alignment.settings import PAPER_SFT, SftSettings
from deita_core.alignment.sft import align_sft
from deita_core.errors import InputError
from deita_core.models.causal_lm import load_model
from tests.support.alignment import same_weights, write_rows
from tests.support.paths import ROOT


def settings_of(model, **given):
    usual = {"chat_template": "vicuna", "batch": 8, "max_tokens": 256, "learning_rate": 5e-3, "epochs": 3}
    return SftSettings(base_model=str(model), **{**usual, **given})


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_model_learns_and_loads_with_plain_transformers(tiny_llama, rows, tmp_path, method):
    from transformers import AutoModelForCausalLM

    settings = settings_of(tiny_llama, method=method)
    metrics = align_sft(str(rows), tmp_path / "sft", settings, device="cpu")
    assert metrics.loss_after < metrics.loss_before - 0.5
    assert (metrics.rows, metrics.held_out_rows, metrics.dropped, metrics.cut) == (22, 2, 0, 0)
    assert metrics.steps == 9
    # Measured again on the model as it is loaded from its folder, without our code.
    tokenizer = load_chat_tokenizer(tmp_path / "sft")
    _, held_out = set_aside(read_rows(rows, tokenizer, 256).rows, settings.held_out, settings.seed)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "sft", dtype=torch.float32)
    assert mean_loss(answer_losses(model, held_out)) == pytest.approx(metrics.loss_after, abs=0.02)
    manifest = json.loads((tmp_path / "sft/manifest.json").read_text())
    assert manifest["metrics"] == json.loads((tmp_path / "sft/metrics.json").read_text())
    assert not (tmp_path / "sft/checkpoints").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from deita_core.alignment.settings import SftSettings
from deita_core.alignment.sft import align_sft

def report(progress):
    if progress.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
align_sft(sys.argv[1], Path(sys.argv[2]), SftSettings.model_validate_json(sys.argv[3]), device="cpu", report=report)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(tiny_llama, rows, tmp_path, method, one_thread):
    settings = settings_of(tiny_llama, method=method)
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(rows), str(tmp_path / "killed"), settings.model_dump_json()],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()[-2_000:]
    assert not (tmp_path / "killed/manifest.json").exists()
    steps = []
    resumed = align_sft(
        str(rows), tmp_path / "killed", settings, device="cpu", report=lambda now: steps.append(now.step)
    )
    assert steps[0] > 1
    undisturbed = align_sft(str(rows), tmp_path / "undisturbed", settings, device="cpu")
    assert same_weights(tmp_path / "killed", tmp_path / "undisturbed")
    assert (resumed.loss_before, resumed.loss_after) == (undisturbed.loss_before, undisturbed.loss_after)


def test_a_finished_run_is_not_repeated_and_another_ones_folder_is_refused(tiny_llama, rows, tmp_path):
    settings = settings_of(tiny_llama, epochs=1)
    first = align_sft(str(rows), tmp_path / "sft", settings, device="cpu")
    told = []
    assert align_sft(str(rows), tmp_path / "sft", settings, device="cpu", report=told.append) == first
    assert told == []
    with pytest.raises(InputError, match="trained otherwise"):
        align_sft(str(rows), tmp_path / "sft", settings_of(tiny_llama, epochs=2), device="cpu")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        align_sft(str(rows), tmp_path / "other", settings, device="cpu")


def test_rows_that_are_cut_or_dropped_are_counted_and_named(tiny_llama, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", 6)
    long_answer = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "the sea " * 200}]
    long_question = [{"role": "user", "content": "the sea " * 200}, {"role": "assistant", "content": "Yes."}]
    with rows.open("a") as file:
        for messages in (long_answer, long_question):
            file.write(json.dumps({"messages": messages}) + "\n")
        file.write("{broken\n")
    metrics = align_sft(str(rows), tmp_path / "sft", settings_of(tiny_llama, epochs=1), device="cpu")
    assert (metrics.rows + metrics.held_out_rows, metrics.cut, metrics.dropped) == (7, 1, 2)
    named = [json.loads(line) for line in (tmp_path / "sft/dropped.jsonl").read_text().splitlines()]
    assert {row["line"]: row["reason"] for row in named} == {
        9: "broken_json",
        8: "no answer begins within 256 tokens",
    }


def test_the_loss_is_that_of_each_answer_token_given_all_before_it(tiny_llama):
    """Against one row at a time, token by token, from the definition."""
    model = load_model(tiny_llama, "float32")
    draw = torch.Generator().manual_seed(0)
    rows = []
    for number, length in enumerate((5, 40, 12, 41)):
        ids = torch.randint(2, 500, (length,), generator=draw).tolist()
        carries = [i > 0 and (i * 7 + number) % 3 > 0 for i in range(length)]
        rows.append(TrainingRow(str(number), ids, [id_ if c else IGNORED for id_, c in zip(ids, carries, strict=True)]))
    found = answer_losses(model, rows, max_tokens_per_batch=90)
    assert found["id"].to_list() == ["0", "1", "2", "3"]
    for row, loss, tokens in zip(rows, found["loss"], found["tokens"], strict=True):
        expected = 0.0
        for i, label in enumerate(row.labels):
            if label != IGNORED:
                with torch.inference_mode():
                    logits = model(input_ids=torch.tensor([row.ids[:i]])).logits[0, -1]
                expected -= float(logits.double().log_softmax(0)[label])
        assert loss == pytest.approx(expected, rel=1e-4)
        assert tokens == sum(label != IGNORED for label in row.labels)


def test_the_paper_preset_has_the_released_settings_and_flags_go_over_it():
    settings = SftSettings(base_model="x", preset="paper", epochs=2)
    assert settings.epochs == 2
    assert {name: getattr(settings, name) for name in PAPER_SFT if name != "epochs"} == {
        "method": "full",
        "batch": 512,
        "learning_rate": 2e-5,
        "warmup": 0.1,
        "max_tokens": 2_048,
        "chat_template": "vicuna",
    }


@pytest.mark.parametrize(("batch", "steps"), [(8, 1), (2, 2)])
def test_packed_rows_carry_the_loss_of_rows_apart(tiny_llama, tmp_path, batch, steps):
    """Eight rows are three sequences. In one step over all of them only the packing differs."""
    rows = write_rows(tmp_path / "rows.jsonl", 9)
    usual = {"micro_batch": 2, "epochs": 1, "lora_dropout": 0.0, "max_tokens": 512}
    apart, packed = [], []
    for packing, found in ((False, apart), (True, packed)):
        settings = settings_of(tiny_llama, packing=packing, batch=batch if packing else 8, **usual)
        align_sft(str(rows), tmp_path / str(packing), settings, device="cpu", report=found.append)
    assert (len(apart), len(packed)) == (1, steps)
    if steps == 1:
        assert packed[0].loss == pytest.approx(apart[0].loss, rel=0.01)
