"""Steps that several flows begin with: find the models, read the pool, encode and score what is new in it."""

from collections.abc import Sequence
from functools import partial

from deita_core.encoders import EncoderFiles, find_encoder
from deita_core.scorers import ScorerFiles, find_scorer
from deita_core.settings import SelectionSettings
from deita_core.stages.ingest import Ingested
from flows.progress import Progress
from tasks.embed import encode_texts, plan_texts
from tasks.ingest import find_files, read_files
from tasks.score import plan_turns, score_turns


def find_pool_encoder(settings: SelectionSettings) -> EncoderFiles:
    """The encoder of the settings."""
    return find_encoder(settings.encoder, settings.precision, settings.encoder_pooling, settings.encoder_storage)


def find_models(settings: SelectionSettings) -> tuple[EncoderFiles, list[ScorerFiles]]:
    """The encoder, and the scorers of complexity and quality."""
    encoder = find_pool_encoder(settings)
    complexity = find_scorer(settings.complexity_scorer, "complexity", encoder)
    return encoder, [complexity, find_scorer(settings.quality_scorer, "quality", encoder)]


def read_pool(
    progress: Progress, pool: Sequence[str], settings: SelectionSettings, leave_out: Sequence[str]
) -> list[Ingested]:
    """Read the pool's files, but not those in the folders to leave out."""
    found = find_files(pool, settings.layout, [settings.store, *leave_out])
    return list(progress.steps("reading", read_files(settings.store, found, settings.limit), total=len(found)))


def encode_pool(progress: Progress, store: str, encoder: EncoderFiles, file_ids: Sequence[str]) -> int:
    """Encode the texts without a vector; returns how many."""
    shards = plan_texts(store, encoder, file_ids)
    return progress.shards("encoding", shards, partial(encode_texts.submit, store, encoder))


def score_pool(
    progress: Progress, store: str, encoder: EncoderFiles, scorers: Sequence[ScorerFiles], file_ids: Sequence[str]
) -> int:
    """Score the turns without a score, on each axis; returns how many."""
    scored = 0
    for scorer in scorers:
        shards = plan_turns(store, scorer, file_ids)
        submit = partial(score_turns.submit, store, scorer, encoder)
        scored += progress.shards(f"scoring {scorer.axis}", shards, submit)
    return scored
