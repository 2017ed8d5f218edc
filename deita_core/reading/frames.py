"""Builds frames from flat lists."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from deita_core.conversation import Message, text_id
from deita_core.literals import Role
from deita_core.reading.rows import Sample
from deita_core.tables import MESSAGE, MESSAGE_INDEX_TYPE

CONVERSATION: dict[str, Any] = {
    "id": pl.String,
    "extra": pl.String,
    "multimodal": pl.Boolean,
    "n_turns": pl.Int32,
    "n_chars": pl.Int64,
}


def frame_of(rows: Sequence[tuple], schema: Mapping[str, Any]) -> pl.DataFrame:
    """Rows as a frame, made column by column because that is several times faster."""
    columns = [[row[i] for row in rows] for i in range(len(schema))]
    return pl.DataFrame(columns, schema=schema, orient="col")


class Conversations:
    """Conversations of samples, each id once; only texts and numbers last, which cost Python's collector nothing."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._facts: list[tuple] = []
        self._owners: list[int] = []
        self._roles: list[Role] = []
        self._contents: list[str] = []
        self._extras: list[str | None] = []

    def add(self, sample: Sample) -> bool:
        """Add a sample's conversation; False if there is one with its id."""
        if sample.id in self._ids:
            return False
        owner = len(self._facts)
        self._ids.add(sample.id)
        self._facts.append((sample.id, sample.conversation.extra, sample.multimodal, sample.n_turns, sample.n_chars))
        for role, content, extra in sample.conversation.messages:
            self._owners.append(owner)
            self._roles.append(role)
            self._contents.append(content)
            self._extras.append(extra)
        return True

    def frame(self) -> pl.DataFrame:
        """One row per conversation, in the order of adding: messages, message_index, and what CONVERSATION lists."""
        messages = _struct([self._roles, self._contents, self._extras], MESSAGE)
        flat = pl.DataFrame({"messages": messages, "message_index": self._index()})
        listed = flat.group_by(pl.Series("owner", self._owners, pl.UInt32), maintain_order=True).all()
        return frame_of(self._facts, CONVERSATION).hstack(listed.drop("owner"))

    def _index(self) -> pl.Series:
        """All messages without their texts."""
        texts = self._contents.copy()
        trained = [True] * len(texts)
        full: list[str | None] = [None] * len(texts)
        for i, extra in enumerate(self._extras):
            # Of a message with nothing beside its content, and no reasoning in it, the text is the content.
            if extra is None and "<think>" not in texts[i]:
                continue
            message = Message(self._roles[i], texts[i], extra)
            texts[i], trained[i] = message.text, message.is_trained
            with_reasoning = message.read_text()
            full[i] = None if with_reasoning == texts[i] else with_reasoning
        columns: list[Sequence] = [
            self._roles,
            [text_id(text) for text in texts],
            [len(text) for text in texts],
            [not text or text.isspace() for text in texts],
            trained,
            [text and text_id(text) for text in full],
            [text and len(text) for text in full],
        ]
        return _struct(columns, MESSAGE_INDEX_TYPE)


def _struct(columns: Sequence[Sequence], kind: pl.Struct) -> pl.Series:
    return pl.DataFrame(columns, schema=dict(kind), orient="col").to_struct()
