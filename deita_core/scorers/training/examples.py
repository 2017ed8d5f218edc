"""Training rows for scorers: authored chains of graded texts, and rows made from them by code with a known defect."""

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from deita_core.config.folders import example_chains
from deita_core.errors import InputError, cause
from deita_core.literals import Axis

FILLER = (
    "I'm sorry, but I can't help with that.",
    "That is a great question! There are many things to consider, and the right answer depends on your situation.",
    "Thank you for reaching out. Please let me know if there is anything else I can do for you today.",
    "Sure! I would be happy to help you with that.",
    "I don't know.",
    "As a language model I have no opinion on this topic and cannot give you any specific advice.",
    "It is important to do your own research and to consult a professional before you decide anything.",
    "Please provide more information.",
    "Yes.",
    "OK",
    "...",
    "对不起，我无法回答这个问题。",
    "Lo siento, no puedo ayudarte con eso.",
)


@dataclass(frozen=True, slots=True)
class Example:
    """One training text: `response` is None on the complexity axis; `authored` is False for rows that a program made.

    Rows of one chain are compared with each other; a split never separates rows of one `seed`.
    """

    chain: str
    instruction: str
    response: str | None
    score: int
    authored: bool = True
    seed: str = ""

    @property
    def group(self) -> str:
        """The seed, or the chain if no seed is named."""
        return self.seed or self.chain

    @property
    def text(self) -> str:
        """The scored text."""
        return self.instruction if self.response is None else self.response


def shipped_chains(axis: Axis) -> list[Path]:
    """The files that the shipped scorers of an axis are trained on."""
    return sorted(example_chains().glob(f"{axis}*.jsonl"))


def read_chains(files: Iterable[Path], axis: Axis) -> list[Example]:
    """Read chains from JSON Lines: id, axis, variants [{text, score}], instruction (quality axis), optional seed, by.

    `by` names the model that wrote the variants, which then count as made and not as authored. Raises InputError with
    the file and the line.
    """
    examples: list[Example] = []
    for file in files:
        try:
            lines = file.read_bytes().splitlines()
        except OSError as error:
            raise InputError(f"The chains {file} cannot be read ({cause(error)}); check the path.") from None
        for number, line in enumerate(lines, start=1):
            try:
                examples += _chain_examples(orjson.loads(line), axis)
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{file}, line {number} is not a {axis} chain: {error!r}.") from None
    return examples


def _chain_examples(chain: Any, axis: Axis) -> list[Example]:
    if not isinstance(chain, dict):
        raise TypeError("it is no object")
    if chain.get("axis", axis) != axis:
        raise ValueError(f"its axis is {chain['axis']}")
    examples = []
    for variant in chain["variants"]:
        text, score = variant["text"], variant["score"]
        instruction = chain["instruction"] if axis == "quality" else text
        seed = chain.get("seed", "")
        if not all(isinstance(part, str) for part in (text, instruction, chain["id"], seed)):
            raise TypeError("an id, a seed, an instruction or a text is no string")
        if score not in range(1, 7):
            raise ValueError(f"a score is {score}, and not one of 1 to 6")
        response = text if axis == "quality" else None
        examples.append(Example(chain["id"], instruction, response, int(score), "by" not in chain, seed))
    return examples


def with_defects(examples: Sequence[Example], seed: int = 0) -> list[Example]:
    """Add to each quality chain answers that are cut off, off-topic, repetitive or filler; returns all examples.

    Their low scores follow from the defect. Deterministic for a seed. Complexity examples are returned unchanged: a
    broken instruction is not an easier one.
    """
    chains: dict[str, list[Example]] = {}
    for example in examples:
        if example.response is not None:
            chains.setdefault(example.chain, []).append(example)
    answers = [e for e in examples if e.response is not None and e.score >= 3]
    made = []
    for name, chain in chains.items():
        # One generator per chain, so that its cuts do not depend on earlier chains.
        draw = random.Random(f"{seed}:{name}")  # noqa: S311
        made += [
            Example(name, chain[0].instruction, text, score, False, chain[0].seed)
            for text, score in _defects(chain, answers, draw)
        ]
    return [*examples, *made]


def _defects(chain: Sequence[Example], answers: Sequence[Example], draw: random.Random) -> Iterator[tuple[str, int]]:
    instruction = chain[0].instruction
    good = [e.text for e in chain if e.score >= 4]
    for text in good:
        yield from _cut_off(text, draw)
    others = [e.text for e in answers if e.chain != chain[0].chain]
    yield from ((text, 1) for text in draw.sample(others, min(3, len(others))))
    yield from ((text, 1) for text in draw.sample(FILLER, 2))
    yield instruction, 1
    if good:
        yield _repeated(draw.choice(good), draw), 1


def _cut_off(text: str, draw: random.Random) -> Iterator[tuple[str, int]]:
    """Yield (text, score) of truncated answers; the shorter the text, the lower the score."""
    if len(text) < 160:
        return
    for _ in range(2):
        share = draw.uniform(0.08, 0.8)
        yield text[: int(share * len(text))].rstrip(), 1 if share < 0.4 else 2 if share < 0.65 else 3
    sentences = re.split(r"(?<=[.!?。！？])\s*", text)
    if len(sentences) >= 4:
        yield sentences[0].strip(), 2
        yield " ".join(s.strip() for s in sentences[: len(sentences) // 2]), 3


def _repeated(text: str, draw: random.Random) -> str:
    sentences = [s for s in re.split(r"(?<=[.!?。！？])\s+", text) if s.strip()]
    return " ".join([draw.choice(sentences)] * draw.randint(4, 14))
