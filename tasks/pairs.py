"""The task that makes the preference pairs of a pool."""

from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact

from deita_core.export.markdown import markdown_table
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.scorers import ScorerFiles
from deita_core.selection.pairs import PairRules
from deita_core.stages.pairs import PairReport, export_pairs
from deita_core.store import Store
from tasks.artifacts import shown_if_possible
from tasks.runtime.policy import RETRIES


@task(task_run_name="pair into {out}", **RETRIES)
def write_pairs(
    store: str,
    file_ids: Sequence[str],
    encoder: EncoderFiles,
    quality: Sequence[ScorerFiles],
    rules: PairRules,
    out: str,
    decisions: str | None,
) -> PairReport:
    """Make the pairs, write their file, and publish how many rows met each fate."""
    place = None if decisions is None else Path(decisions)
    report = export_pairs(Store(store), file_ids, encoder, quality, rules, Path(out), place)
    counts = [(fate.replace("_", " "), f"{count:,}") for fate, count in report.fates.items()]
    table = markdown_table(("rows", ""), [("read", f"{report.read:,}"), *counts])
    with shown_if_possible(f"in {out}"):
        create_markdown_artifact(key="pairs-counts", markdown=f"{report.pairs:,} pairs: `{out}`\n\n{table}")
    return report
