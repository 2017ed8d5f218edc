"""The compare flow: one pool selected by several strategies, measured side by side."""

from pathlib import Path

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from deita_core.config.comparison import ComparisonSettings
from deita_core.config.settings import fitting
from deita_core.export.comparison import CARD, FIGURES, SUBSETS
from deita_core.export.placing import check_folder
from deita_core.literals import Strategy
from deita_core.stages.comparing import Run, check_field
from deita_core.stages.report import Report
from deita_core.stages.token_counts import find_tokenizer
from deita_core.store import Store
from flows.selection import select
from flows.steps.computing import count_tokens, find_languages
from flows.steps.store import holding
from tasks.compare import compare_selections
from tasks.runtime.progress import Progress
from tasks.runtime.runners import open_runner


@flow(name="compare", flow_run_name="compare into {out}", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def compare(pool: list[str], out: str, settings: ComparisonSettings) -> str:
    """Select from one pool with several strategies, and put the selections side by side.

    Texts are encoded and scored once. Each selection has a folder of its own in `out`, as `select` writes it.

    Args:
        pool: Files, folders, globs or hf://datasets/... names.
        out: The folder for the table and the selections.
        settings: The strategies, the seeds, and how to select.
    """
    for strategy, seed in settings.runs:
        fitting(settings.selection(strategy, seed))
    check_folder(Path(out), [CARD, FIGURES, SUBSETS])
    reports: dict[tuple[Strategy, int], Report] = {}
    for strategy, seed in settings.runs:
        with Progress() as progress:
            progress.say(f"{strategy}, seed {seed}")
        folder = _folder(out, settings, strategy, seed)
        reports[strategy, seed] = report = select(pool, folder, settings.selection(strategy, seed))
        if settings.truth is not None and len(reports) == 1:
            check_field(Store(settings.store), report.job, settings.truth)
    return _compare(out, settings, reports)


def _folder(out: str, settings: ComparisonSettings, strategy: Strategy, seed: int) -> str:
    """The folder of a selection: that of the first seed has the strategy's name."""
    return str(Path(out) / (strategy if seed == settings.seed else f"{strategy}-seed-{seed}"))


def _compare(out: str, settings: ComparisonSettings, reports: dict[tuple[Strategy, int], Report]) -> str:
    """Count the tokens of the whole pool and find its languages, then measure the selections."""
    with holding(settings.store), Progress() as progress:
        jobs = [report.job for report in reports.values()]
        tokenizer = find_tokenizer(settings, jobs[0].encoder)
        runs = [
            Run(strategy, seed, job.model_copy(update={"tokenizer": tokenizer}))
            for (strategy, seed), job in zip(reports, jobs, strict=True)
        ]
        with open_runner(settings.runner) as submit:
            count_tokens(progress, submit, settings.store, runs[0].job)
            find_languages(progress, submit, settings.store, jobs[0].file_ids)
        with progress.step("comparing"):
            return compare_selections(settings.store, runs, settings.truth, out, _notes(settings))


def _notes(settings: ComparisonSettings) -> list[str]:
    """What has to be known to read the table."""
    equal = "tokens" if settings.token_budget is not None else "rows, and not at equal tokens"
    return [
        f"All selections are made at equal {equal}. ± is the standard deviation over {settings.seeds} seeds.",
        "score above its length: how far the score of a row is above the mean of the pool's rows of like length.",
        "sources and languages unlike the pool: 0 for the same shares as in the pool, 1 for none in common.",
        "clusters covered: of clusters that no strategy used. NovelSum: more is more diverse. nearest similarity: less "
        "is more diverse.",
    ]
