"""Trains scorers on ranked chains; heads use the vectors in a store."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import orjson
import polars as pl
from pydantic import BaseModel

from deita_core.config.settings import TrainingSettings
from deita_core.conversation import content_id, text_id
from deita_core.errors import InputError, ModelError
from deita_core.export.placing import Write, place_file, place_files, prepare_files
from deita_core.models.encoder_spec import EncoderFiles, find_encoder
from deita_core.models.fine_tuning import TuningProgress
from deita_core.models.static_encoder import TextEncoder
from deita_core.scorers.heads import head_files
from deita_core.scorers.training.causal import train_causal
from deita_core.scorers.training.examples import Example, read_chains, with_defects
from deita_core.scorers.training.head import model_card, texts_of, train_head
from deita_core.scorers.training.metrics import Figures
from deita_core.stages.encoding import CHARS_PER_SHARD, encoder_table, vector_frame
from deita_core.stages.shards import Shard, plan_shards, read_shard
from deita_core.store import Store

# Increased whenever the same chains would give a different scorer. Part of every recipe.
TRAINING_VERSION = 1
# Written last, so that a folder with this file is complete.
TRAINED = "trained.json"


class Trained(BaseModel):
    """A trained scorer: its folder, its recipe, and its metrics on held-out rows."""

    folder: str
    recipe: str
    kind: str
    examples: int
    figures: Figures


def training_examples(files: Sequence[str], settings: TrainingSettings) -> list[Example]:
    """The examples in files of chains; for a quality head also rows with a known defect, derived from them."""
    examples = read_chains([Path(file) for file in files], settings.axis)
    if not examples:
        raise InputError(f"{', '.join(files)} holds no chains; give files that `deita evolve` wrote.")
    return with_defects(examples) if settings.kind == "head" else examples


def recipe(files: Sequence[str], settings: TrainingSettings) -> str:
    """Id of everything that a trained scorer depends on."""
    parts = [TRAINING_VERSION, settings.model_dump(exclude={"store"}), *(content_id(_bytes(file)) for file in files)]
    if settings.kind == "head":
        parts.append(find_encoder(settings.encoder, settings.precision).fingerprint)
    return content_id(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS))


def _bytes(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"The chains {file} cannot be read ({error.strerror}); check the path.") from None


def plan_vectors(
    store: Store, encoder: EncoderFiles, files: Sequence[str], settings: TrainingSettings
) -> list[Shard]:  # fmt: skip
    """Shards of the examples' texts without a vector. Raises ModelError unless the encoder is a sentence encoder."""
    if encoder.kind == "causal":
        raise ModelError(
            f"A head reads vectors of messages, and {encoder.name} makes vectors of whole conversations; give a "
            f"sentence-transformers model as --encoder."
        )
    texts = texts_of(training_examples(files, settings))
    work = pl.DataFrame(
        {"id": [text_id(text) for text in texts], "owner": "", "size": [len(text) for text in texts]}
    ).sort("size", "id")  # fmt: skip
    return plan_shards(store, "encode-chains", encoder_table(encoder), work, CHARS_PER_SHARD)


def encode_vectors(
    store: Store, encoder: TextEncoder, files: Sequence[str], settings: TrainingSettings, shard: Shard
) -> int:
    """Encode a shard of the examples' texts; returns their number."""
    known = {text_id(text): text for text in texts_of(training_examples(files, settings))}
    ids = read_shard(store, shard)["id"]
    encoded = encoder.encode([known[id_] for id_ in ids])
    table = encoder_table(encoder.files)
    store.write(table, vector_frame(table, ids, encoded.n_tokens, encoded.vectors))
    return len(ids)


def train_on_vectors(
    store: Store, encoder: EncoderFiles, files: Sequence[str], settings: TrainingSettings, folder: Path
) -> Trained:
    """Train a head on stored vectors and write it to a folder."""

    def vectors_of(texts: Sequence[str]) -> np.ndarray:
        return store.vectors(encoder_table(encoder), [text_id(text) for text in texts])

    head, card = train_head(settings.axis, training_examples(files, settings), encoder, vectors_of)
    trained = _trained(folder, files, settings, card.examples, card.figures)
    written = {
        "README.md": lambda path: path.write_text(model_card(card), encoding="utf-8"),
        **head_files(head, card),
        TRAINED: _writes(trained),
    }
    place_files(folder, prepare_files(folder, written))
    return trained


def train_language_model(
    files: Sequence[str], settings: TrainingSettings, folder: Path, report: Callable[[TuningProgress], None]
) -> Trained:
    """Train a causal scorer and write it to a folder; resumes an interrupted training."""
    assert settings.tuning is not None, "settings of a causal scorer name a model"
    examples = training_examples(files, settings)
    card = train_causal(settings.axis, examples, folder, settings.tuning, report=report)
    trained = _trained(folder, files, settings, card.examples, card.figures)
    place_file(folder / TRAINED, _writes(trained))
    return trained


def _trained(
    folder: Path, files: Sequence[str], settings: TrainingSettings, examples: int, figures: Figures
) -> Trained:
    return Trained(
        folder=str(folder), recipe=recipe(files, settings), kind=settings.kind, examples=examples, figures=figures
    )


def _writes(trained: Trained) -> Write:
    return lambda path: path.write_text(trained.model_dump_json(indent=2) + "\n")


def is_trained(folder: Path, made_by: str) -> bool:
    """True if the folder holds a complete scorer with this recipe."""
    try:
        return Trained.model_validate_json((folder / TRAINED).read_bytes()).recipe == made_by
    except (OSError, ValueError):
        return False
