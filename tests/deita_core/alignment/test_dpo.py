"""Preference training of a tiny model: chosen answers become likelier, from an adapter, a model, and after a kill."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from deita_core.alignment.chat import load_chat_tokenizer
from deita_core.alignment.dpo import align_dpo
from deita_core.alignment.pairs import read_pairs, sample_pairs
from deita_core.alignment.settings import DpoSettings, SftSettings
from deita_core.alignment.sft import align_sft
from deita_core.errors import InputError
from tests.support.alignment import same_weights, write_pairs, write_rows
from tests.support.paths import ROOT


def settings_of(model, **given):
    usual = {"chat_template": "vicuna", "batch": 8, "max_tokens": 256, "learning_rate": 2e-3, "epochs": 3}
    return DpoSettings(model=str(model), **{**usual, **given})


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.jsonl")


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_margin_of_held_out_pairs_grows(tiny_llama, pairs, tmp_path, method):
    metrics = align_dpo(str(pairs), tmp_path / "dpo", settings_of(tiny_llama, method=method), device="cpu")
    assert metrics.margin > 0.05 and metrics.accuracy == 1.0
    # Full training saves, and measures, weights in the machine's precision.
    grown = 0.1 * (metrics.difference_after - metrics.difference_before)
    assert metrics.margin == pytest.approx(grown, abs=1e-6)
    assert (metrics.rows, metrics.held_out_rows) == (22, 2)


def test_an_adapter_is_trained_on_and_loads_with_plain_peft(tiny_llama, pairs, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    rows = write_rows(tmp_path / "rows.jsonl")
    sft = SftSettings(base_model=str(tiny_llama), chat_template="vicuna", batch=8, epochs=1, max_tokens=256)
    align_sft(str(rows), tmp_path / "sft", sft, device="cpu")
    # The template was saved with the model, so none is named.
    align_dpo(str(pairs), tmp_path / "dpo", settings_of(tmp_path / "sft", chat_template=None), device="cpu")
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    PeftModel.from_pretrained(base, tmp_path / "dpo")
    AutoModelForCausalLM.from_pretrained(tmp_path / "dpo")
    assert not same_weights(tmp_path / "sft", tmp_path / "dpo")
    assert json.loads((tmp_path / "dpo/adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny_llama)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from deita_core.alignment.dpo import align_dpo
from deita_core.alignment.settings import DpoSettings

def report(progress):
    if progress.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
align_dpo(sys.argv[1], Path(sys.argv[2]), DpoSettings.model_validate_json(sys.argv[3]), device="cpu", report=report)
"""


@pytest.mark.slow
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(tiny_llama, pairs, tmp_path):
    import torch

    settings = settings_of(tiny_llama)
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(pairs), str(tmp_path / "killed"), settings.model_dump_json()],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()[-2_000:]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resumed = align_dpo(str(pairs), tmp_path / "killed", settings, device="cpu")
        undisturbed = align_dpo(str(pairs), tmp_path / "undisturbed", settings, device="cpu")
    finally:
        torch.set_num_threads(threads)
    assert same_weights(tmp_path / "killed", tmp_path / "undisturbed")
    assert resumed.margin == undisturbed.margin


LAYOUTS = {
    "texts": {"prompt": "What of salt?", "chosen": "A mineral.", "rejected": "No."},
    "messages": {
        "prompt": [{"role": "user", "content": "What of salt?"}],
        "chosen": [{"role": "assistant", "content": "A mineral."}],
        "rejected": [{"role": "assistant", "content": "No."}],
    },
    "whole conversations": {
        side: [{"role": "user", "content": "What of salt?"}, {"role": "assistant", "content": answer}]
        for side, answer in (("chosen", "A mineral."), ("rejected", "No."))
    },
    "dialogs as one text": {
        "chosen": "\n\nHuman: What of salt?\n\nAssistant: A mineral.",
        "rejected": "\n\nHuman: What of salt?\n\nAssistant: No.",
    },
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_pairs_of_every_layout_are_the_same_tokens(tiny_llama, tmp_path, layout):
    tokenizer = load_chat_tokenizer(tiny_llama, "vicuna")
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(LAYOUTS[layout]) + "\n")
    [pair] = read_pairs(str(path), tokenizer, 512).pairs
    assert tokenizer.decode(pair.prompt_ids).endswith("USER: What of salt? ASSISTANT:")
    assert tokenizer.decode(pair.chosen_ids) == " A mineral.</s>"
    assert tokenizer.decode(pair.rejected_ids) == " No.</s>"


def test_rows_without_a_pair_are_dropped_and_named(tiny_llama, tmp_path):
    rows = [
        LAYOUTS["texts"],
        {"messages": LAYOUTS["whole conversations"]["chosen"]},
        {
            "chosen": LAYOUTS["whole conversations"]["chosen"],
            "rejected": [{"role": "user", "content": "Else?"}, {"role": "assistant", "content": "No."}],
        },
        {"prompt": "salt " * 400, "chosen": "Yes.", "rejected": "No."},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared = read_pairs(str(path), load_chat_tokenizer(tiny_llama, "vicuna"), 256)
    assert len(prepared.pairs) == 1
    reasons = {row.line: row.reason for row in prepared.dropped}
    assert set(reasons) == {2, 3, 4}
    assert "differ in more than their last answer" in reasons[3]
    assert reasons[4] == "no answer begins within 256 tokens"
    path.write_text(json.dumps(rows[1]) + "\n")
    with pytest.raises(InputError, match="no pair of answers"):
        read_pairs(str(path), load_chat_tokenizer(tiny_llama, "vicuna"), 256)


def test_pairs_are_drawn_by_the_seed_and_stay_in_order(tiny_llama, pairs):
    every = read_pairs(str(pairs), load_chat_tokenizer(tiny_llama, "vicuna"), 256).pairs
    drawn = sample_pairs(every, 10, seed=3)
    assert drawn == sample_pairs(every, 10, seed=3) != sample_pairs(every, 10, seed=4)
    positions = [every.index(pair) for pair in drawn]
    assert positions == sorted(set(positions)) and len(positions) == 10
    assert sample_pairs(every, None, 0) == sample_pairs(every, 1_000, 0) == every
    assert np.all([pair.n_tokens > 0 for pair in every])
