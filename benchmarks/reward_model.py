"""Train a small reward model on the authored answers: SmolLM2-135M with LoRA, by TRL's RewardTrainer.

    python -m benchmarks.reward_model FOLDER [--steps 100] [--batch 4] [--max-tokens 128]

FOLDER is then a sequence classifier for `--quality-scorer` and `--refine`. It learns from pairs of answers to one
instruction of the shipped chains, and of those with a defect made by code; the held-out answers of
examples/evolution are not among them, so `python -m benchmarks.truth --quality-scorer FOLDER` measures it on those as
well. 100 steps take about 8 minutes of one core.
"""

import random
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from deita_core.models.causal_lm import load_tokenizer
from deita_core.models.encoder_spec import best_precision
from deita_core.models.fine_tuning import FineTuning, check_installed, trainer_arguments
from deita_core.models.small_lm import SMALL_LM, local_model
from deita_core.scorers.training.examples import Example, read_chains, shipped_chains, with_defects

# Grades that differ by one are the least sure.
LEAST_GAP = 2
# Layers with an adapter; below them nothing is trained, which saves a third of the time.
TOP = 10


def main() -> None:
    """Train and save the model."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=4, help="pairs of a step")
    parser.add_argument("--max-tokens", type=int, default=128, help="of a conversation; longer ones are left out")
    options = parser.parse_args()
    check_installed()
    tokenizer = load_tokenizer(SMALL_LM)
    examples = with_defects(read_chains(shipped_chains("quality"), "quality"))
    pairs = fitting(draw_pairs(examples), tokenizer, options.max_tokens, options.steps * options.batch)
    print(f"{len(pairs)} pairs of {len({str(pair['chosen'][0]) for pair in pairs})} instructions", flush=True)
    started = perf_counter()
    model, losses = train(pairs, tokenizer, options.steps, options.batch)
    model.save_pretrained(options.folder)
    tokenizer.save_pretrained(options.folder)
    tenth = max(1, len(losses) // 10)
    first, last = (sum(part) / tenth for part in (losses[:tenth], losses[-tenth:]))
    print(f"{options.steps} steps in {perf_counter() - started:.0f} s: loss {first:.3f} at first, {last:.3f} at last")


Pair = dict[str, list[dict[str, str]]]


def draw_pairs(examples: Sequence[Example]) -> Iterator[Pair]:
    """Yield pairs of conversations, the better one as chosen, without end: one of each chain in turn, seeded."""
    chains: dict[str, list[Example]] = {}
    for example in examples:
        chains.setdefault(example.chain, []).append(example)
    draw = random.Random(0)
    names = sorted(chains)
    while True:
        draw.shuffle(names)
        for name in names:
            pairs = [(a, b) for a in chains[name] for b in chains[name] if a.score - b.score >= LEAST_GAP]
            if pairs:
                better, worse = draw.choice(pairs)
                yield {"chosen": conversation(better), "rejected": conversation(worse)}


def conversation(example: Example) -> list[dict[str, str]]:
    """The instruction and the answer as messages."""
    return [{"role": "user", "content": example.instruction}, {"role": "assistant", "content": example.text}]


def fitting(pairs: Iterator[Pair], tokenizer: Any, max_tokens: int, count: int) -> list[Pair]:
    """The first `count` pairs whose conversations have at most so many tokens."""
    found: list[Pair] = []
    while len(found) < count:
        pair = next(pairs)
        if all(len(tokenizer.apply_chat_template(side)["input_ids"]) <= max_tokens for side in pair.values()):
            found.append(pair)
    return found


def train(pairs: list[Pair], tokenizer: Any, steps: int, batch: int) -> tuple[Any, list[float]]:
    """Train on pairs with LoRA; returns the model with its adapter merged, and the loss of each step."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        local_model(SMALL_LM), num_labels=1, dtype=torch.float32, use_safetensors=True
    )
    settings = FineTuning(epochs=1, batch=batch, micro_batch=batch, learning_rate=5e-4)
    with tempfile.TemporaryDirectory() as checkpoints:
        arguments = RewardConfig(
            **trainer_arguments(settings, Path(checkpoints), best_precision(), "cpu"),
            max_steps=steps,
            save_strategy="no",
            max_length=None,
            # Without it the values drift: only their differences count in the loss.
            center_rewards_coefficient=0.01,
        )
        top = "|".join(map(str, range(model.config.num_hidden_layers)[-TOP:]))
        adapter = LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            target_modules=rf"model\.layers\.({top})\..*_proj",
            task_type="SEQ_CLS",
        )
        rows = Dataset.from_list(pairs)
        trainer = RewardTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer, peft_config=adapter)
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return trainer.model.merge_and_unload(), losses


if __name__ == "__main__":
    main()
