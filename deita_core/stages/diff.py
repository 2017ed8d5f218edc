"""Compares two snapshots: the rows added and dropped, and why."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from deita_core.config.settings import SelectionSettings
from deita_core.errors import InputError
from deita_core.literals import AXES
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.scorers import ScorerFiles
from deita_core.stages.ingest import Ingested, removals
from deita_core.stages.report import Report
from deita_core.stages.selecting import decisions_of
from deita_core.stages.snapshots import Snapshot, read_snapshot
from deita_core.store import Store
from deita_core.tables import SOURCES


@dataclass(frozen=True)
class Changes:
    """The difference of two snapshots.

    `added`: id, rank, score, reason of samples that only the later snapshot selected, in rank order; `dropped`: the
    same for samples that only the earlier one selected, with their earlier rank and score.
    """

    before: Report
    after: Report
    added: pl.DataFrame
    dropped: pl.DataFrame


def compare(store: Store, before: Snapshot, after: Report) -> Changes:
    """Compare a snapshot with a later selection."""
    columns, selected = ["id", "rank", "score"], "fate = 'selected'"
    was, is_now = (decisions_of(store, job, columns, selected) for job in (before.report.job, after.job))
    added = is_now.join(was, on="id", how="anti", maintain_order="left")
    dropped = was.join(is_now, on="id", how="anti", maintain_order="left")
    why_added, why_dropped = _why_added(store, before.report, added), _why_dropped(store, after, added, dropped)
    shown = ["id", "rank", "score", "reason"]
    return Changes(
        before=before.report,
        after=after,
        added=added.join(why_added, on="id", maintain_order="left").select(shown),
        dropped=dropped.join(why_dropped, on="id", maintain_order="left").select(shown),
    )


def compare_snapshots(store: Store, before: int | None = None, after: int | None = None) -> Changes:
    """Compare two snapshots by number: by default the last one with its predecessor."""
    later = read_snapshot(store, after)
    earlier = later.report.previous if before is None else before
    if earlier is None:
        raise InputError(f"Snapshot {later.number} follows no other; name the two snapshots to compare.")
    return compare(store, read_snapshot(store, earlier), later.report)


def _why_added(store: Store, before: Report, added: pl.DataFrame) -> pl.DataFrame:
    """Why each sample was not selected before: id, reason."""
    earlier = _joined_decisions(store, before, added)
    reason = pl.when(pl.col("known").is_null()).then(pl.lit("new in the pool"))
    return earlier.select("id", reason=reason.otherwise(pl.format("before: {}", "known")))


def _why_dropped(store: Store, after: Report, added: pl.DataFrame, dropped: pl.DataFrame) -> pl.DataFrame:
    """Why each sample is no longer selected: id, reason."""
    gone = _joined_decisions(store, after, dropped).join(removals(store).drop("reason"), on="id", how="left")
    sources = store.fetch(SOURCES, "sample_id", dropped["id"], ["sample_id", "file_id"])
    there = sources.filter(pl.col("file_id").is_in(list(after.job.file_ids)))["sample_id"]
    newer = pl.col("duplicate_of").is_in(added["id"].implode()).fill_null(False)
    reason = (
        pl.when(pl.col("removed").is_not_null())
        .then(pl.format("taken down on {}", "removed"))
        .when(~pl.col("id").is_in(there.implode()))
        .then(pl.lit("no longer in the pool"))
        .when(newer)
        .then(pl.format("{}, and was not selected before", "known"))
        .otherwise("known")
    )
    return gone.select("id", reason=reason)


def _joined_decisions(store: Store, report: Report, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with what a selection decided of them: id, known (the reason), duplicate_of; null if it had no such row."""
    ids = rows.select("id")
    if ids.is_empty():
        return ids.with_columns(known=pl.lit(None, pl.String), duplicate_of=pl.lit(None, pl.String))
    decided = decisions_of(store, report.job, ["id", "reason", "duplicate_of"])
    return ids.join(decided.rename({"reason": "known"}), on="id", how="left")


def changed_settings(before: SelectionSettings, after: SelectionSettings) -> list[tuple[str, str, str]]:
    """Settings that differ: name, before, after."""
    old, new = before.model_dump(exclude={"store"}), after.model_dump(exclude={"store"})
    return [(name, str(old[name]), str(new[name])) for name in new if old[name] != new[name]]


def changes_text(found: Changes) -> str:
    """The comparison as Markdown."""
    before, after = found.before, found.after
    lines = [
        f"# Snapshot {after.snapshot} beside snapshot {before.snapshot}",
        "",
        f"{after.counts.selected:,} selected, {before.counts.selected:,} before: {len(found.added):,} added, "
        f"{len(found.dropped):,} dropped.",
        "",
        *_counted("Added", found.added),
        *_counted("Dropped", found.dropped),
    ]
    lines += _listed("Files", _files(before, after))
    lines += _listed("Models", _models(before, after))
    lines += _listed("Settings", changed_settings(before.job.settings, after.job.settings))
    return "\n".join(lines)


def _counted(title: str, rows: pl.DataFrame) -> list[str]:
    """A Markdown list of reasons and their counts; ids and numbers in a reason are ignored."""
    if rows.is_empty():
        return []
    kind = pl.col("reason").str.replace_all(r"[0-9a-f]{32}", "another").str.replace_all(r" \([-\d.]+\)", "")
    counted = rows.group_by(kind).len().sort("len", "reason", descending=[True, False])
    return [f"## {title}", "", *(f"- {n:,}: {reason}" for reason, n in counted.iter_rows()), ""]


def _files(before: Report, after: Report) -> list[tuple[str, str, str]]:
    """Files that were added, removed or changed: name, rows before, rows now."""
    old, new = ({file.file: file for file in report.files} for report in (before, after))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]

    def rows(file: Ingested | None, beside: Ingested | None) -> str:
        count = "not there" if file is None else f"{file.rows:,} rows"
        return count + (" (others)" if file and beside and file.rows == beside.rows else "")

    return [(name, rows(old.get(name), None), rows(new.get(name), old.get(name))) for name in names]


def _models(before: Report, after: Report) -> list[tuple[str, str, str]]:
    """Models whose fingerprints differ, even if their names are equal."""

    def fingerprints(models: Sequence[EncoderFiles | ScorerFiles]) -> list[str]:
        return [model.fingerprint for model in models]

    def described(models: Sequence[EncoderFiles | ScorerFiles]) -> str:
        return ", ".join(f"{model.name} ({model.fingerprint[:12]})" for model in models) or "none"

    pairs: list[tuple[str, Sequence[EncoderFiles | ScorerFiles], Sequence[EncoderFiles | ScorerFiles]]]
    pairs = [("encoder", [before.job.encoder], [after.job.encoder])]
    pairs += [(axis, before.job.scorers(axis), after.job.scorers(axis)) for axis in AXES]
    old_refine, new_refine = ([job.refine] if job.refine else [] for job in (before.job, after.job))
    pairs.append(("refine", old_refine, new_refine))
    return [
        (part, described(old), described(new)) for part, old, new in pairs if fingerprints(old) != fingerprints(new)
    ]


def _listed(title: str, rows: list[tuple[str, str, str]]) -> list[str]:
    return [f"## {title}", "", *(f"- {name}: {old} -> {new}" for name, old, new in rows), ""] if rows else []
