"""Taking conversations down: out of the pool, the vectors, the scores and what evolved from them, for good."""

from collections.abc import Sequence
from datetime import UTC, datetime

import polars as pl
from pydantic import BaseModel

from deita_core.errors import InputError
from deita_core.stages.ingest import removed_rows
from deita_core.store import Store
from deita_core.tables import CHAINS, PLANS, RANKINGS, REJECTS, REMOVALS, SAMPLES, SOURCES

CHUNK = 1_000


class Removed(BaseModel):
    """What a takedown took: distinct conversations, and the rows of the pool that were them."""

    samples: int
    rows: int


def matching(store: Store, ids: Sequence[str], where: str | None) -> list[str]:
    """Ids of the samples to remove: those named, and those a row of which fits an SQL condition.

    The condition is on the columns of the sources: file, line, layout, fields (the row as JSON), sample_id. Raises
    InputError for a condition that cannot be read, an id that was never here, and where nothing fits.
    """
    known = pl.concat([store.read(SAMPLES, ["id"]), store.read(REMOVALS, ["id"])])["id"]
    if strange := [id_ for id_ in ids if id_ not in set(known)]:
        raise InputError(f"There is no sample {strange[0]} in {store.uri}; ids stand in decisions.parquet.")
    found = list(ids)
    if where is not None:
        try:
            found += store.read(SOURCES, ["sample_id"], where)["sample_id"].to_list()
        except (ValueError, RuntimeError) as error:
            raise InputError(f"The condition {where!r} cannot be read: {str(error).splitlines()[0][:200]}") from None
    if not found:
        raise InputError("Nothing fits, so nothing is removed; name ids, or a condition such as \"file = 'a.jsonl'\".")
    return sorted(set(found))


def counted(store: Store, ids: Sequence[str]) -> Removed:
    """What removing samples would take."""
    rows = store.fetch(SOURCES, "sample_id", list(ids), ["sample_id"])
    return Removed(samples=rows["sample_id"].n_unique(), rows=len(rows))


def remove(store: Store, ids: Sequence[str], reason: str) -> Removed:
    """Take samples down, only while holding the store's lock; what has begun the next run carries out."""
    found = counted(store, ids)
    today = datetime.now(UTC).date().isoformat()
    rows = pl.DataFrame({"id": ids}, schema={"id": pl.String}).with_columns(
        removed=pl.lit(today), reason=pl.lit(reason)
    )
    store.write(REMOVALS, rows)
    finish_removals(store)
    return found


def finish_removals(store: Store) -> None:
    """Take away whatever is still there of removed samples, and the versions of the tables that hold it."""
    removed = store.read(REMOVALS)
    here = store.read(SAMPLES, ["id"]).join(removed, on="id", how="semi")["id"].to_list()
    rows = store.fetch(SOURCES, "sample_id", removed["id"].to_list()) if len(removed) else SOURCES.empty()
    if not here and rows.is_empty():
        return
    store.write(REJECTS, removed_rows(rows.join(removed, left_on="sample_id", right_on="id")))
    _delete(store, SOURCES.name, "sample_id", removed["id"].to_list())
    texts = _texts_of_no_other(store, here)
    for name in store.tables():
        if name.startswith("vectors__"):
            # A language model's vectors are keyed by the sample itself.
            _delete(store, name, "text_id", [*texts, *here])
        if name.startswith("scores__"):
            _delete(store, name, "id", here)
    _forget_chains(store, here)
    _forget_plans(store, [*texts, *here])
    # Last: a sample that is still here says that its removal is not finished.
    _delete(store, SAMPLES.name, "id", here)
    store.compact(purge=True)


def _texts_of_no_other(store: Store, ids: Sequence[str]) -> list[str]:
    """Texts of samples that no other sample has."""
    outlines = store.read(SAMPLES, ["id", "outline"]).explode("outline").unnest("outline").select("id", "text_id")
    gone = pl.col("id").is_in(pl.Series(ids, dtype=pl.String).implode())
    return outlines.filter(gone).join(outlines.filter(~gone), on="text_id", how="anti")["text_id"].unique().to_list()


def _forget_chains(store: Store, ids: Sequence[str]) -> None:
    chains = store.fetch(CHAINS, "seed_id", ids, ["chain"])["chain"].unique().to_list()
    _delete(store, RANKINGS.name, "chain", chains)
    _delete(store, CHAINS.name, "chain", chains)


def _forget_plans(store: Store, ids: Sequence[str]) -> None:
    """Shards that a broken run left, if they hold any of the ids: what else is in them is planned anew."""
    held = pl.col("ids").list.concat("owners").list.set_intersection(pl.lit(list(ids), dtype=pl.List(pl.String)))
    keys = store.read(PLANS, ["key", "ids", "owners"]).filter(held.list.len() > 0)["key"].to_list()
    _delete(store, PLANS.name, "key", keys)


def _delete(store: Store, table: str, column: str, values: Sequence[str]) -> None:
    for start in range(0, len(values), CHUNK):
        listed = ",".join(f"'{value}'" for value in values[start : start + CHUNK])
        store.delete(table, f"{column} IN ({listed})")
