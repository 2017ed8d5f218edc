"""A reward model as a scorer beside the plain way: one text at a time with transformers.

    python -m benchmarks.classifiers [--rows 64] [--data ../shared/data] [--device cpu]

The model has the shape of SmolLM2-135M, its tokenizer and chat template, and random weights. Both ways score the first
turns of the same conversations, in float32, and in bfloat16 if the machine multiplies it. Ours runs once before and
once after the plain way, since other work on the machine affects the figures.
"""

import tempfile
from argparse import ArgumentParser
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks.scoring import Turn, first_turns
from deita_core.literals import Precision
from deita_core.models.encoder_spec import best_precision
from deita_core.models.small_lm import SMALL_LM, local_model
from deita_core.scorers.classifier import MAX_TOKENS, ClassifierScorer


def main() -> None:
    """Print the table."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = make_reward_model(Path(name))
        turns = first_turns(options.data, options.rows)
        print(f"{options.device}, {torch.get_num_threads()} threads; {torch.__version__}", flush=True)
        print(f"{'precision':<11}{'plain rows/s':>13}{'ours rows/s':>13}{'ratio':>7}{'largest difference':>20}")
        precisions: list[Precision] = ["float32", "bfloat16"]
        for precision in precisions[: 1 + (best_precision() == "bfloat16")]:
            compare(folder, turns, options.device, precision)


def make_reward_model(folder: Path) -> Path:
    """Write the model and its tokenizer; returns the folder."""
    from transformers import AutoConfig, AutoTokenizer, LlamaForSequenceClassification

    torch.manual_seed(0)
    source = local_model(SMALL_LM)
    config = AutoConfig.from_pretrained(source, num_labels=1)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def compare(folder: Path, turns: list[Turn], device: str, precision: Precision) -> None:
    """Print one line: rows per second of both ways, and the largest difference of their values."""
    scorer = ClassifierScorer(folder, "quality", device, precision)
    asked, answered = [list(texts) for texts in zip(*turns, strict=True)]
    scorer.score(asked[:2], answered[:2])
    before, values = timed(lambda: scorer.score(asked, answered)["raw"].to_numpy())
    model, tokenizer = loaded(folder, device, precision)
    plain, expected = timed(lambda: plain_values(model, tokenizer, turns))
    after, _ = timed(lambda: scorer.score(asked, answered))
    ours, theirs = (2 * len(turns) / (before + after), len(turns) / plain)
    difference = np.abs(values - expected).max()
    print(f"{precision:<11}{theirs:>13.2f}{ours:>13.2f}{ours / theirs:>7.2f}{difference:>20.1e}", flush=True)


def loaded(folder: Path, device: str, precision: Precision) -> tuple[Any, Any]:
    """The model and the tokenizer as transformers loads them."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=getattr(torch, precision))
    return model.to(device).eval(), AutoTokenizer.from_pretrained(folder)


def plain_values(model: Any, tokenizer: Any, turns: list[Turn]) -> np.ndarray:
    """The values of turns, one at a time; a text that is too long is cut at its end."""
    found = []
    for asked, answered in turns:
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)["input_ids"]
        with torch.inference_mode():
            found.append(float(model(ids[:, :MAX_TOKENS].to(model.device)).logits[0, 0]))
    return np.array(found)


def timed(work: Any) -> tuple[float, Any]:
    """Seconds that some work takes, and its result."""
    started = perf_counter()
    result = work()
    return perf_counter() - started, result


if __name__ == "__main__":
    main()
