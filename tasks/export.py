"""Writing a selection's files and closing its run."""

from collections.abc import Sequence
from pathlib import Path

from prefect import task

from deita_core.export.files import place_selection
from deita_core.stages.exporting import prepare_export, record_run
from deita_core.stages.report import Report
from deita_core.stages.snapshots import keep_last, record_snapshot
from deita_core.store import Store
from tasks.runtime.policy import RETRIES


@task(task_run_name="prepare {folder}", **RETRIES)
def prepare_files(report: Report, folder: str) -> list[str]:
    """Write the selected rows, the decisions, the card and the manifest beside those of the snapshot before."""
    return prepare_export(Store(report.settings.store), report, Path(folder))


@task(task_run_name="record run", **RETRIES)
def close_run(report: Report) -> None:
    """Record the run and, with that, make its snapshot the current one."""
    store = Store(report.settings.store)
    record_run(store, report)
    record_snapshot(store, report)


@task(task_run_name="export to {folder}", **RETRIES)
def place_files(folder: str, names: Sequence[str]) -> None:
    """Put the files that were prepared in their places."""
    place_selection(Path(folder), names)


@task(task_run_name="tidy store", **RETRIES)
def tidy_store(report: Report) -> None:
    """Forget old snapshots, if that is wanted, and compact the store."""
    store = Store(report.settings.store)
    if report.settings.keep_snapshots:
        keep_last(store, report.folder, report.settings.keep_snapshots)
    store.compact()
