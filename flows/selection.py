"""The select and update flows: read a pool, encode and score what is new, select, export."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from deita_core.config.settings import SelectionSettings
from deita_core.errors import cause
from deita_core.export.files import REPORT, SELECTION_FILES
from deita_core.export.placing import check_folder
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.scorers import ScorerFiles
from deita_core.stages.contamination import Excluded, find_excluded
from deita_core.stages.ingest import Ingested
from deita_core.stages.job import Job
from deita_core.stages.report import Report
from deita_core.stages.snapshots import (
    Snapshot,
    check_goes_on,
    next_number,
    place_of,
    settings_after,
    snapshot_of,
    snapshot_of_run,
    snapshot_to_follow,
)
from deita_core.store import Store
from flows.steps.computing import (
    compare_with_benchmarks,
    count_tokens,
    encode_pool,
    find_languages,
    order_pool,
    refine_best,
    score_pool,
)
from flows.steps.finding import check_settings, find_models, find_refiner, selection_job
from flows.steps.reading import read_grown_pool, read_pool
from flows.steps.store import holding
from tasks.artifacts import publish, warn
from tasks.export import close_run, place_files, prepare_files, tidy_store, write_page
from tasks.runtime.progress import Progress
from tasks.runtime.runners import check_runner, open_runner
from tasks.selection import select_samples


# Two shards at a time: one is read or written while the other is computed.
@flow(name="select", flow_run_name="select into {out}", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def select(pool: list[str], out: str, settings: SelectionSettings | None = None) -> Report:
    """Select the best and most diverse conversations of a pool into the folder `out`; does only what the store lacks.

    Args:
        pool: Files, folders, globs or hf://datasets/... names.
        out: The folder for the selection's files.
        settings: How to score and select, and the store; none: the laptop preset.
    """
    settings = check_settings(settings or SelectionSettings())
    check_folder(Path(out), SELECTION_FILES)
    with holding(settings.store, out) as store, Progress() as progress:
        if finished := snapshot_of_run(store, str(flow_run.id)):
            return _publish_files(finished.report, out, prepare_files(finished.report, out))
        previous = snapshot_to_follow(store, Path(out))
        check_runner(settings.runner)
        exclude = find_excluded(settings.exclude, settings.exclude_similarity)
        encoder, scorers = find_models(settings)
        files = read_pool(progress, pool, settings, own=[out])
        refine = find_refiner(settings, encoder)
        return _make_snapshot(
            progress, _Wanted(pool, files, encoder, scorers, refine, exclude, settings, out, previous)
        )


@flow(name="update", flow_run_name="update {out}", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def update(pool: list[str], out: str, settings: SelectionSettings | None = None) -> Report:
    """Select again for the folder `out` from the pool of its last snapshot and what is new.

    Without a snapshot, the first one is made.

    Args:
        pool: More files, folders, globs or hf://datasets/... names. Those of the last snapshot are read again anyway.
        out: The folder of the last snapshot and of the next.
        settings: Only the settings that differ from the last snapshot, and the store.
    """
    settings = settings or SelectionSettings()
    check_folder(Path(out), SELECTION_FILES)
    with holding(settings.store, out) as store, Progress() as progress:
        if finished := snapshot_of_run(store, str(flow_run.id)):
            return _publish_files(finished.report, out, prepare_files(finished.report, out))
        previous = snapshot_of(store, Path(out))
        check_goes_on(store, Path(out), previous, pool)
        if previous is not None:
            settings = settings_after(previous.report.job.settings, settings)
        check_settings(settings)
        check_runner(settings.runner)
        exclude = find_excluded(settings.exclude, settings.exclude_similarity)
        encoder, scorers = find_models(settings)
        files = read_grown_pool(progress, pool, previous, settings, own=[out])
        all_files = list(dict.fromkeys([*(previous.report.pool if previous else []), *pool]))
        refine = find_refiner(settings, encoder)
        return _make_snapshot(
            progress, _Wanted(all_files, files, encoder, scorers, refine, exclude, settings, out, previous)
        )


@dataclass(frozen=True)
class _Wanted:
    """Inputs of a snapshot: the pool as named and as read, the models, the settings, the output folder."""

    pool: Sequence[str]
    files: Sequence[Ingested]
    encoder: EncoderFiles
    scorers: Sequence[ScorerFiles]
    refine: ScorerFiles | None
    exclude: Excluded | None
    settings: SelectionSettings
    out: str
    previous: Snapshot | None

    @property
    def job(self) -> Job:
        """The inputs that the selection depends on."""
        file_ids = [file.file_id for file in self.files]
        return selection_job(self.encoder, self.scorers, self.refine, file_ids, self.settings, self.exclude)


def _make_snapshot(progress: Progress, wanted: _Wanted) -> Report:
    """Encode and score what is new, select, and write the snapshot; it becomes visible only when complete."""
    job, store, out = wanted.job, wanted.settings.store, wanted.out
    with open_runner(wanted.settings.runner) as submit:
        encoded = encode_pool(progress, submit, store, job.encoder, job.file_ids)
        scored = score_pool(progress, submit, store, job.encoder, wanted.scorers, job.file_ids)
        count_tokens(progress, submit, store, job)
        if job.settings.needs_languages:
            find_languages(progress, submit, store, job.file_ids)
        compare_with_benchmarks(progress, store, job)
        scored += refine_best(progress, submit, store, job)
        order_pool(progress, submit, store, job)

    with progress.step("selecting"):
        chosen = select_samples(store, job)
    report = Report(
        job=job,
        snapshot=next_number(Store(store)),
        previous=wanted.previous.number if wanted.previous else None,
        pool=list(wanted.pool),
        cwd=str(Path.cwd()),
        folder=place_of(out),
        files=list(wanted.files),
        chosen=chosen,
        encoded=encoded,
        scored=scored,
        seconds=progress.seconds,
    )
    with progress.step("writing"):
        names = prepare_files(report, out)
        close_run(report)
    with progress.step("publishing"):
        return _publish_files(report, out, names)


def _publish_files(report: Report, out: str, names: Sequence[str]) -> Report:
    """Move a finished snapshot's files into place and publish them; a retry of a run that failed here starts here."""
    place_files(out, names)
    if report.job.settings.report:
        _write_page(report, out)
    publish(report, out)
    tidy_store(report)
    return report


def _write_page(report: Report, out: str) -> None:
    """Write report.html; the selection is complete without it, so that a failure is a warning."""
    try:
        write_page(report, out)
    except Exception as error:
        warn(
            f"{REPORT} could not be written ({type(error).__name__}: {cause(error)}); all other files are complete. "
            f"Try again with: deita report {out}"
        )
