"""Let a small model answer the instructions of the shipped chains, as lessons of what a weak answer looks like.

    python examples/make_weak_answers.py [FILE]

Without FILE, examples/evolution/weak/quality.jsonl is written again; it takes a few minutes on an idle machine. The
model is SmolLM2-135M-Instruct (Apache-2.0). Same versions and processor: same file, to the byte.
"""

import random
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import orjson

from deita_core.config.folders import example_chains
from deita_core.models.chat_model import ChatModel, Generated, find_model
from deita_core.models.small_lm import SMALL_LM
from deita_core.scorers.training.examples import shipped_chains

FILE = example_chains() / "weak" / "quality.jsonl"
# The model knows little but English.
LANGUAGE = "en"
MAX_TOKENS = 128
BATCH = 64


class Way(NamedTuple):
    """How an answer is made: its temperature, what the model is shown of the instruction, and its score.

    An answer to a part of the instruction, or at a high temperature, is mostly beside the point: 1. Else the model's
    answers read well and are mostly wrong or empty, which a grade of 2 says.
    """

    kind: str
    temperature: float
    shown: str
    score: int


WAYS = (
    Way("greedy", 0.0, "whole", 2),
    Way("warm", 0.7, "whole", 2),
    Way("hot", 1.2, "whole", 1),
    Way("blurred", 0.7, "blurred", 1),
    Way("cut", 0.7, "cut", 1),
)
# An answer that was cut off keeps its whole sentences: what is cut off is a lesson that code makes.
LAST_SENTENCE = re.compile(r".*[.!?:](?=\s)", re.DOTALL)


class Job(NamedTuple):
    """One answer to make: the chain's row, the way, and the prompt's tokens."""

    row: int
    way: Way
    prompt: list[int]


def main(file: Path) -> None:
    """Generate and write the answers."""
    chains = [chain for path in shipped_chains("quality") for chain in map(orjson.loads, path.open("rb"))]
    chains = [chain for chain in chains if chain["language"] == LANGUAGE]
    model = ChatModel(find_model(SMALL_LM), "bfloat16", device="cpu")
    jobs = [job(row, chain, model) for row, chain in enumerate(chains)]
    texts = [""] * len(chains)
    for number, batch in enumerate(batches(jobs)):
        way = batch[0].way
        answers = model.generate([each.prompt for each in batch], MAX_TOKENS, way.temperature, seed=number)
        for each, answer in zip(batch, answers, strict=True):
            texts[each.row] = whole_sentences(answer)
        print(f"batch {number + 1}: {way.kind}, {sum(a.completion_tokens for a in answers)} tokens", flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [line(chain, each.way, text) for chain, each, text in zip(chains, jobs, texts, strict=True) if text]
    file.write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in lines))


def job(row: int, chain: dict[str, str], model: ChatModel) -> Job:
    """The answer to make for a chain; the ways take turns."""
    way = WAYS[row % len(WAYS)]
    return Job(row, way, model.prompt([{"role": "user", "content": shown(chain, way)}]))


def batches(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Yield jobs of one way and of similar lengths together."""
    for way in WAYS:
        chosen = sorted((each for each in jobs if each.way == way), key=lambda each: (len(each.prompt), each.row))
        yield from (chosen[first : first + BATCH] for first in range(0, len(chosen), BATCH))


def shown(chain: dict[str, str], way: Way) -> str:
    """What the model is shown of a chain's instruction: all of it, without a third of its words, or its first half."""
    words = chain["instruction"].split()
    if way.shown == "cut":
        return " ".join(words[: max(2, len(words) // 2)])
    if way.shown == "blurred":
        draw = random.Random(chain["id"])  # noqa: S311
        dropped = set(draw.sample(range(len(words)), (len(words) + 2) // 3))
        return " ".join(word for place, word in enumerate(words) if place not in dropped)
    return chain["instruction"]


def whole_sentences(answer: Generated) -> str:
    """The answer; without its last sentence if it was cut off there and has another one."""
    found = LAST_SENTENCE.match(answer.text) if answer.is_cut else None
    return found[0] if found else answer.text


def line(chain: dict[str, str], way: Way, text: str) -> dict[str, object]:
    """A chain with one weak answer; its id is the authored chain's, so that it is compared with the answers there."""
    same = {name: chain[name] for name in ("id", "axis", "domain", "language", "instruction")}
    return {**same, "by": SMALL_LM, "variants": [{"kind": way.kind, "score": way.score, "text": text}]}


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE)
