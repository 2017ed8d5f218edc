"""Selections by orders that need a language model or examples, by the flow and from the command line."""

import json

import polars as pl
import pytest

from deita_core.store import Store
from tests.support.commands import deita
from tests.support.pools import ALPACA, MORE, Place

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path).write("alpaca.jsonl", ALPACA)


def losses(place):
    """Rows and version of each table of losses."""
    store = Store(place.store)
    found = {name: version for name, version in store.versions().items() if name.startswith("losses__")}
    return {name.split("__")[1].split("-")[0]: (store.count(name), version) for name, version in found.items()}


def test_ifd_reads_each_answer_once_and_an_update_reads_what_is_new(place, tiny_models, tiny_llama):
    ranked = {**tiny_models, "strategy": "ifd", "rank_model": str(tiny_llama), "precision": "float32"}
    report = place.select(**ranked, budget=3)
    first, read = place.decisions, losses(place)
    assert {name: rows for name, (rows, _) in read.items()} == {"asked": 7, "alone": 7}
    assert report.chosen.selected + report.chosen.over_budget + report.chosen.filtered == 7
    assert first.filter(fate="selected")["ifd"].is_sorted(descending=True)
    assert (first.filter(fate="filtered")["ifd"] >= 1).all() and first["ifd"].null_count() == 0
    place.select(out=place.folder / "again", **ranked, budget=3)
    assert losses(place) == read
    place.write("more.jsonl", MORE)
    place.update()
    assert {name: rows for name, (rows, _) in losses(place).items()} == {"asked": 10, "alone": 10}
    fresh = place.from_scratch(**ranked, budget=3)
    assert (fresh.out / "selected.jsonl").read_bytes() == (place.out / "selected.jsonl").read_bytes()
    decided = ["id", "fate", "rank", "reason"]
    assert place.decisions.select(decided).equals(fresh.decisions.select(decided))


def test_wici_is_selected_from_the_command_line_and_by_worker_processes(place, tiny_models, tiny_llama):
    models = [f"--{name.replace('_', '-')}={value}" for name, value in tiny_models.items()]
    more = ["--strategy", "wici", "--rank-model", tiny_llama, "--store", place.store, "--out", place.out]
    ran = deita("select", place.pool, *models, *more, "--runner", "processes", cwd=place.folder)
    assert ran.returncode == 0, ran.stderr
    assert place.decisions.filter(pl.col("rank").is_not_null())["influence"].is_sorted(descending=True)
    assert losses(place).keys() == {"asked", "alone", "shown"}


def test_rds_takes_turns_over_the_tasks_of_a_file(place, tiny_models):
    examples = place.folder / "tasks.jsonl"
    told = [{"question": "Explain recursion.", "kind": "teach"}, {"question": "Translate it.", "kind": "languages"}]
    examples.write_text("".join(json.dumps(row) + "\n" for row in told), encoding="utf-8")
    models = [f"--{name.replace('_', '-')}={value}" for name, value in tiny_models.items()]
    more = ["--strategy", "rds", "--like", examples.name, "--like-task", "kind", "--budget", 4]
    places = ["--store", place.store, "--out", place.out]
    ran = deita("select", place.pool, *models, *more, *places, cwd=place.folder)
    assert ran.returncode == 0, ran.stderr
    assert place.decisions["task"][:4].to_list() == ["teach", "languages"] * 2
    # An update finds the file from any folder, and a file that has changed is read again.
    told.reverse()
    examples.write_text("".join(json.dumps(row) + "\n" for row in told), encoding="utf-8")
    ran = deita("update", "--out", place.out, "--store", place.store, cwd=place.store)
    assert ran.returncode == 0, ran.stderr
    assert place.decisions["task"][:2].to_list() == ["languages", "teach"]
    examples.unlink()
    ran = deita("update", "--out", place.out, "--store", place.store, cwd=place.store)
    assert ran.returncode == 2 and "tasks.jsonl does not exist" in ran.stderr


def test_instag_writes_a_report_and_a_redundant_row_is_explained(tmp_path, tiny_models):
    tagged = [{**row, "topics": "home, daily life" if i % 2 else ["Code"]} for i, row in enumerate(ALPACA)]
    place = Place(tmp_path).write("alpaca.jsonl", tagged)
    models = [f"--{name.replace('_', '-')}={value}" for name, value in tiny_models.items()]
    more = ["--strategy", "instag", "--tags-field", "topics", "--store", place.store, "--out", place.out]
    ran = deita("select", place.pool, *models, *more, cwd=place.folder)
    assert ran.returncode == 0, ran.stderr
    assert "could not be written" not in ran.stderr and (place.out / "report.html").exists()
    assert place.decisions.filter(fate="selected")["tags"].to_list() == [2, 1]
    redundant = place.decisions.filter(fate="redundant")
    assert len(redundant) == 5
    told = deita("explain", redundant["id"][0], "--out", place.out, cwd=place.folder)
    assert "redundant: rows that were taken before it have all its tags" in told.stdout
