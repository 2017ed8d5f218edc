"""Selecting again after a pool has changed gives the decisions of a run from scratch, whatever has changed."""

import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_choosing import DIM, QUALITY, VECTORS, Pool, job

from deita_core.scorers import ScorerFiles
from deita_core.stages.mending import mend
from deita_core.stages.removal import remove
from deita_core.stages.selecting import choose
from deita_core.store import Store
from deita_core.tables import DECISIONS, PLANS, SAMPLES, SOURCES, scores_table

FILES = ["a" * 32, "b" * 32, "c" * 32]
ANOTHER = ScorerFiles(name="q2", axis="quality", path=Path(), fingerprint="3" * 32)

edits = st.fixed_dictionaries(
    {
        "files": st.sets(st.sampled_from(FILES), min_size=1),
        "quality": st.sampled_from([QUALITY, ANOTHER]),
        "budget": st.sampled_from([None, 3, 8, 20]),
        "threshold": st.sampled_from([0.3, 0.8, 0.9, 1.0]),
        "taken_down": st.sets(st.integers(0, 35), max_size=2),
    }
)


def fill(folder, seed):
    """36 conversations in three files, vectors in few clusters with copies among them, scores with ties."""
    pool, draw = Pool(folder), np.random.default_rng(seed)
    centres = draw.normal(size=(5, DIM))
    vectors = centres[draw.integers(0, 5, 36)] + draw.normal(size=(36, DIM)) * draw.choice([0, 0.1, 0.5], (36, 1))
    ids = []
    for n, vector in enumerate(vectors):
        score = (float(draw.integers(1, 7)), float(draw.integers(1, 4)))
        ids.append(pool.add(f"talk {n}", vector, score, file_id=FILES[n % 3]))
    store = pool.store
    again = [{"id": id_, "turn": 0, "score": float(draw.integers(1, 7)), "status": "ok"} for id_ in ids]
    store.write(scores_table(ANOTHER.slug), pl.DataFrame(again, schema=scores_table(ANOTHER.slug).empty().schema))
    return store, ids


def decisions(store, the_job):
    rows = store.read(DECISIONS, where=f"run_id = '{the_job.run_id}'").sort("rank")
    return rows.drop("key", "run_id")


@settings(max_examples=25)
@given(seed=st.integers(0, 2**16), steps=st.lists(edits, min_size=2, max_size=5))
def test_every_snapshot_has_the_decisions_of_a_run_from_scratch(seed, steps):
    with tempfile.TemporaryDirectory() as folder:
        store, ids = fill(Path(folder) / "store", seed)
        previous = None
        for number, step in enumerate(steps):
            if step["taken_down"]:
                remove(store, [ids[n] for n in step["taken_down"]], "")
            named = {"run_id": f"update-{number}", "file_ids": tuple(sorted(step["files"])), "after": previous}
            update = job(budget=step["budget"], threshold=step["threshold"])
            update = update.model_copy(update=named | {"quality": step["quality"]})
            fresh = update.model_copy(update={"run_id": f"fresh-{number}", "after": None})
            chosen, expected = choose(store, update), choose(store, fresh)
            assert decisions(store, update).equals(decisions(store, fresh))
            told = {"examined", "compared"}
            assert chosen.model_dump(exclude=told) == expected.model_dump(exclude=told)
            previous = update.run_id


def test_nothing_new_is_nothing_to_look_at(tmp_path):
    store, _ = fill(tmp_path / "store", 1)
    first = job(budget=8).model_copy(update={"file_ids": tuple(FILES)})
    choose(store, first)
    again = choose(store, first.model_copy(update={"run_id": "again", "after": "run"}))
    assert (again.examined, again.compared) == (0, 0)


@pytest.mark.parametrize("step", range(1, 10))
def test_a_removal_that_breaks_off_at_any_deletion_leaves_nothing_once_the_next_run_has_mended_it(
    tmp_path, monkeypatch, step
):
    store, ids = fill(tmp_path / "store", 3)
    tables = [scores_table(QUALITY.slug), scores_table(ANOTHER.slug), VECTORS, SAMPLES, SOURCES]
    before = [store.count(table) for table in tables]
    delete, left = Store.delete, step

    def break_off(self, *given):
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return delete(self, *given)

    with monkeypatch.context() as broken:
        broken.setattr(Store, "delete", break_off)
        with suppress(KeyboardInterrupt):
            remove(store, ids[:1], "")
    mend(store)
    # A score of each scorer, the vectors of question and answer, the conversation, and its row.
    assert [was - store.count(table) for was, table in zip(before, tables, strict=True)] == [1, 1, 2, 1, 1]
    assert store.count(PLANS) == 0
