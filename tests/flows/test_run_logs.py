"""What the log of a run says about the rows that failed."""

import logging

import polars as pl
import pytest

from deita_core.stages.ingest import describe_file, ingest_file
from deita_core.stages.shards import plan_shards
from deita_core.store import Store
from deita_core.tables import SAMPLES, SOURCES, scores_table

pytestmark = pytest.mark.slow


class Lines(logging.Handler):
    """Keeps the lines of a log."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def test_a_shard_that_fails_names_the_lines_its_rows_are_from(prefect_server, tmp_path):
    from prefect import flow, task

    from tasks.artifacts import naming_rows

    pool = tmp_path / "pool.jsonl"
    pool.write_text('{"instruction": "Name a fox.", "output": "Reynard"}\n{"instruction": "And?", "output": "Todd"}\n')
    store = Store(tmp_path / "store")
    ingest_file(store, describe_file(str(pool)))
    ids = store.read(SAMPLES, ["id"]).with_columns(owner=pl.lit(""), size=pl.lit(1))
    [shard] = plan_shards(store, "score", scores_table("some"), ids, 100)

    said = Lines()

    @task
    def failing():
        # Not before: Prefect sets its loggers up when a run begins.
        logging.getLogger("prefect.task_runs").addHandler(said)
        with naming_rows(store.uri, shard):
            raise OSError("the disk is full")

    @flow
    def run():
        failing()

    try:
        with pytest.raises(OSError, match="disk is full"):
            run()
    finally:
        logging.getLogger("prefect.task_runs").removeHandler(said)
    [line] = [line for line in said.lines if shard.key in line]
    assert store.count(SOURCES) == 2
    assert f"{pool}:1" in line and f"{pool}:2" in line


def test_outside_a_run_the_error_is_the_one_that_was_raised(tmp_path):
    from deita_core.stages.shards import Shard
    from tasks.artifacts import naming_rows

    with pytest.raises(OSError, match="disk is full"), naming_rows(str(tmp_path), Shard(key="k", rows=1)):
        raise OSError("the disk is full")
