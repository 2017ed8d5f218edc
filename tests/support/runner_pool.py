"""A pool of several shards and models so small that a run over it takes seconds, in a folder to run `deita` in."""

from pathlib import Path
from random import Random

import orjson

from benchmarks.tiny import WORDS, make_head


def write_place(folder: Path, model: Path, chars: int) -> Path:
    """pool.jsonl of about `chars` characters, a head of each axis for the model, and a link to it, all in `folder`."""
    folder.mkdir(parents=True)
    (folder / "encoder").symlink_to(model)
    for axis in ("complexity", "quality"):
        make_head(folder / f"{axis}-head", axis, model)
    write_pool(folder / "pool.jsonl", chars)
    return folder


def write_pool(file: Path, chars: int) -> None:
    """Conversations of random words, of different lengths."""
    draw, written = Random(0), 0
    with file.open("wb") as lines:
        while written < chars:
            asked, answered = (" ".join(draw.choices(WORDS, k=draw.randint(3, 300))) for _ in range(2))
            lines.write(orjson.dumps({"instruction": asked, "input": "", "output": answered}) + b"\n")
            written += len(asked) + len(answered)
