"""Reads the rows to train on from any file that the readers take, and says what became of each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from deita_core.alignment.chat import IGNORED, UnusableRowError, sequences
from deita_core.conversation import stored_conversation
from deita_core.errors import InputError
from deita_core.models.fine_tuning import draw_held_out
from deita_core.reading.pool import read_pool

SELECTION = ("manifest.json", "selected.jsonl")


class TrainingRow(NamedTuple):
    """A sequence to train on: the id of its conversation, its token ids, and its labels (see `chat.sequences`)."""

    id: str
    ids: list[int]
    labels: list[int]

    @property
    def n_labels(self) -> int:
        """Tokens that carry loss."""
        return sum(label != IGNORED for label in self.labels)


class DroppedRow(NamedTuple):
    """A conversation that is not trained on, where it stands, and why."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True)
class PreparedRows:
    """Rows to train on; conversations that were cut; conversations and lines that are not trained on."""

    rows: list[TrainingRow]
    cut: int
    dropped: list[DroppedRow]

    @property
    def conversations(self) -> list[str]:
        """The ids of the conversations, in order."""
        return list(dict.fromkeys(row.id for row in self.rows))


def data_files(data: str | Path) -> list[str]:
    """The files of training data: selected.jsonl of an output folder of a selection; else the path itself."""
    folder = Path(data)
    if all((folder / name).is_file() for name in SELECTION):
        return [str(folder / SELECTION[1])]
    return [str(data)]


def read_rows(data: str | Path, tokenizer: Any, max_tokens: int, limit: int | None = None) -> PreparedRows:
    """Read the conversations of a selection's folder or any other files, as tokens cut to `max_tokens`.

    Exact duplicates are one conversation. Raises InputError if nothing of them can be trained on.
    """
    samples, rejects = read_pool(data_files(data), limit=limit)
    prepared = prepare_rows(samples, tokenizer, max_tokens)
    lines = [DroppedRow(file, line, reason) for file, line, reason, _ in rejects.rows()]
    if not prepared.rows:
        first = next(iter([*lines, *prepared.dropped]), None)
        why = f"; {first.file}, line {first.line}: {first.reason}" if first else ""
        raise InputError(f"Nothing in {data} can be trained on{why}.")
    return PreparedRows(prepared.rows, prepared.cut, [*lines, *prepared.dropped])


def prepare_rows(samples: pl.DataFrame, tokenizer: Any, max_tokens: int) -> PreparedRows:
    """Tokenize samples with id, messages, extra and sources, as `read_pool` gives them."""
    rows, cut, dropped = list[TrainingRow](), 0, list[DroppedRow]()
    for id_, messages, extra, sources in samples.select("id", "messages", "extra", "sources").iter_rows():
        try:
            found = list(sequences(tokenizer, stored_conversation(messages, extra), max_tokens))
        except UnusableRowError as error:
            dropped.append(DroppedRow(sources[0]["file"], sources[0]["line"], str(error)))
            continue
        rows += [TrainingRow(id_, tokens.ids, tokens.labels) for tokens, _ in found]
        cut += any(was_cut for _, was_cut in found)
    return PreparedRows(rows, cut, dropped)


def set_aside(rows: Sequence[TrainingRow], share: float, seed: int) -> tuple[list[TrainingRow], list[TrainingRow]]:
    """Split rows into training and held-out ones by a random share of conversations, at least one of each.

    Raises InputError for a single conversation.
    """
    if len({row.id for row in rows}) < 2:
        raise InputError("There is one conversation to train on, and none to measure the loss on; give --heldout.")
    aside = draw_held_out((row.id for row in rows), share, seed)
    return [row for row in rows if row.id not in aside], [row for row in rows if row.id in aside]


def count_labels(rows: Iterable[TrainingRow]) -> int:
    """Tokens that carry loss in all rows."""
    return sum(row.n_labels for row in rows)
