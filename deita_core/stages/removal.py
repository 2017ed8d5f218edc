"""Removes conversations permanently: from the pool, the vectors, the scores and the evolved chains."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
from pydantic import BaseModel

from deita_core.config.settings import RemovalSettings
from deita_core.conversation import text_id
from deita_core.errors import InputError
from deita_core.export.files import SELECTION_FILES
from deita_core.export.placing import drop_prepared
from deita_core.stages.conditions import rows_that_meet
from deita_core.stages.ingest import placed, removals, removed_rows
from deita_core.stages.reporting import forget_pages
from deita_core.stages.snapshots import forget_unfinished, read_snapshot, snapshots
from deita_core.store import Store
from deita_core.tables import CHAINS, PLANS, RANKINGS, REJECTS, REMOVALS, SAMPLES, SOURCES


class Removed(BaseModel):
    """Counts of a removal: distinct conversations, and their rows in the pool."""

    samples: int
    rows: int


class Match(BaseModel):
    """Ids of samples to remove, and how many match only in earlier versions of files."""

    ids: list[str]
    older: int


def matching(store: Store, asked: RemovalSettings) -> Match:
    """Find samples by id, or by an SQL condition on one of their rows.

    The condition is on the columns of the sources: file, line, layout, fields (the row as JSON), sample_id. It covers
    files of the last snapshots; earlier versions only on request. Raises InputError for an invalid condition and an id
    that was never in the store.
    """
    known = set(pl.concat([store.read(SAMPLES, ["id"]), removals(store).select("id")])["id"])
    if strange := [id_ for id_ in asked.ids if id_ not in known]:
        raise InputError(f"There is no sample {strange[0]} in {store.uri}; ids stand in decisions.parquet.")
    none = SOURCES.empty().select("sample_id", "file_id")
    rows = none if asked.where is None else rows_that_meet(store, asked.where)
    now = rows.filter(pl.col("file_id").is_in(_files_now(store, rows["file_id"]).implode()))
    fit, ever = set(now["sample_id"]), set(rows["sample_id"])
    ids = set(asked.ids) | (ever if asked.old_versions else fit)
    return Match(ids=sorted(ids), older=len(ever - fit))


def _files_now(store: Store, there: pl.Series) -> pl.Series:
    """Ids of the files of each folder's last snapshot; all given ids if there is no snapshot yet."""
    last = snapshots(store).group_by("folder").agg(pl.col("number").max())["number"].to_list()
    if not last:
        return there
    files = [file_id for number in last for file_id in read_snapshot(store, number).report.job.file_ids]
    return pl.Series(files, dtype=pl.String)


def counted(store: Store, ids: Sequence[str]) -> Removed:
    """Counts of what a removal of samples would delete."""
    rows = store.fetch(SOURCES, "sample_id", list(ids), ["sample_id"])
    return Removed(samples=rows["sample_id"].n_unique(), rows=len(rows))


def remove(store: Store, ids: Sequence[str], reason: str) -> None:
    """Remove samples. Requires the store's lock. If interrupted, the next run finishes.

    Reports go first: one that cannot be deleted stops the removal before it has begun.
    """
    forget_pages(store, snapshots(store)["folder"].unique().to_list())
    today = datetime.now(UTC).date().isoformat()
    rows = pl.DataFrame({"id": ids}, schema={"id": pl.String}).with_columns(
        status=pl.lit("started"), removed=pl.lit(today), reason=pl.lit(reason)
    )
    store.write(REMOVALS, rows)
    finish_removals(store)


def finish_removals(store: Store) -> None:
    """Delete all remaining data of removed samples, and the table versions that hold it."""
    removed = removals(store)
    finished = store.read(REMOVALS, ["id"], "status = 'finished'")
    here = store.read(SAMPLES, ["id"]).join(removed, on="id", how="semi")["id"].to_list()
    rows = store.fetch(SOURCES, "sample_id", removed["id"].to_list()) if len(removed) else SOURCES.empty()
    if not here and rows.is_empty() and len(finished) == len(removed):
        return
    # Nothing is finished until old versions of the tables, which hold the texts, are dropped.
    store.delete(REMOVALS, "status = 'finished'")
    store.write(REJECTS, removed_rows(rows.join(removed, left_on="sample_id", right_on="id")))
    store.delete_rows(SOURCES.name, "sample_id", rows["sample_id"].unique().to_list())
    texts = _texts_of_no_other(store, here)
    for name in store.tables():
        if name.startswith("vectors__"):
            # A language model's vectors are keyed by sample id.
            store.delete_rows(name, "text_id", [*texts, *here])
        elif "__" in name:
            store.delete_rows(name, "id", here)
        if name.startswith("losses__"):
            for column in ("shown", "probe") if name.startswith("losses__shown") else ("id",):
                store.delete_rows(name, column, here)
    _forget_chains(store, here)
    _forget_plans(store, [*texts, *here])
    # Last, because the sample names the texts to delete.
    store.delete_rows(SAMPLES.name, "id", here)
    store.compact(purge=True)
    store.write(REMOVALS, removed.select("id", pl.lit("finished").alias("status"), "removed", "reason"))


def _texts_of_no_other(store: Store, ids: Sequence[str]) -> list[str]:
    """Text ids of samples, and of chains evolved from them, that no other sample has."""
    indices = (
        store.read(SAMPLES, ["id", "message_index"])
        .explode("message_index")
        .unnest("message_index")
        .select("id", text_id=pl.concat_list("text_id", "full_id"))
        .explode("text_id")
        .drop_nulls("text_id")
    )
    gone = pl.col("id").is_in(pl.Series(ids, dtype=pl.String).implode())
    evolved = store.fetch(CHAINS, "seed_id", ids, ["text"])["text"].drop_nulls().unique()
    ours = pl.concat([indices.filter(gone)["text_id"], pl.Series([text_id(text) for text in evolved], dtype=pl.String)])
    mine = pl.DataFrame({"text_id": ours.unique()})
    return mine.join(indices.filter(~gone), on="text_id", how="anti")["text_id"].to_list()


def forget_unplaced(store: Store) -> None:
    """Delete samples without a source, which an interrupted ingest leaves."""
    loose = store.row_ids(SAMPLES, "id").join(placed(store), left_on="id", right_on="sample_id", how="anti")
    store.delete_rows(SAMPLES.name, "id", loose["id"].to_list())


def _forget_chains(store: Store, ids: Sequence[str]) -> None:
    chains = store.fetch(CHAINS, "seed_id", ids, ["chain"])["chain"].unique().to_list()
    store.delete_rows(RANKINGS.name, "chain", chains)
    store.delete_rows(CHAINS.name, "chain", chains)


def _forget_plans(store: Store, ids: Sequence[str]) -> None:
    """Delete shards of interrupted runs that hold any of the ids; their other rows are planned again."""
    held = pl.col("ids").list.concat("owners").list.set_intersection(pl.lit(list(ids), dtype=pl.List(pl.String)))
    keys = store.read(PLANS, ["key", "ids", "owners"]).filter(held.list.len() > 0)["key"].to_list()
    store.delete_rows(PLANS.name, "key", keys)


def finish_interrupted(store: Store) -> None:
    """Finish interrupted removals, and delete what interrupted ingests and selections left."""
    # First, because a removed sample names the vectors and scores to delete.
    finish_removals(store)
    forget_unplaced(store)
    forget_unfinished(store)


def take_back(store: Store, folder: str | None = None) -> None:
    """Delete the decisions of a failed run, and the files it prepared in its folder. Requires the lock."""
    if folder is not None:
        drop_prepared(Path(folder), SELECTION_FILES)
    forget_unfinished(store)
