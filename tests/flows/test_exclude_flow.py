"""Selecting without the questions of benchmarks; tests/deita_core/stages/test_contamination.py has what is found."""

import json

import pytest
from typer.testing import CliRunner

from deita_core.errors import InputError
from deita_core.stages.estimate import estimate
from flows.cli.main import app
from tests.support.pools import ALPACA, MESSAGES, MORE, Place, talk

ASKED = "Ask a landlord to repair a tap."
LIKE = "Name three ways to save water at home."


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "place").write("a.jsonl", [*ALPACA, *MESSAGES])


def questions(place, *texts, name="bench.jsonl"):
    file = place.folder / name
    file.write_text("".join(json.dumps({"question": text}) + "\n" for text in texts), encoding="utf-8")
    return str(file)


def leaked(place):
    rows = place.decisions.filter(place.decisions["fate"] == "contaminated")
    return {row["contaminated_by"]: row for row in rows.to_dicts()}


def test_questions_of_benchmarks_are_not_selected_and_an_update_reads_their_file_again(
    prefect_server, tiny_models, place
):  # fmt: skip
    file = questions(place, ASKED)
    report = place.select(**tiny_models, exclude=[file])
    assert report.chosen.contaminated == report.counts.contaminated == 1
    [row] = leaked(place).values()
    assert (
        row["reason"] == "it shares 7 words in a row with bench.jsonl:1" and row["shared_quote"] == ASKED.lower()[:-1]
    )
    assert row["rank"] is None and row["line"] == 6 and row["benchmark_similarity"] is None
    assert ASKED not in {row.get("instruction") for row in place.lines()}
    assert len(place.lines()) == report.chosen.selected
    # A question is added to the benchmark, and rows to the pool.
    questions(place, ASKED, MORE[0]["messages"][0]["content"])
    place.write("b.jsonl", [*MORE, talk(f"Now: {ASKED}", "Dear Sir")])
    report = place.update()
    assert report.job.settings.exclude == [file]
    assert report.chosen.contaminated == 3 and set(leaked(place)) == {"bench.jsonl:1", "bench.jsonl:2"}
    assert place.decisions.equals(place.from_scratch(**tiny_models, exclude=[file]).decisions)


def test_vectors_find_what_shares_no_words_if_they_are_asked(prefect_server, tiny_models, place):
    file = questions(place, LIKE.replace("three ", "three\n\n").replace("water", "the water"))
    assert place.select(**tiny_models, exclude=[file]).chosen.contaminated == 0
    report = place.update(exclude_similarity=0.9)
    rows = place.decisions.filter(place.decisions["fate"] == "contaminated").to_dicts()
    assert len(rows) == report.chosen.contaminated >= 1
    for row in rows:
        assert row["benchmark_similarity"] >= 0.9 and row["shared_words"] is None
        assert row["reason"].startswith("a question of its user is near bench.jsonl:1 (cosine 0.9")


def test_a_missing_benchmark_is_an_error_before_any_work(prefect_server, tiny_models, place):
    settings = {**tiny_models, "exclude": [str(place.folder / "none.jsonl")]}
    with pytest.raises(InputError, match=r"none\.jsonl does not exist"):
        place.select(**settings)
    assert not list(place.store.glob("*.lance"))
    with pytest.raises(InputError, match=r"none\.jsonl does not exist"):
        estimate([str(place.pool)], place.settings(**settings))


def test_a_dry_run_takes_the_flags(tiny_models, place):
    flags = [
        part
        for name in ("encoder", "complexity_scorer", "quality_scorer")
        for part in (f"--{name.replace('_', '-')}", tiny_models[name])
    ]
    command = ["select", str(place.pool), "--store", str(place.store), *flags, "--dry-run"]
    run = CliRunner().invoke(app, [*command, "--exclude", questions(place, ASKED), "--exclude-similarity", "0.9"])
    assert run.exit_code == 0, run.output
    run = CliRunner().invoke(app, [*command, "--exclude-similarity", "0.9"])
    assert isinstance(run.exception, InputError) and "give a file of them as well" in str(run.exception)
