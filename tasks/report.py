"""Artifacts in the Prefect UI: where every row went, and the best of what was selected."""

from pathlib import Path

import polars as pl
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from deita_core.evolution.agreement import Audit
from deita_core.stages.chain_files import EvolutionReport
from deita_core.stages.exporting import Report

TOP = 50


def publish(report: Report, folder: str) -> None:
    """Publish the counts and the top samples; texts are cut, the files have them whole."""
    counts = {**report.counts.model_dump(), "passed over": report.counts.passed_over}
    lines = "\n".join(f"| {name.replace('_', ' ')} | {value:,} |" for name, value in counts.items())
    create_markdown_artifact(
        key="selection-counts",
        markdown=f"| rows | |\n|---|---|\n{lines}\n\nThreshold {report.chosen.threshold}. Files: `{folder}`",
        description="Where every row of the pool went",
    )
    create_table_artifact(key="selection-top", table=top_rows(folder), description=f"The {TOP} best selected samples")


def publish_evolution(report: EvolutionReport, folder: str) -> None:
    """Publish where every seed went and how far the judge agrees with itself."""
    rows = [
        {
            "axis": axis,
            **counts.model_dump(include={"seeds", "complete", "short", "quarantined"}),
            "reasons": _listed(counts.reasons),
            "tried again": _listed(counts.failed_attempts),
            "judge agrees": _shown(report.audits[axis]),
        }
        for axis, counts in report.counts.items()
    ]
    create_table_artifact(key="evolution-chains", table=rows, description=f"Where every seed went. Files: `{folder}`")


def _listed(reasons: dict[str, int]) -> str:
    return ", ".join(f"{reason}: {n}" for reason, n in reasons.items()) or "none"


def _shown(found: Audit | None) -> str:
    return "not audited" if found is None else f"rank correlation {found.spearman} over {found.chains} chains"


def top_rows(folder: str) -> list[dict[str, str | int | float]]:
    """The best selected samples as a small table: no more than the beginning of each text."""
    rows = pl.read_parquet(Path(folder) / "selected.parquet", n_rows=TOP)
    first = pl.col("messages").list.eval(pl.element().filter(pl.element().struct.field("role") == "user")).list.first()
    return rows.select(
        "rank",
        pl.col("score", "complexity", "quality").round(3),
        begins=first.struct.field("content").str.slice(0, 120),
        place=pl.format("{}:{}", "file", "line"),
        id="id",
    ).to_dicts()
