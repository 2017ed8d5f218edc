"""Tasks of a comparison: the figures of all selections, and the files."""

from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from deita_core.export.comparison import write_comparison
from deita_core.stages.comparing import Run, compare_runs
from deita_core.store import Store
from tasks.artifacts import shown_if_possible
from tasks.runtime.policy import RETRIES


@task(task_run_name="compare", cache_policy=NO_CACHE, **RETRIES)
def compare_selections(store: str, runs: Sequence[Run], truth: str | None, out: str, notes: Sequence[str]) -> str:
    """Measure all selections and write the files; returns the text of README.md."""
    found = compare_runs(Store(store), runs, truth)
    folders = {run.strategy: run.strategy for run in runs}
    card = write_comparison(Path(out), found.figures, found.subsets, folders, notes)
    with shown_if_possible(f"in {out}"):
        create_markdown_artifact(key="comparison", markdown=card, description=f"Strategies side by side, in {out}")
    return card
