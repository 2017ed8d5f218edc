"""Estimates the work of a selection without running it: rows, texts to encode, samples to score, and seconds."""

import random
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import NamedTuple

import polars as pl
from pydantic import BaseModel

from deita_core.alignment.rank_model import find_rank_model
from deita_core.config.settings import SelectionSettings
from deita_core.conversation import Conversation, text_id
from deita_core.literals import AXES, PresetName
from deita_core.models.distillation import fast_spec, is_fast_made, write_stand_in
from deita_core.models.encoder_spec import FAST_ENCODER, LAPTOP_ENCODER, EncoderFiles, find_encoder
from deita_core.models.lm_encoder import LanguageModelEncoder, render
from deita_core.models.small_lm import SMALL_LM, is_small_lm_made
from deita_core.reading.finding import aside_line
from deita_core.reading.pool import Reject, pool_streams
from deita_core.scorers import ScorerFiles, find_scorer
from deita_core.selection.orders.wici import NEIGHBOURS
from deita_core.stages import languages
from deita_core.stages.conditions import check_condition
from deita_core.stages.contamination import find_excluded
from deita_core.stages.encoding import chars_read, encoder_table, find_pool_encoder, load_encoder
from deita_core.stages.ingest import pool_files
from deita_core.stages.judging import JudgeEstimate, judge_counts
from deita_core.store import Store
from deita_core.tables import losses_table, scores_table

MEASURED = 64
# A language model may take minutes for MEASURED conversations.
MEASURED_SECONDS = 5.0


class _Unit(NamedTuple):
    """A text or a conversation to encode, with its id and its size in characters."""

    id: str
    size: int
    content: str | Conversation


class Estimate(BaseModel):
    """Counts of the pool, of the results missing in the store, and the seconds to encode them on this machine.

    `texts` counts distinct message texts, or conversations if the encoder is a language model. `to_refine`: at most so
    many are scored again by the scorer of `refine`. `to_read`: at most so many texts are read by the language model of
    the order. `to_detect`: samples whose language is to be found. `others`: the
    seconds with the other of the presets laptop and fast, if the encoder is that of one of them. `fast_is_made`:
    false if the models of fast are still to be made in this run. `judging`: what each judge would be asked.
    """

    files: int
    rows: int
    rejects: int
    samples: int
    texts: int
    to_encode: int
    to_score: int
    to_refine: int
    to_read: int
    to_detect: int = 0
    seconds: float
    chars_per_second: float | None
    others: dict[PresetName, float] = {}
    fast_is_made: bool = True
    judging: list[JudgeEstimate] = []
    warnings: list[str] = []


def estimate(pool: Sequence[str], settings: SelectionSettings) -> Estimate:
    """Read the pool and compare it with the store; writes nothing."""
    if settings.where is not None:
        check_condition(settings.where)
    find_excluded(settings.exclude, settings.exclude_similarity)
    found = pool_files(pool, [settings.store], settings.leave_out)
    set_aside = dict(found.set_aside)
    encoder = _described(settings)
    scorers = _scorers(encoder, settings)
    judges = judge_counts(scorers)
    rows = rejects = 0
    samples: set[str] = set()
    chars: dict[str, int] = {}
    example = _Reservoir(MEASURED)
    for _, _, row in pool_streams(found, settings.reading, settings.limit, set_aside):
        rows += 1
        if isinstance(row, Reject):
            rejects += 1
            continue
        samples.add(row.conversation.id)
        for judge in judges:
            judge.add(row.conversation)
        for unit in _units(row.conversation, encoder):
            if unit.id not in chars:
                chars[unit.id] = unit.size
                example.add(unit)
    store = Store(settings.store)
    missing, rate, seconds = _encoding(store, encoder, chars, example.kept)
    return Estimate(
        files=sum(file not in set_aside for file in found.files),
        rows=rows,
        rejects=rejects,
        samples=len(samples),
        texts=len(chars),
        to_encode=missing,
        to_score=_unscored(store, scorers, samples),
        to_refine=min(len(samples), settings.refine_factor * (settings.budget or 0)) if settings.refine else 0,
        to_detect=_of_unknown_language(store, samples) if settings.needs_languages else 0,
        to_read=_unread(store, settings, samples),
        seconds=seconds,
        chars_per_second=rate,
        others={name: _encoding(store, other, chars, example.kept)[2] for name, other in _alternatives(encoder)},
        fast_is_made=encoder.name not in (FAST_ENCODER, LAPTOP_ENCODER) or is_fast_made(),
        judging=[judge.estimate(store) for judge in judges],
        warnings=[aside_line(sentence) for sentence in set_aside.values()],
    )


def _described(settings: SelectionSettings) -> EncoderFiles:
    """The encoder of the settings; one that is made at first use is not made."""
    if settings.encoder == FAST_ENCODER:
        return fast_spec().model_copy(update={"reasoning": settings.reasoning})
    return find_pool_encoder(settings)


def _alternatives(encoder: EncoderFiles) -> Iterable[tuple[PresetName, EncoderFiles]]:
    """The other of the two presets whose encoders differ in speed above all."""
    if encoder.name == LAPTOP_ENCODER:
        yield "fast", fast_spec().model_copy(update={"reasoning": encoder.reasoning})
    if encoder.name == FAST_ENCODER:
        yield "laptop", find_encoder(LAPTOP_ENCODER).model_copy(update={"reasoning": encoder.reasoning})


def _encoding(
    store: Store, encoder: EncoderFiles, chars: dict[str, int], examples: list[_Unit]
) -> tuple[int, float | None, float]:
    """The number of texts without a vector, the encoder's characters per second, and the seconds to encode them."""
    missing = store.missing(encoder_table(encoder), pl.Series(list(chars), dtype=pl.String)).to_list()
    if not missing:
        return 0, None, 0.0
    rate = _chars_per_second(encoder, examples)
    return len(missing), rate, sum(chars[id_] for id_ in missing) / rate


def _units(sample: Conversation, encoder: EncoderFiles) -> Iterable[_Unit]:
    if encoder.kind == "causal":
        return [_Unit(sample.id, min(sample.n_chars, chars_read(encoder)), sample)]
    texts = (m.read_text(encoder.reasoning) for m in sample.messages if not m.is_blank)
    return (_Unit(text_id(text), len(text), text) for text in texts)


def _scorers(encoder: EncoderFiles, settings: SelectionSettings) -> list[ScorerFiles]:
    found = partial(
        find_scorer,
        encoder=encoder,
        limits=settings.llm,
        classifier_text=settings.classifier_text,
        judge_votes=settings.judge_votes,
    )
    return [found(name, axis) for axis in AXES for name in settings.scorers(axis)]


def _unscored(store: Store, scorers: Sequence[ScorerFiles], samples: set[str]) -> int:
    ids = pl.Series(sorted(samples), dtype=pl.String)
    return max(len(store.missing(scores_table(scorer.slug), ids)) for scorer in scorers)


def _of_unknown_language(store: Store, samples: set[str]) -> int:
    return len(store.missing(languages.table(), pl.Series(sorted(samples), dtype=pl.String)))


def _unread(store: Store, settings: SelectionSettings, samples: set[str]) -> int:
    """How often the language model of the order reads a conversation, an answer alone, or a pair."""
    if not settings.needs_rank_model:
        return 0
    passes = ("asked",) if settings.rank == "perplexity" else ("asked", "alone")
    pairs = NEIGHBOURS * len(samples) if settings.rank == "wici" else 0
    if settings.rank_model == SMALL_LM and not is_small_lm_made():
        return len(passes) * len(samples) + pairs
    model = find_rank_model(settings.rank_model, settings.training_tokens, settings.precision)
    ids = pl.Series(sorted(samples), dtype=pl.String)
    return pairs + sum(len(store.missing(losses_table(f"{given}-{model.slug}"), ids)) for given in passes)


def _chars_per_second(encoder: EncoderFiles, units: list[_Unit]) -> float:
    """Encoding speed on this machine, measured on a sample of the pool."""
    if encoder.name == FAST_ENCODER and not is_fast_made():
        # Its speed is that of any encoder of its shape.
        with TemporaryDirectory() as folder:
            write_stand_in(encoder, Path(folder))
            return _chars_per_second(encoder.model_copy(update={"name": folder, "path": Path(folder)}), units)
    model = load_encoder(encoder)
    if isinstance(model, LanguageModelEncoder):
        return _reading_rate(model, units)
    texts = [str(unit.content) for unit in units]
    model.encode(texts[:8])
    started = perf_counter()
    model.encode(texts)
    return sum(map(len, texts)) / (perf_counter() - started)


def _reading_rate(model: LanguageModelEncoder, units: list[_Unit]) -> float:
    """Characters per second, measured on growing batches until MEASURED_SECONDS have passed."""
    texts = [render(unit.content, model.tokenizer) for unit in units if isinstance(unit.content, Conversation)]
    model.encode([texts[0][:64]])
    started, done = perf_counter(), 0
    while done < len(texts) and perf_counter() - started < MEASURED_SECONDS:
        ahead = 2 * done or 1
        model.encode(texts[done:ahead])
        done = min(ahead, len(texts))
    return sum(unit.size for unit in units[:done]) / (perf_counter() - started)


class _Reservoir:
    """A uniform random sample of a stream of units."""

    def __init__(self, size: int) -> None:
        self.kept: list[_Unit] = []
        self._size, self._seen = size, 0
        self._draw = random.Random(0)  # noqa: S311

    def add(self, unit: _Unit) -> None:
        self._seen += 1
        if len(self.kept) < self._size:
            self.kept.append(unit)
        elif (place := self._draw.randrange(self._seen)) < self._size:
            self.kept[place] = unit
