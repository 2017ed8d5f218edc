"""Rows to fine-tune on: answers that repeat a word of their question, and pairs of such an answer and another."""

import json
from pathlib import Path

from tests.support.tiny_llama import TOPICS


def write_rows(path: Path, count: int = 24) -> Path:
    """Write conversations of one turn as messages."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What of {topic} {number}?"},
                {"role": "assistant", "content": f"{topic}, a small thing of the sea"},
            ]
        }
        for number, topic in zip(range(count), TOPICS * count, strict=False)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_pairs(path: Path, count: int = 24) -> Path:
    """Write pairs: the chosen answer is of the sea, the rejected one of rain."""
    rows = [
        {
            "prompt": f"What of {topic} {number}?",
            "chosen": f"{topic}, a small thing of the sea",
            "rejected": f"{topic}, a large thing of rain",
        }
        for number, topic in zip(range(count), TOPICS * count, strict=False)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def same_weights(one: Path, other: Path) -> bool:
    """Whether two folders hold the same weights, to the byte."""
    names = sorted(path.name for path in one.glob("*.safetensors"))
    assert names and names == sorted(path.name for path in other.glob("*.safetensors"))
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)
