"""Evaluates a model on the tasks of lm-evaluation-harness, and writes the figures."""

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel

from deita_core.config.evaluation import BenchmarkSettings
from deita_core.conversation import content_id
from deita_core.evaluation.harness import TaskFigure, run_tasks, task_figures
from deita_core.export.markdown import markdown_table
from deita_core.export.placing import place_files, prepare_files
from deita_core.models.chat_model import find_model
from deita_core.models.encoder_spec import best_precision
from deita_core.store import Store

CARD, RESULTS = "README.md", "results.json"


class BenchmarkReport(BaseModel):
    """The figures of a model on tasks, and its fingerprint."""

    settings: BenchmarkSettings
    fingerprint: str
    figures: list[TaskFigure]

    def table(self) -> list[tuple[str, str, str, str]]:
        """Rows of the summary: task, figure, value, standard error."""
        return [
            (one.task, one.metric, f"{one.value:.4f}", "-" if one.error is None else f"{one.error:.4f}")
            for one in self.figures
        ]


def benchmark(settings: BenchmarkSettings, folder: Path) -> BenchmarkReport:
    """Run the tasks and write README.md and results.json, the latter last, to a folder.

    The store keeps the results of requests once the harness has computed them, so that a repeated run does not compute
    them again. Raises InputError and ModelError as `run_tasks`.
    """
    files = find_model(settings.model)
    precision = best_precision() if settings.precision == "auto" else settings.precision
    fingerprint = files.fingerprint(precision)
    # The harness finds results by their request alone, so each model and each version has a file of its own.
    kept = content_id(f"{fingerprint} {version('lm_eval')} {version('transformers')}".encode())
    results = run_tasks(
        files,
        precision,
        settings.tasks,
        task_folder=settings.task_folder,
        shots=settings.shots,
        chat_template=settings.chat_template,
        batch=settings.batch,
        limit=settings.limit,
        cache=Store(settings.store).side / "benchmarks" / kept,
    )
    report = BenchmarkReport(settings=settings, fingerprint=fingerprint, figures=task_figures(results))
    _write(report, results, folder)
    return report


def _write(report: BenchmarkReport, results: dict[str, Any], folder: Path) -> None:
    record = {
        "model": report.settings.model,
        "fingerprint": report.fingerprint,
        "settings": report.settings.model_dump(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "results": results,
    }
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
    written = orjson.dumps(record, default=str, option=options) + b"\n"
    table = markdown_table(("task", "figure", "value", "standard error"), report.table())
    card = f"# {report.settings.model} on {', '.join(report.settings.tasks)}\n\n{table}\n".encode()
    files = {CARD: lambda path: path.write_bytes(card), RESULTS: lambda path: path.write_bytes(written)}
    place_files(folder, prepare_files(folder, files))
