"""Writing a selection's files and closing its run."""

from pathlib import Path

from prefect import task

from deita_core.stages.editions import keep_last, record_edition
from deita_core.stages.exporting import export_selection, record_run
from deita_core.stages.report import Report
from deita_core.store import Store
from tasks.policy import RETRIES, worth_retrying


@task(task_run_name="export to {folder}", retry_condition_fn=worth_retrying, **RETRIES)
def export_files(report: Report, folder: str) -> list[str]:
    """Write the selected rows, the decisions, the card and the manifest."""
    return export_selection(Store(report.settings.store), report, Path(folder))


@task(task_run_name="record run", retry_condition_fn=worth_retrying, **RETRIES)
def close_run(report: Report) -> None:
    """Record the run and, with that, make its edition the current one; then compact the store."""
    store = Store(report.settings.store)
    record_run(store, report)
    record_edition(store, report)
    if report.settings.keep_editions:
        keep_last(store, report.settings.keep_editions)
    store.compact()
