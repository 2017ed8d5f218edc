"""Runs tasks of lm-evaluation-harness on a model; its figures are kept as it gives them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deita_core.errors import InputError, ModelError, cause
from deita_core.literals import Precision
from deita_core.models.chat_model import ModelFiles

INSTALL = "pip install 'deita-flows[eval]'"


class TaskFigure(NamedTuple):
    """One figure of one task: its metric with the filter that read the answers, and its standard error if known."""

    task: str
    metric: str
    value: float
    error: float | None
    documents: int | None


def run_tasks(
    files: ModelFiles,
    precision: Precision,
    tasks: Sequence[str],
    *,
    task_folder: Path | None = None,
    shots: int | None = None,
    chat_template: bool = False,
    batch: int = 8,
    limit: int | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Run tasks and return the harness's results: results, configs, versions, n-shot, n-samples and so on.

    `task_folder`: own tasks, which are then the only ones known, so that nothing is looked up elsewhere. `cache`: a
    file in which results of requests are kept, for this model and these settings only.
    Raises InputError for an unknown task or one whose data cannot be read, ModelError for a model that does not fit.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ModelError(f"Benchmarks need lm-evaluation-harness ({cause(error)}); run {INSTALL}.") from error
    manager = TaskManager(include_path=task_folder, include_defaults=task_folder is None)
    if unknown := [name for name in tasks if not manager.match_tasks([name])]:
        where = f"in {task_folder}" if task_folder else "in lm-evaluation-harness"
        raise InputError(f"There is no task {unknown[0]} {where}; name a task, a group or a tag that is there.")
    model, tokenizer = files.load(precision)
    if cache:
        cache.parent.mkdir(parents=True, exist_ok=True)
    try:
        found = simple_evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch),
            tasks=manager.match_tasks(list(tasks)),
            num_fewshot=shots,
            batch_size=batch,
            limit=limit,
            apply_chat_template=chat_template,
            task_manager=manager,
            use_cache=str(cache) if cache else None,
            log_samples=False,
        )
    except Exception as error:
        raise InputError(f"The tasks {', '.join(tasks)} failed in lm-evaluation-harness ({cause(error)}).") from error
    return dict(found or {})


def task_figures(results: dict[str, Any]) -> list[TaskFigure]:
    """The figures of tasks and groups, in the harness's order."""
    found = []
    for task, figures in {**results.get("results", {}), **results.get("groups", {})}.items():
        documents = results.get("n-samples", {}).get(task, {}).get("effective")
        for name, value in figures.items():
            metric, _, how = name.partition(",")
            if not isinstance(value, int | float) or isinstance(value, bool) or not how or metric.endswith("_stderr"):
                continue
            error = figures.get(f"{metric}_stderr,{how}")
            error = float(error) if isinstance(error, int | float) else None
            shown = metric if how == "none" else f"{metric} ({how})"
            found.append(TaskFigure(task, shown, float(value), error, documents))
    return found
