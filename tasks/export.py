"""Tasks that write a run's results: a selection's files and snapshot, a pool's scores, a calibration."""

from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact

from deita_core.export.files import place_selection
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.scorers import ScorerFiles
from deita_core.selection.calibration import Calibration, calibration_text
from deita_core.stages.exporting import prepare_export
from deita_core.stages.measuring import calibrate_pool, export_scores
from deita_core.stages.report import Report
from deita_core.stages.reporting import write_report
from deita_core.stages.snapshots import keep_last, record_snapshot
from deita_core.store import Store
from tasks.artifacts import shown_if_possible
from tasks.runtime.policy import RETRIES
from tasks.runtime.stores import store_of_run


@task(task_run_name="prepare {folder}", **RETRIES)
def prepare_files(report: Report, folder: str) -> list[str]:
    """Write the selected rows, the decisions, the card and the manifest beside the previous snapshot's files."""
    return prepare_export(store_of_run(report.job.settings.store), report, Path(folder))


@task(task_run_name="record run", **RETRIES)
def close_run(report: Report) -> None:
    """Record the run, which makes its snapshot the current one."""
    store = Store(report.job.settings.store)
    record_snapshot(store, report)


@task(task_run_name="export to {folder}", **RETRIES)
def place_files(folder: str, names: Sequence[str]) -> None:
    """Move the prepared files into place."""
    place_selection(Path(folder), names)


@task(task_run_name="report in {folder}", **RETRIES)
def write_page(report: Report, folder: str) -> None:
    """Write report.html beside the files of a selection."""
    write_report(store_of_run(report.job.settings.store), report, Path(folder))


@task(task_run_name="tidy store", **RETRIES)
def tidy_store(report: Report) -> None:
    """Delete old snapshots if `keep_snapshots` is set, and compact the store."""
    store = Store(report.job.settings.store)
    if report.job.settings.keep_snapshots:
        keep_last(store, report.folder, report.job.settings.keep_snapshots)
    store.compact()


@task(task_run_name="write {out}", **RETRIES)
def write_scores(store: str, file_ids: Sequence[str], scorers: Sequence[ScorerFiles], out: str) -> dict[str, int]:
    """Write the pool's scores; returns the number of each status."""
    return export_scores(Store(store), file_ids, scorers, Path(out))


@task(task_run_name="calibrate {encoder.name}", **RETRIES)
def calibrate_encoder(
    store: str, file_ids: Sequence[str], encoder: EncoderFiles, keep: float, samples: int
) -> Calibration:
    """Measure the similarities of the pool's vectors, and publish them."""
    found = calibrate_pool(Store(store), file_ids, encoder, keep, samples)
    with shown_if_possible("in what the run returns"):
        create_markdown_artifact(key="calibration", markdown=calibration_text(found, encoder.name))
    return found
