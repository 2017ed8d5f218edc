"""First steps of several flows: find the models, read the pool, encode and score what is new."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal

from prefect.runtime import flow_run

from deita_core.alignment.rank_model import RankModelFiles, find_rank_model
from deita_core.config.settings import SelectionSettings, fitting
from deita_core.errors import UnreadableFileError
from deita_core.literals import AXES, Axis
from deita_core.models.encoder_spec import FAST_ENCODER, EncoderFiles
from deita_core.reading.examples import read_examples
from deita_core.reading.finding import aside_line
from deita_core.scorers import ScorerFiles, find_scorer
from deita_core.scorers.training.fast import find_fast_head
from deita_core.stages.conditions import check_condition
from deita_core.stages.contamination import Excluded
from deita_core.stages.encoding import find_pool_encoder
from deita_core.stages.ingest import Ingested, PoolFiles, as_before, only_stored, still_stored, surviving
from deita_core.stages.job import Job
from deita_core.stages.naming import named_samples
from deita_core.stages.removal import finish_interrupted, take_back
from deita_core.stages.scoring import in_passes
from deita_core.stages.snapshots import Snapshot, snapshots
from deita_core.stages.targets import examples_id
from deita_core.stages.token_counts import find_tokenizer
from deita_core.store import Store
from tasks.contamination import compare_vectors, compare_words
from tasks.embed import encode_texts, plan_texts
from tasks.ingest import find_files, read_files
from tasks.languages import detect_languages, plan_detection
from tasks.losses import encode_tasks, losses_alone, losses_asked, losses_shown, plan_answers, plan_demonstrations
from tasks.runtime.progress import Progress
from tasks.runtime.runners import Given, Submit
from tasks.score import plan_refining, plan_turns, score_turns
from tasks.tokens import count_tokens_of, plan_token_counts


@contextmanager
def holding(uri: str, out: str | None = None) -> Iterator[Store]:
    """Lock a store for this run, and first finish interrupted removals and delete partial results.

    If the run fails for good, its decisions and its prepared files in the folder `out` are removed.
    """
    store = Store(uri)
    with store.lock(f"{flow_run.name} ({flow_run.id})"):
        finish_interrupted(store)
        try:
            yield store
        except BaseException as error:
            try:
                take_back(store, out)
            except Exception as later:
                # The user must see the run's own error; the next run removes the rest.
                error.add_note(f"What the run had prepared could not be taken back either: {later}")
            raise


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


def read_pool(
    progress: Progress, pool: Sequence[str], settings: SelectionSettings, own: Sequence[str]
) -> list[Ingested]:
    """Read the pool's files, except those in the folders `own`; warn of those that are set aside."""
    return read_found(progress, settings.store, _found(pool, settings, own), settings.limit)


def _found(pool: Sequence[str], settings: SelectionSettings, own: Sequence[str]) -> PoolFiles:
    """Find the pool's files, without the output folders of the store's snapshots."""
    written = snapshots(Store(settings.store))["folder"].unique().to_list()
    return find_files(pool, settings.reading, [settings.store, *own, *written], settings.leave_out)


def read_found(progress: Progress, store: str, found: PoolFiles, limit: int | None) -> list[Ingested]:
    """Read the files found; returns those with rows.

    Raises UnreadableFileError if no row of any file could be read.
    """
    for line in found.warnings:
        progress.warn(line)
    files = list(progress.steps("reading", read_files(store, found.files, limit), total=len(found.files)))
    aside = [file.set_aside for file in files if file.set_aside]
    for sentence in aside:
        progress.warn(aside_line(sentence))
    if aside and len(aside) == len(files):
        raise UnreadableFileError(aside[0])
    return [file for file in files if file.rows]


def read_grown_pool(
    progress: Progress,
    named: Sequence[str],
    previous: Snapshot | None,
    settings: SelectionSettings,
    own: Sequence[str],
) -> list[Ingested]:
    """Read the named files and the previous snapshot's pool; for files that no longer exist, use the stored rows."""
    if previous is None:
        return read_pool(progress, named, settings, own)
    there, before = surviving(previous.report.pool), previous.report.files
    for name in previous.report.pool:
        if name not in there:
            progress.warn(f"{name} of the pool is not there; its rows stay as they are.")
    pool = [*there, *named]
    found = _found(pool, settings, own) if pool else PoolFiles(files=[], warnings=[], left_out=[])
    found = found.model_copy(update={"files": as_before(before, found.files)})
    gone = only_stored(before, found.files, found.left_out)
    stored = still_stored(Store(settings.store), gone)
    return [*stored, *read_found(progress, settings.store, found, settings.limit)]


def encode_pool(
    progress: Progress, submit: Submit, store: str, encoder: EncoderFiles, file_ids: Sequence[str]
) -> int:  # fmt: skip
    """Encode the texts without a vector; returns their number."""
    shards = plan_texts(store, encoder, file_ids)
    given: Given = {"store": store, "encoder": encoder}
    return progress.shards("encoding", shards, partial(submit, encode_texts, given))


def score_pool(
    progress: Progress,
    submit: Submit,
    store: str,
    encoder: EncoderFiles,
    scorers: Sequence[ScorerFiles],
    file_ids: Sequence[str],
) -> int:
    """Score the turns without a score on each axis; returns the number of new scores."""
    scored = 0
    axes = [scorer.axis for scorer in scorers]
    for group in in_passes(Store(store), scorers):
        shards = plan_turns(store, group, file_ids)
        given: Given = {"store": store, "scorers": group, "encoder": encoder}
        names = [one.axis + (f" with {one.name}" if axes.count(one.axis) > 1 else "") for one in group]
        name = f"scoring {' and '.join(names)}"
        scored += progress.shards(name, shards, partial(submit, score_turns, given))
    return scored


def count_tokens(progress: Progress, submit: Submit, store: str, job: Job) -> int:
    """Count the tokens of the samples that are not counted, if the job asks for tokens; returns their number."""
    if job.tokenizer is None:
        return 0
    shards = plan_token_counts(store, job.tokenizer, job.file_ids)
    given: Given = {"store": store, "tokenizer": job.tokenizer}
    return progress.shards("counting tokens", shards, partial(submit, count_tokens_of, given))


def find_languages(progress: Progress, submit: Submit, store: str, file_ids: Sequence[str]) -> int:
    """Find the languages that are not known; returns the number of samples."""
    given: Given = {"store": store}
    return progress.shards("languages", plan_detection(store, file_ids), partial(submit, detect_languages, given))


def compare_with_benchmarks(progress: Progress, store: str, job: Job) -> int:
    """Compare the samples that were not compared with the benchmarks of the job; returns their number."""
    if job.exclude is None:
        return 0
    with progress.step("excluding"):
        return compare_words(store, job) + compare_vectors(store, job)


def order_pool(progress: Progress, submit: Submit, store: str, job: Job) -> int:
    """Compute what the job's order needs and the store lacks; returns the number of losses of answers.

    Of an order by likeness to examples it is their vectors.
    """
    if job.examples is not None:
        with progress.step("encoding examples"):
            encode_tasks(store, job)
    if job.rank_model is None:
        return 0
    given: Given = {"store": store, "model": job.rank_model}
    done = progress.shards("reading answers", plan_answers(store, job, "asked"), partial(submit, losses_asked, given))
    if job.settings.rank == "perplexity":
        return done
    shards = plan_answers(store, job, "alone")
    done += progress.shards("reading answers alone", shards, partial(submit, losses_alone, given))
    if job.settings.rank == "ifd":
        return done
    shards = plan_demonstrations(store, job)
    return done + progress.shards("reading after others", shards, partial(submit, losses_shown, given))


def refine_best(progress: Progress, submit: Submit, store: str, job: Job) -> int:
    """Score the best samples again with the job's scorer `refine`, those that it has not scored; returns the turns."""
    if job.refine is None:
        return 0
    given: Given = {"store": store, "scorers": [job.refine], "encoder": job.encoder}
    return progress.shards("refining", plan_refining(store, job), partial(submit, score_turns, given))
