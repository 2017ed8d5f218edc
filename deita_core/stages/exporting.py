"""Exports a finished selection from the store as files that are checked before they are placed."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from deita_core.conversation import content_id
from deita_core.errors import StoreError
from deita_core.export.card import dataset_card
from deita_core.export.files import (
    MANIFEST,
    SELECTED_SCHEMA,
    SELECTION_FILES,
    Changed,
    place_selection,
    prepare_selection,
)
from deita_core.export.placing import drop_prepared, partial_path
from deita_core.literals import AXES, FATES, Axis
from deita_core.scorers import ScorerFiles
from deita_core.stages.contamination import leaks
from deita_core.stages.diff import changes_text, compare
from deita_core.stages.ingest import removals
from deita_core.stages.job import Job
from deita_core.stages.judging import vote_spreads
from deita_core.stages.ranking import REFINED, order_columns, raw_values
from deita_core.stages.report import Report
from deita_core.stages.selecting import decisions_of, with_nearest_selected
from deita_core.stages.snapshots import read_snapshot, snapshots
from deita_core.store import Store
from deita_core.tables import DECISIONS, REJECTS, SAMPLES, SOURCES


def export_selection(store: Store, report: Report, folder: Path) -> list[str]:
    """Write the selection's files, all or none; returns their names."""
    try:
        names = prepare_export(store, report, folder)
        place_selection(folder, names)
    except BaseException:
        drop_prepared(folder, SELECTION_FILES)
        raise
    return names


def prepare_export(store: Store, report: Report, folder: Path) -> list[str]:
    """Prepare the selection's files, with the changes since the previous snapshot; returns their names."""
    placed = _with_deciding_scorer(all_decisions(store, report.job), report)
    selected = selected_rows(store, placed)
    decisions = placed.drop("key")
    manifest = manifest_of(store, report) | {"counts": counted(report, decisions)}
    card = dataset_card(selected, manifest)
    changed = None
    if report.previous in snapshots(store)["number"].to_list():
        found = compare(store, read_snapshot(store, report.previous), report)
        changed = Changed(found.added, found.dropped, changes_text(found))
    names = prepare_selection(folder, selected, decisions, manifest, card, report.job.settings.format, changed)
    check_prepared(store, report, folder)
    return names


def _with_deciding_scorer(decisions: pl.DataFrame, report: Report) -> pl.DataFrame:
    """Decisions with `scorer`, the one that decided the quality, if some were scored again, and REFINED of these."""
    job = report.job
    if job.refine is None:
        return decisions
    is_refined, names = pl.col("rank") <= report.chosen.refined, [scorer.name for scorer in job.scorers("quality")]
    others = pl.when(pl.col("rank").is_not_null()).then(pl.lit(" + ".join(names)))
    return decisions.with_columns(
        pl.when(is_refined).then(REFINED).alias(REFINED),
        scorer=pl.when(is_refined).then(pl.lit(job.refine.name)).otherwise(others),
    )


def check_prepared(store: Store, report: Report, folder: Path) -> None:
    """Raise StoreError unless the prepared files, the store and the report agree on all counts.

    The number of selected rows must be equal in both files, the decisions, the manifest, the store and the report, and
    the fates must add up to the rows read. Samples removed since the run are excluded everywhere.
    """
    manifest = orjson.loads(partial_path(folder / MANIFEST).read_bytes())["counts"]
    fates = pl.read_parquet(partial_path(folder / "decisions.parquet"), columns=["fate"])["fate"]
    rows = pl.scan_parquet(partial_path(folder / "selected.parquet")).select(pl.len()).collect().item()
    with partial_path(folder / "selected.jsonl").open("rb") as file:
        lines = sum(1 for _ in file)
    stored = store.read(DECISIONS, ["id"], f"run_id = '{report.job.run_id}' AND fate = 'selected'")
    gone = len(stored.join(removals(store).select("id"), on="id", how="semi"))
    selected = {
        "lines of selected.jsonl": lines,
        "rows of selected.parquet": rows,
        "selected in decisions.parquet": int((fates == "selected").sum()),
        "selected in the manifest": manifest["selected"],
        "selected in the store": len(stored) - gone,
        "selected by the run": report.chosen.selected - gone,
    }
    with_fate = sum(manifest[name] for name in (*FATES, "merged"))
    read = {"rows read": report.counts.read, "rows in the manifest": manifest["read"], "rows with a fate": with_fate}
    for numbers in (selected, read):
        if len(set(numbers.values())) > 1:
            found = ", ".join(f"{value:,} {name}" for name, value in numbers.items())
            raise StoreError(
                f"The files prepared in {folder} and the store {store.uri} do not agree ({found}), so none of them was "
                f"put in place; run the command again, and `deita doctor` if that does not help."
            )


def counted(report: Report, decisions: pl.DataFrame) -> dict[str, int]:
    """Current counts of the fates; rows removed since the run count as rejected."""
    fate = dict(decisions.group_by("fate").len().iter_rows())
    merged = int((decisions["copies"].drop_nulls() - 1).sum())
    now = report.counts.model_copy(
        update={"read": len(decisions) + merged, "merged": merged, **{name: fate.get(name, 0) for name in FATES}}
    )
    return {**now.model_dump(), "skipped": now.skipped}


def all_decisions(store: Store, job: Job) -> pl.DataFrame:
    """The fate and source of every row of the pool: distinct samples in rank order, then rejected rows.

    Rows removed since the run are among the rejected rows. The values of scorers are added as in `raw_values`, and the
    spreads of judges' votes, means over the turns; and what is in common with benchmarks, as in `leaks`.
    """
    with ThreadPoolExecutor(1) as beside:
        found = beside.submit(_places, store, job)
        there = decisions_of(store, job).join(removals(store).select("id"), on="id", how="anti", maintain_order="left")
        samples = with_nearest_selected(store, job, there)
    places = found.result()
    decided = samples.join(places, left_on="id", right_on="sample_id", how="left", maintain_order="left")
    multimodal = store.read(SAMPLES, ["id"], "multimodal = true")["id"]
    decided = decided.with_columns(multimodal=pl.col("id").is_in(multimodal.implode()))
    leaked = [leaks(store, job.exclude, job.encoder)] if job.exclude else []
    spreads = [_spreads(store, job, axis, samples["id"]) for axis in AXES]
    for values in (order_columns(store, job, samples), *leaked, raw_values(store, job), *spreads):
        decided = decided.join(values, on="id", how="left", maintain_order="left")
    rejects = store.fetch(REJECTS, "file_id", list(job.file_ids), ["file", "line", "reason", "detail"])
    unread = rejects.sort("file", "line").select(
        "file", "line", fate=pl.lit("rejected"), reason=pl.format("{}: {}", "reason", "detail")
    )
    return pl.concat([decided, unread], how="diagonal")


def _spreads(store: Store, job: Job, axis: Axis, ids: pl.Series) -> pl.DataFrame:
    return vote_spreads(store, job.scorers(axis), ids).drop("turn").group_by("id").mean()


def _places(store: Store, job: Job) -> pl.DataFrame:
    """The first source of each sample, and its number of copies: sample_id, key, file, line, side, copies."""
    columns = ["sample_id", "key", "file_id", "file", "line", "side"]
    rows = store.fetch(SOURCES, "file_id", list(job.file_ids), columns)
    position = pl.DataFrame({"file_id": job.file_ids}).with_row_index("nth")
    rows = rows.join(position, on="file_id").sort("nth", "line", "side", "key")
    return rows.group_by("sample_id", maintain_order=True).agg(
        pl.col("key", "file", "line", "side").first(), copies=pl.len().cast(pl.Int32)
    )


def selected_rows(store: Store, decisions: pl.DataFrame) -> pl.DataFrame:
    """The selected samples with messages and fields, in rank order."""
    selected = decisions.filter(pl.col("fate") == "selected")
    ids = selected["id"].to_list()
    messages = store.fetch(SAMPLES, "id", ids, ["id", "messages", "extra"])
    fields = store.fetch(SOURCES, "key", selected["key"].to_list(), ["key", "fields"])
    rows = selected.join(messages, on="id", how="left").join(fields, on="key", how="left").sort("rank")
    if lost := rows.filter(pl.col("messages").is_null() | pl.col("fields").is_null()).height:
        raise StoreError(f"The store {store.uri} lacks {lost:,} of the rows selected; select from the pool again.")
    return rows.select(pl.col(name).cast(kind) for name, kind in SELECTED_SCHEMA.items())


def manifest_of(store: Store, report: Report) -> dict[str, Any]:
    """The manifest: everything needed to repeat and to check the selection."""
    job = report.job
    return {
        "run_id": job.run_id,
        "snapshot": report.snapshot,
        "previous_snapshot": report.previous,
        "pool": report.pool,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        # How much a served scorer was asked changes nothing of a selection.
        "settings": job.settings.model_dump(exclude={"llm"}),
        "threshold": report.chosen.threshold,
        "files": [file.model_dump() for file in report.files],
        "encoder": job.encoder.model_dump(
            include={"name", "kind", "precision", "pooling", "storage", "max_tokens", "fingerprint"}
        ),
        **({"rank_model": job.rank_model.model_dump(exclude={"path"})} if job.rank_model else {}),
        "scorers": {
            **{axis: _described(job.scorers(axis)) for axis in AXES},
            **({"refining": _described([job.refine])} if job.refine else {}),
        },
        "counts": {**report.counts.model_dump(), "skipped": report.counts.skipped},
        "seconds": report.seconds,
        "store": {"uri": store.uri, "versions": store.versions()},
    }


def _described(scorers: list[ScorerFiles]) -> dict[str, Any]:
    """The name and fingerprint of an axis's scorer; for several those of their combination, and `each`."""
    each = [{"name": scorer.name, "fingerprint": scorer.fingerprint} for scorer in scorers]
    if len(each) == 1:
        return each[0]
    together = content_id("\n".join(scorer.fingerprint for scorer in scorers).encode())
    return {"name": " + ".join(scorer.name for scorer in scorers), "fingerprint": together, "each": each}
