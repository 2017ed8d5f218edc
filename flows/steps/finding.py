"""Find what a run needs before it reads: settings that fit, the models, and all that a selection depends on."""

from collections.abc import Sequence
from typing import Literal

from prefect.runtime import flow_run

from deita_core.alignment.rank_model import RankModelFiles, find_rank_model
from deita_core.config.settings import SelectionSettings, fitting
from deita_core.literals import AXES, Axis
from deita_core.models.encoder_spec import FAST_ENCODER, EncoderFiles
from deita_core.reading.examples import read_examples
from deita_core.scorers import ScorerFiles, find_scorer
from deita_core.scorers.training.fast import find_fast_head
from deita_core.stages.conditions import check_condition
from deita_core.stages.contamination import Excluded
from deita_core.stages.encoding import find_pool_encoder
from deita_core.stages.job import Job
from deita_core.stages.naming import named_samples
from deita_core.stages.targets import examples_id
from deita_core.stages.token_counts import find_tokenizer
from deita_core.store import Store


def check_settings(settings: SelectionSettings) -> SelectionSettings:
    """The settings, if they are consistent and their condition can be read; raises InputError if not."""
    if settings.where is not None:
        check_condition(settings.where)
    return fitting(settings)


def find_models(settings: SelectionSettings, axes: Sequence[Axis] = AXES) -> tuple[EncoderFiles, list[ScorerFiles]]:
    """Find the encoder and the scorers of each axis; those named `fast` are made at first use."""
    encoder = find_pool_encoder(settings)
    scorers = [_find_scorer(settings, name, axis, encoder) for axis in axes for name in settings.scorers(axis)]
    for scorer in scorers:
        if scorer.name == FAST_ENCODER:
            find_fast_head(scorer.axis, encoder)
    return encoder, scorers


def selection_job(
    encoder: EncoderFiles,
    scorers: Sequence[ScorerFiles],
    refine: ScorerFiles | None,
    file_ids: Sequence[str],
    settings: SelectionSettings,
    exclude: Excluded | None,
) -> Job:
    """Everything that this run's selection depends on; `scorers`: of both axes, each in the order of the settings."""
    complexity, *others = (scorer for scorer in scorers if scorer.axis == "complexity")
    quality, *also = (scorer for scorer in scorers if scorer.axis == "quality")
    file = settings.examples_file
    return Job(
        run_id=str(flow_run.id),
        file_ids=tuple(file_ids),
        encoder=encoder,
        complexity=complexity,
        quality=quality,
        also=(*others, *also),
        refine=refine,
        tokenizer=find_tokenizer(settings, encoder) if settings.needs_tokens or settings.filters_tokens else None,
        rank_model=_find_rank_model(settings),
        examples=examples_id(read_examples(file, settings.like_task)) if file else None,
        keep=_named(settings, "keep", file_ids),
        drop=_named(settings, "drop", file_ids),
        exclude=exclude,
        settings=settings,
    )


def _named(settings: SelectionSettings, setting: Literal["keep", "drop"], file_ids: Sequence[str]) -> tuple[str, ...]:
    names: list[str] = getattr(settings, setting)
    return named_samples(Store(settings.store), setting, names, settings.reading, file_ids)


def _find_rank_model(settings: SelectionSettings) -> RankModelFiles | None:
    if not settings.needs_rank_model:
        return None
    return find_rank_model(settings.rank_model, settings.training_tokens, settings.precision)


def find_refiner(settings: SelectionSettings, encoder: EncoderFiles) -> ScorerFiles | None:
    """Find the scorer that scores the best samples again, if the settings name one."""
    if settings.refine is None:
        return None
    return _find_scorer(settings, settings.refine, "quality", encoder)


def _find_scorer(settings: SelectionSettings, name: str, axis: Axis, encoder: EncoderFiles) -> ScorerFiles:
    text, votes = settings.classifier_text, settings.judge_votes
    return find_scorer(name, axis, encoder, limits=settings.llm, classifier_text=text, judge_votes=votes)
