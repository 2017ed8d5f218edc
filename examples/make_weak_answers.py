"""Let a weak model answer the authored instructions: lessons in what a poor answer looks like.

    python examples/make_weak_answers.py [FILE]

SmolLM2-135M-Instruct answers each instruction twice: once as it is, at a temperature of 0, 0.7 or 1, and once with
words left out or the end cut off. Without FILE, examples/evolution/quality_weak_model.jsonl is written again. The same
versions of torch and transformers write the same bytes. It takes about a quarter of an hour on one core.
"""

import random
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import torch

from deita_core.models.chat_model import ChatModel, find_model

EVOLUTION = Path(__file__).parent / "evolution"
CHAINS = (EVOLUTION / "quality_contrast.jsonl", EVOLUTION / "quality.jsonl")
MODEL, NAME = "smollm2-135m", "SmolLM2-135M-Instruct"
INSTRUCTIONS = 120
LONGEST_INSTRUCTION = 500
MAX_TOKENS = 180
BATCH = 12
TEMPERATURES = (0.0, 0.7, 1.0)
# A whole instruction can get an answer of some use; to a distorted one it is an answer to something else.
SCORES = {"whole": 2, "blurred": 1, "cut": 1}


def main(file: Path) -> None:
    """Write the weak answers, a chain for each instruction, with the id of the authored chain."""
    # One thread: sums in another order round differently, and then another word is drawn.
    torch.set_num_threads(1)
    model = ChatModel(find_model(MODEL), "float32", device="cpu")
    rows = [orjson.loads(line) for path in CHAINS for line in path.read_bytes().splitlines()]
    chains = [row for row in rows if len(row["instruction"]) <= LONGEST_INSTRUCTION]
    chains = random.Random(0).sample(chains, INSTRUCTIONS)  # noqa: S311
    heard = [dict(turn, chain=chain["id"]) for number, chain in enumerate(chains) for turn in turns(chain, number)]
    answers: dict[str, list[dict[str, Any]]] = {chain["id"]: [] for chain in chains}
    for turn, text in answered(model, heard):
        if text:
            score = SCORES[turn["heard"]]
            variant = {"text": text, "score": score, "heard": turn["heard"], "temperature": turn["temperature"]}
            answers[turn["chain"]].append(variant)
    with file.open("wb") as out:
        for chain in chains:
            kept = {name: chain[name] for name in ("id", "axis", "domain", "language", "instruction")}
            out.write(orjson.dumps({**kept, "origin": NAME, "variants": answers[chain["id"]]}) + b"\n")


def turns(chain: dict[str, Any], number: int) -> Iterator[dict[str, Any]]:
    """The two ways in which the model hears an instruction."""
    instruction = chain["instruction"]
    yield {"heard": "whole", "text": instruction, "temperature": TEMPERATURES[number % 3]}
    words, draw = re.split(r"(?<=\s)", instruction), random.Random(chain["id"])  # noqa: S311
    if number % 2:
        yield {"heard": "cut", "text": "".join(words[: max(1, len(words) * 2 // 5)]), "temperature": 0.7}
    else:
        blurred = "".join(word for word in words if draw.random() < 0.6)
        yield {"heard": "blurred", "text": blurred or words[0], "temperature": 0.7}


def answered(model: ChatModel, heard: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    """Each turn with the model's answer, up to the end of its last whole sentence."""
    for temperature in sorted({turn["temperature"] for turn in heard}):
        alike = [turn for turn in heard if turn["temperature"] == temperature]
        for first in range(0, len(alike), BATCH):
            batch = alike[first : first + BATCH]
            prompts = [model.prompt([{"role": "user", "content": turn["text"]}]) for turn in batch]
            made = model.generate(prompts, MAX_TOKENS, temperature, seed=first)
            for turn, answer in zip(batch, made, strict=True):
                # An answer that stops at the limit of tokens would be recognised by that, and not by what it says.
                yield turn, whole_sentences(answer.text) if answer.is_cut else answer.text


def whole_sentences(text: str) -> str:
    """The text up to the end of its last whole sentence or line."""
    ends = [match.end() for match in re.finditer(r"[.!?。！？](?=\s)|[^\n](?=\n)", text)]
    return text[: ends[-1]] if ends else text


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else EVOLUTION / "quality_weak_model.jsonl")
