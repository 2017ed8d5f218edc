"""Shards: the parts of a stage's remaining work, stored before it starts.

A resumed run follows the stored plan of the interrupted run. So every shard and every batch, and with them all results
to the last bit, are those of an uninterrupted run.
"""

from collections.abc import Sequence

import polars as pl
from pydantic import BaseModel

from deita_core.conversation import content_id
from deita_core.store import Store
from deita_core.tables import PLANS, Table

# Approximate limit of shards per stage, for any size of pool.
MAX_SHARDS = 40


class Shard(BaseModel):
    """The rows of one task: a row of the plans table."""

    key: str
    rows: int


def plan_shards(
    store: Store,
    stage: str,
    table: Table | Sequence[Table],
    work: pl.DataFrame,
    shard_size: int,
    order: Sequence[str] = (),
) -> list[Shard]:
    """Divide missing rows into shards, keeping the unfinished shards of an earlier run.

    `work`: rows of items, with id (as in the first key column of `table`), owner (what the stage needs to find the
    item) and size; of several rows of an item the first counts. The sizes in a shard add up to about `shard_size`, more
    in a large pool. Of several tables, an item is missing if one of them lacks it. Missing items are processed in their
    order, or sorted by the columns `order`.
    """
    tables = [table] if isinstance(table, Table) else table
    plan = ":".join([stage, *(table.name for table in tables)])
    present, *others = (_present(store, table) for table in tables)
    for other in others:
        present = present.join(other, on="id", how="semi")
    waiting = _drop_finished(store, plan, present)
    lacking = work.join(present, on="id", how="anti", maintain_order="left")
    # Usually few are missing, so that only now each is counted once.
    lacking = lacking.unique("id", keep="first", maintain_order=True)
    lacking = lacking.sort(order) if order else lacking
    unplanned = lacking.join(waiting.explode("ids"), left_on="id", right_on="ids", how="anti", maintain_order="left")
    new = _cut(plan, unplanned, shard_size)
    store.write(PLANS, new)
    shards = pl.concat([waiting, new.select(waiting.columns)])
    # Ignore shards that an interrupted run on another pool left.
    wanted = shards.explode("ids").join(lacking, left_on="ids", right_on="id", how="semi")["key"].unique()
    shards = shards.filter(pl.col("key").is_in(wanted.implode()))
    return [Shard(key=key, rows=rows) for key, rows in shards.select("key", pl.col("ids").list.len()).iter_rows()]


def read_shard(store: Store, shard: Shard) -> pl.DataFrame:
    """The rows of a shard, in order: id, owner."""
    found = store.read(PLANS, ["ids", "owners"], f"key = '{shard.key}'")
    return found.select(id="ids", owner="owners").explode("id", "owner")


def _present(store: Store, table: Table) -> pl.DataFrame:
    """The ids that a table has, each once: id."""
    ids = store.row_ids(table, table.key[0]).select(id=table.key[0])
    return ids if len(table.key) == 1 else ids.unique()


def _drop_finished(store: Store, plan: str, present: pl.DataFrame) -> pl.DataFrame:
    """Delete finished shards; returns the others: key, ids. A shard is finished once all its rows are present."""
    planned = store.read(PLANS, ["key", "shard", "ids"], f"plan = '{plan}'").sort("shard", "key").drop("shard")
    if planned.is_empty():
        return planned
    left = planned.explode("ids").join(present, left_on="ids", right_on="id", how="anti")["key"].unique()
    finished = planned.filter(~pl.col("key").is_in(left.implode()))["key"]
    store.delete_rows(PLANS, "key", finished.to_list())
    return planned.filter(pl.col("key").is_in(left.implode()))


def _cut(plan: str, todo: pl.DataFrame, shard_size: int) -> pl.DataFrame:
    if todo.is_empty():
        return PLANS.empty()
    todo = todo.with_columns(pl.col("size").cast(pl.Int64))
    size = max(shard_size, -(-int(todo["size"].sum()) // MAX_SHARDS))
    ahead = pl.col("size").cum_sum() - pl.col("size")
    shards = todo.group_by(shard=(ahead // size).cast(pl.Int32), maintain_order=True).agg(ids="id", owners="owner")
    keys = [content_id("\n".join([plan, *ids]).encode()) for ids in shards["ids"]]
    columns = list(PLANS.empty().columns)
    return shards.with_columns(key=pl.Series(keys, dtype=pl.String), plan=pl.lit(plan)).select(columns)
