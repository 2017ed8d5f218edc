"""A pool of several shards and models so small that a run over it takes seconds, in a folder to run `deita` in."""

from pathlib import Path
from random import Random

import numpy as np
import orjson

from deita_core.encoders import find_encoder
from deita_core.scorers.features import complexity_features, quality_features
from deita_core.scorers.heads import Head, HeadScorer, save_head
from tests.conftest import WORDS

SHIPPED = Path(__file__).resolve().parents[1] / "deita_core" / "scorers" / "weights"


def write_place(folder: Path, model: Path, chars: int) -> Path:
    """pool.jsonl of about `chars` characters, a head of each axis for the model, and a link to it, all in `folder`."""
    folder.mkdir(parents=True)
    (folder / "encoder").symlink_to(model)
    for axis in ("complexity", "quality"):
        write_head(folder / f"{axis}-head", axis, model)
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


def write_head(folder: Path, axis: str, model: Path) -> None:
    """A head of random weights that reads the model's vectors."""
    files = find_encoder(str(model), "float32")
    vectors = np.zeros((1, files.dim), np.float32)
    if axis == "complexity":
        features, _ = complexity_features(["a"], vectors)
    else:
        features, _ = quality_features(["a"], ["a"], vectors, vectors)
    width, draw = features.shape[1], np.random.default_rng(0)
    head = Head(
        low=np.full(width, -5.0),
        high=np.full(width, 5.0),
        mean=np.zeros(width),
        scale=np.ones(width),
        weights=draw.normal(size=width) / np.sqrt(width),
        cuts=np.linspace(-3, 3, 5),
    )
    card = HeadScorer(SHIPPED / f"laptop-{axis}").card
    save_head(head, card.model_copy(update={"encoder": files.name, "encoder_weights": files.weights}), folder)
