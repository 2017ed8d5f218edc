"""Prefect artifacts of a run: progress, the fate of every row, the best selected samples, failures."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID

import httpx
import polars as pl
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from deita_core.evolution.agreement import Audit
from deita_core.export.files import REPORT
from deita_core.export.markdown import markdown_table
from deita_core.stages.evolution.export import EvolutionReport
from deita_core.stages.report import Report
from deita_core.stages.shards import Shard, read_shard
from deita_core.stages.snapshots import folder_key
from deita_core.store import Store
from deita_core.tables import SOURCES

# Where `deita up` serves the reports of the store in DEITA_STORE; set in the environment of its runs.
REPORTS_URL = "DEITA_REPORTS_URL"
TOP = 50
REJECTS = 100
SCORES = ("score", "complexity", "quality")
QUANTILES = (0.1, 0.5, 0.9)
# Rows named in a log line.
NAMED = 5
# Seconds between progress updates to the server.
OFTEN = 2.0
# Seconds without updates after an update failed.
SILENCE = 300.0
_silent_until = 0.0


class ProgressArtifact:
    """A progress artifact whose failed updates do not stop the work.

    After a failure no updates are sent for minutes, because each attempt takes a minute or more of the client's
    retries.
    """

    def __init__(self, name: str) -> None:
        key = re.sub("[^a-z0-9]+", "-", name.lower())
        self._id = self._tell(lambda: create_progress_artifact(0.0, key=key, description=name))

    def update(self, percent: float, description: str | None = None) -> None:
        """Report the percentage done."""
        if artifact := self._id:
            self._tell(lambda: update_progress_artifact(artifact, percent, description=description))

    @staticmethod
    def _tell(send: Callable[[], Any]) -> UUID | None:
        """Call `send` unless updates are suspended; returns the artifact's id, or None if the server did not get it."""
        global _silent_until
        if monotonic() < _silent_until:
            return None
        try:
            # Typed for sync and async callers; this one is sync.
            return UUID(str(send()))
        except httpx.HTTPError as error:
            _silent_until = monotonic() + SILENCE
            warn(
                f"The Prefect server could not be told of progress ({_cause(error)}); the run goes on, and leaves it "
                f"alone for {SILENCE / 60:.0f} minutes."
            )
            return None


class StageProgress:
    """The progress artifact of a stage, updated as its shards finish."""

    def __init__(self, name: str, total: int) -> None:
        self._artifact = ProgressArtifact(name)
        self._name, self._total, self._done, self._updated = name, total, 0, monotonic()

    def advance(self, rows: int, share: float) -> None:
        """Add finished rows; `share` of the work is done then."""
        self._done += rows
        if share >= 1 or monotonic() - self._updated > OFTEN:
            self._updated = monotonic()
            self._artifact.update(100 * share, f"{self._name}: {self._done:,} of {self._total:,}")


@contextmanager
def shown_if_possible(where: str) -> Iterator[None]:
    """Wrap the publishing of results stored in `where`: an unreachable server causes a warning, not a failure."""
    try:
        yield
    except httpx.HTTPError as error:
        warn(f"The Prefect server could not be shown the results ({_cause(error)}); they are complete {where}.")


def _cause(error: httpx.HTTPError) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def warn(line: str) -> None:
    """Print to stderr, above any progress bar, because the run's log goes to the unreachable server."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def naming_rows(store: str, shard: Shard) -> Iterator[None]:
    """Wrap a shard's work: if it fails, the run's log names its first rows."""
    try:
        yield
    except Exception as error:
        try:
            log = get_run_logger()
        except MissingContextError:
            raise error from None
        places = ", ".join(_places(store, shard)) or "unknown"
        log.error("Shard %s of %s rows failed; the first are from %s", shard.key, f"{shard.rows:,}", places)
        raise


def _places(store: str, shard: Shard) -> list[str]:
    """Return the places of a shard's first rows as file:line; empty if the store cannot be read."""
    try:
        rows = read_shard(Store(store), shard).head(NAMED)
        samples = rows.select(sample_id=pl.when(pl.col("owner") == "").then("id").otherwise("owner"))
        found = Store(store).fetch(SOURCES, "sample_id", samples["sample_id"].to_list(), ["sample_id", "file", "line"])
        placed = samples.join(found, on="sample_id", maintain_order="left").unique(maintain_order=True).head(NAMED)
        return [f"{file}:{line}" for file, line in placed.select("file", "line").iter_rows()]
    except Exception:
        # The shard's error may also make the store unreadable; only that error must be raised.
        return []


def publish(report: Report, folder: str) -> None:
    """Publish the counts, rejects, top samples and folder; texts are cut, the files contain them in full."""
    with shown_if_possible(f"in {folder}"):
        _publish(report, folder)


def _publish(report: Report, folder: str) -> None:
    counts = {**report.counts.model_dump(), "skipped": report.counts.skipped}
    table = markdown_table(("rows", ""), [(name.replace("_", " "), f"{value:,}") for name, value in counts.items()])
    create_markdown_artifact(
        key="selection-counts",
        markdown=f"{table}\n\nThreshold {report.chosen.threshold}. Files: `{folder}`",
        description="Where every row of the pool went",
    )
    create_table_artifact(key="selection-top", table=top_rows(folder), description=f"The {TOP} best selected samples")
    rejects = rejected_rows(folder)
    of = f"{min(len(rejects), REJECTS)} of {report.counts.rejected:,}"
    create_table_artifact(
        key="selection-rejects", table=rejects, description=f"Rows that were set aside: {of}; decisions.parquet has all"
    )
    create_table_artifact(key="selection-scores", table=score_quantiles(folder), description="What the scores reward")
    create_link_artifact(
        link=_link_to(report, folder), link_text=folder, key="selection-folder", description="The selection's files"
    )


def _link_to(report: Report, folder: str) -> str:
    """Where the selection can be looked at: at the server of `deita up` if it serves the store, else as a file."""
    name = REPORT if (Path(folder) / REPORT).is_file() else "README.md"
    address = os.environ.get(REPORTS_URL)
    if address and name == REPORT and report.job.settings.store == os.environ.get("DEITA_STORE"):
        return f"{address}/{folder_key(folder)}"
    return folder if "://" in folder else (Path(folder).resolve() / name).as_uri()


def publish_evolution(report: EvolutionReport, folder: str) -> None:
    """Publish the fate of every seed and the judge's agreement with itself."""
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
    about = f"Where every seed went. Files: `{folder}`"
    with shown_if_possible(f"in {folder}"):
        create_table_artifact(key="evolution-chains", table=rows, description=about)


def _listed(reasons: dict[str, int]) -> str:
    return ", ".join(f"{reason}: {n}" for reason, n in reasons.items()) or "none"


def _shown(found: Audit | None) -> str:
    return "not audited" if found is None else f"rank correlation {found.spearman} over {found.chains} chains"


def top_rows(folder: str) -> list[dict[str, str | int | float]]:
    """Return the best selected samples as a small table, with the beginning of each text."""
    rows = pl.read_parquet(Path(folder) / "selected.parquet", n_rows=TOP)
    first = pl.col("messages").list.eval(pl.element().filter(pl.element().struct.field("role") == "user")).list.first()
    return rows.select(
        "rank",
        pl.col("score", "complexity", "quality").round(3),
        begins=first.struct.field("content").str.slice(0, 120),
        place=pl.format("{}:{}", "file", "line"),
        id="id",
    ).to_dicts()


def score_quantiles(folder: str) -> list[dict[str, str | float | None]]:
    """Return a small table: quantiles of each score, of the selected samples and of all that were scored."""
    decisions = pl.read_parquet(Path(folder) / "decisions.parquet", columns=["fate", *SCORES])
    parts = {"selected": decisions.filter(pl.col("fate") == "selected"), "all": decisions}
    return [
        {"score": score, "rows": rows, **{f"{q:.0%}": _rounded(part[score].quantile(q, "linear")) for q in QUANTILES}}
        for score in SCORES
        for rows, part in parts.items()
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def rejected_rows(folder: str) -> list[dict[str, str | int]]:
    """Return the first rejected rows as a small table, with place and reason."""
    decisions = pl.scan_parquet(Path(folder) / "decisions.parquet").filter(pl.col("fate") == "rejected")
    rows = decisions.select(place=pl.format("{}:{}", "file", "line"), reason=pl.col("reason").str.slice(0, 200))
    return rows.head(REJECTS).collect().to_dicts()
