"""What a selection would do, without doing it: rows to read, texts to encode, turns to score, and how long."""

import random
from collections.abc import Iterable, Sequence
from time import perf_counter

import polars as pl
from pydantic import BaseModel

from deita_core.conversation import Conversation, text_id
from deita_core.encoders import EncoderFiles, SentenceEncoder, find_encoder
from deita_core.readers import Reject, stream_file
from deita_core.scorers import find_scorer
from deita_core.settings import SelectionSettings
from deita_core.stages.encoding import encoder_table
from deita_core.stages.ingest import pool_files
from deita_core.store import Store
from deita_core.tables import scores_table

MEASURED = 64


class Estimate(BaseModel):
    """Counts of the pool, what the store lacks of it, and the seconds that encoding it would take here."""

    files: int
    rows: int
    rejects: int
    samples: int
    texts: int
    to_encode: int
    to_score: int
    seconds: float
    chars_per_second: float | None


def estimate(pool: Sequence[str], settings: SelectionSettings) -> Estimate:
    """Read the pool and compare it with the store; nothing is written."""
    files = pool_files(pool, [settings.store])
    encoder = find_encoder(settings.encoder, settings.precision)
    rows = rejects = 0
    samples: set[str] = set()
    chars: dict[str, int] = {}
    example = _Reservoir(MEASURED)
    for row in _rows(files, settings):
        rows += 1
        if isinstance(row, Reject):
            rejects += 1
            continue
        samples.add(row.conversation.id)
        for id_, text in _texts(row.conversation):
            if id_ not in chars:
                chars[id_] = len(text)
                example.offer(text)
    store = Store(settings.store)
    missing = store.missing(encoder_table(encoder), pl.Series(list(chars), dtype=pl.String)).to_list()
    rate = _chars_per_second(encoder, example.kept) if missing else None
    return Estimate(
        files=len(files),
        rows=rows,
        rejects=rejects,
        samples=len(samples),
        texts=len(chars),
        to_encode=len(missing),
        to_score=_unscored(store, encoder, settings, samples),
        seconds=sum(chars[id_] for id_ in missing) / rate if rate else 0.0,
        chars_per_second=rate,
    )


def _rows(files: Sequence[str], settings: SelectionSettings) -> Iterable:
    left = settings.limit
    for file in files:
        if left == 0:
            return
        for row in stream_file(file, settings.layout, left):
            left = None if left is None else left - 1
            yield row


def _texts(talk: Conversation) -> Iterable[tuple[str, str]]:
    return ((text_id(m.content), m.content) for m in talk.messages if not m.is_blank)


def _unscored(store: Store, encoder: EncoderFiles, settings: SelectionSettings, samples: set[str]) -> int:
    ids = pl.Series(sorted(samples), dtype=pl.String)
    scorers = (
        find_scorer(settings.complexity_scorer, "complexity", encoder),
        find_scorer(settings.quality_scorer, "quality", encoder),
    )
    return max(len(store.missing(scores_table(scorer.slug), ids)) for scorer in scorers)


def _chars_per_second(encoder: EncoderFiles, texts: list[str]) -> float:
    """Measured on this machine, on some of the pool's own texts."""
    model = SentenceEncoder(encoder)
    model.encode(texts[:8])
    started = perf_counter()
    model.encode(texts)
    return sum(map(len, texts)) / (perf_counter() - started)


class _Reservoir:
    """A fair sample of a stream of texts."""

    def __init__(self, size: int) -> None:
        self.kept: list[str] = []
        self._size, self._seen = size, 0
        self._draw = random.Random(0)  # noqa: S311

    def offer(self, text: str) -> None:
        self._seen += 1
        if len(self.kept) < self._size:
            self.kept.append(text)
        elif (place := self._draw.randrange(self._seen)) < self._size:
            self.kept[place] = text
