"""Compares samples with examples of the tasks one wants, which are encoded as the pool is."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from deita_core.conversation import content_id
from deita_core.errors import InputError
from deita_core.export.placing import place_file
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.models.lm_encoder import LanguageModelEncoder, render
from deita_core.models.pooling import weighted_means
from deita_core.reading.examples import Example
from deita_core.selection.orders.target import target_order, task_likeness
from deita_core.selection.vectors import normalize, valid
from deita_core.stages.candidates import candidate_vectors
from deita_core.stages.encoding import Encoder
from deita_core.store import Store

FOLDER = "examples"


def examples_id(examples: Sequence[Example]) -> str:
    """The content id of examples and their tasks."""
    return content_id(repr([(task, found.id) for task, found in examples]).encode())


def encode_examples(store: Store, files: EncoderFiles, load: Callable[[], Encoder], examples: Sequence[Example]) -> str:
    """Keep the tasks and vectors of examples beside the store, no texts; returns their content id.

    The encoder is loaded only for examples without vectors. Raises InputError for an example that has no valid one.
    """
    key = examples_id(examples)
    path = _place(store, files, key)
    if not has_examples(store, files, key):
        vectors = _vectors(load(), examples)
        if lost := int((~valid(normalize(vectors))).sum()):
            raise InputError(f"The encoder {files.name} knows no word of {lost} examples of tasks; leave them out.")
        columns = [
            pl.Series("task", [task for task, _ in examples], pl.String),
            pl.Series("vector", vectors, pl.Array(pl.Float32, files.dim)),
        ]
        place_file(path, pl.DataFrame(columns).write_parquet)
    return key


def has_examples(store: Store, files: EncoderFiles, key: str) -> bool:
    """True if encoded examples are beside the store; a remote store of another machine has them there."""
    return _place(store, files, key).exists()


def _place(store: Store, files: EncoderFiles, key: str) -> Path:
    return store.side / FOLDER / f"{key}-{files.slug}.parquet"


def _vectors(encoder: Encoder, examples: Sequence[Example]) -> np.ndarray:
    """Vectors (m, d) of the examples, as the pool's conversations have them."""
    reasoning = encoder.files.reasoning
    if isinstance(encoder, LanguageModelEncoder):
        return encoder.encode([render(found, encoder.tokenizer, reasoning) for _, found in examples]).vectors
    members = [
        (group, message.read_text(reasoning))
        for group, example in enumerate(examples)
        for message in example.conversation.messages
        if not message.is_blank
    ]
    frame = pl.DataFrame(members, schema=["group", "text"], orient="row")
    frame = frame.with_columns(row=pl.int_range(pl.len()), weight=pl.col("text").str.len_chars())
    return weighted_means(frame, len(examples), encoder.encode(frame["text"].to_list()).vectors)


def target_values(
    store: Store, encoder: EncoderFiles, key: str, ids: pl.Series, evol: np.ndarray | None = None, weight: float = 1.0
) -> pl.DataFrame:
    """The order of samples by likeness to examples: id, score, likeness, task (its name), reason; in their order.

    key: of examples that `encode_examples` has encoded. `evol` (n,) and `weight` are as for `target_order`. A sample
    without a score has a reason.
    """
    examples = pl.read_parquet(_place(store, encoder, key))
    names = examples["task"].unique(maintain_order=True).to_list()
    tasks = np.array([names.index(task) for task in examples["task"]])
    vectors = examples["vector"].to_numpy()
    parts = [np.zeros((0, len(names)), np.float32)]
    for _, block in candidate_vectors(store, encoder, ids.rename("id").to_frame()):
        parts.append(task_likeness(block, vectors, tasks))
    likeness = np.concatenate(parts)
    found = target_order(ids.to_list(), likeness, evol, weight)
    no_vector = pl.Series(np.isnan(likeness).any(axis=1))
    why = pl.when(no_vector).then(pl.lit("its vector is zero")).otherwise(pl.lit("a turn has no readable score"))
    return found.with_columns(
        task=pl.col("task").replace_strict(dict(enumerate(names)), return_dtype=pl.String),
        reason=pl.when(pl.col("score").is_null()).then(why),
    )
