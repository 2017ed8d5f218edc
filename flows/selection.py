"""The main job: read a pool, score and embed what is new in it, select, export; and the same again as it grows."""

from collections.abc import Sequence
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from deita_core.config.settings import SelectionSettings, fitting
from deita_core.export.files import SELECTION_FILES
from deita_core.export.placing import check_folder
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.scorers import ScorerFiles
from deita_core.stages.ingest import Ingested
from deita_core.stages.report import Report
from deita_core.stages.selecting import Job
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
from flows.steps import encode_pool, find_models, holding, read_grown_pool, read_pool, score_pool
from tasks.artifacts import publish
from tasks.export import close_run, place_files, prepare_files, tidy_store
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
    settings = fitting(settings or SelectionSettings())
    check_folder(Path(out), SELECTION_FILES)
    with holding(settings.store, out) as store, Progress() as progress:
        if finished := snapshot_of_run(store, str(flow_run.id)):
            return _publish_files(finished.report, out, prepare_files(finished.report, out))
        previous = snapshot_to_follow(store, Path(out))
        check_runner(settings.runner)
        models = find_models(settings)
        files = read_pool(progress, pool, settings, leave_out=[out])
        return _make_snapshot(progress, pool, files, models, out, settings, previous)


@flow(name="update", flow_run_name="update {out}", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def update(pool: list[str], out: str, settings: SelectionSettings | None = None) -> Report:
    """Select again for the folder `out` from all that its last snapshot had and what is new.

    Where there is no snapshot yet, the first is made.

    Args:
        pool: Further files, folders, globs or hf://datasets/... names; those of the last snapshot are looked through
            again without being named.
        out: The folder of the last snapshot and of the next.
        settings: Only what is to be other than in the last snapshot, and the store.
    """
    settings = settings or SelectionSettings()
    check_folder(Path(out), SELECTION_FILES)
    with holding(settings.store, out) as store, Progress() as progress:
        if finished := snapshot_of_run(store, str(flow_run.id)):
            return _publish_files(finished.report, out, prepare_files(finished.report, out))
        previous = snapshot_of(store, Path(out))
        check_goes_on(store, Path(out), previous, pool)
        if previous is not None:
            settings = settings_after(previous.report.settings, settings)
        fitting(settings)
        check_runner(settings.runner)
        models = find_models(settings)
        files = read_grown_pool(progress, pool, previous, settings, leave_out=[out])
        known = previous.report.pool if previous else []
        return _make_snapshot(progress, list(dict.fromkeys([*known, *pool])), files, models, out, settings, previous)


def _make_snapshot(
    progress: Progress,
    pool: Sequence[str],
    files: Sequence[Ingested],
    models: tuple[EncoderFiles, list[ScorerFiles]],
    out: str,
    settings: SelectionSettings,
    previous: Snapshot | None,
) -> Report:
    """Encode and score what is new, select, and write the snapshot; nothing of it is visible before all of it is."""
    store = settings.store
    encoder, scorers = models
    file_ids = tuple(file.file_id for file in files)
    with open_runner(settings.runner) as submit:
        encoded = encode_pool(progress, submit, store, encoder, file_ids)
        scored = score_pool(progress, submit, store, encoder, scorers, file_ids)

    complexity, quality = scorers
    job = Job(
        run_id=str(flow_run.id),
        file_ids=file_ids,
        encoder=encoder,
        complexity=complexity,
        quality=quality,
        after=previous.decisions_for(encoder) if previous else None,
        **settings.model_dump(include={"turns", "training_tokens", "budget", "threshold"}),
    )
    with progress.step("selecting"):
        chosen = select_samples(store, job)
    report = Report(
        job=job,
        settings=settings,
        snapshot=next_number(Store(store)),
        previous=previous.number if previous else None,
        pool=list(pool),
        cwd=str(Path.cwd()),
        folder=place_of(out),
        files=list(files),
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
    """Put a finished snapshot's files in their places, and show them: where a run that broke off here is retried to."""
    place_files(out, names)
    publish(report, out)
    tidy_store(report)
    return report
