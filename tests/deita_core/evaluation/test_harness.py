"""lm-evaluation-harness on tasks in a folder of one's own, without a network."""

import json

import pytest

from deita_core.config.evaluation import BenchmarkSettings
from deita_core.errors import InputError
from deita_core.stages.benchmarks import benchmark
from tests.support.task_folder import ROWS, write_task


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a task, and a cache for its data."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write_task(tmp_path / "tasks")
    return tmp_path


def settings(folder, model, **changes):
    chosen = {"tasks": ["things"], "task_folder": folder / "tasks", "store": str(folder / "store")}
    return BenchmarkSettings(**{"model": str(model), "precision": "float32", "batch": 4, **chosen, **changes})


def accuracy(folder):
    """The share of rows whose right choice is the likeliest, computed plainly."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def likelihood(row, choice):
        begun = tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"]
        ids = tokenizer(f"Question: {row['question']}\nAnswer: {choice}")["input_ids"]
        with torch.inference_mode():
            likely = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(float(likely[i - 1, ids[i]]) for i in range(len(begun), len(ids)))

    right = [max(range(3), key=lambda i: likelihood(row, row["choices"][i])) == row["answer"] for row in ROWS]
    return sum(right) / len(right)


def test_a_task_of_ones_own_is_run_and_its_figures_are_kept(folder, tiny_llama):
    report = benchmark(settings(folder, tiny_llama), folder / "out")
    [figure] = report.figures
    assert (figure.task, figure.metric, figure.documents) == ("things", "acc", 12)
    assert figure.value == pytest.approx(accuracy(tiny_llama)) and 0 < figure.error < 0.2
    kept = json.loads((folder / "out/results.json").read_text())
    assert kept["results"]["results"]["things"]["acc,none"] == figure.value
    assert kept["fingerprint"] == report.fingerprint and kept["settings"]["tasks"] == ["things"]
    assert f"| things | acc | {figure.value:.4f} |" in (folder / "out/README.md").read_text()


def test_a_repeated_run_computes_nothing_again(folder, tiny_llama, monkeypatch):
    first = benchmark(settings(folder, tiny_llama), folder / "out")
    monkeypatch.setattr("lm_eval.models.huggingface.HFLM._loglikelihood_tokens", None)
    again = benchmark(settings(folder, tiny_llama), folder / "out")
    assert again.figures == first.figures


def test_an_unknown_task_and_a_lost_file_are_named(folder, tiny_llama):
    with pytest.raises(InputError, match="There is no task arc_challenge in"):
        benchmark(settings(folder, tiny_llama, tasks=["things", "arc_challenge"]), folder / "out")
    (folder / "tasks/things.jsonl").unlink()
    with pytest.raises(InputError, match="things failed in lm-evaluation-harness"):
        benchmark(settings(folder, tiny_llama), folder / "out")
    assert not (folder / "out").exists()
