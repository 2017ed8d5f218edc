"""Strategies, quotas and comparisons as flows; tests/deita_core/stages/test_choosing.py has what they choose."""

import polars as pl

from deita_core.config.comparison import ComparisonSettings
from flows.cli.compare import proof_settings
from flows.compare import compare
from tests.support.pools import ALPACA, MESSAGES, MORE, Place

ROWS = [*ALPACA, *MESSAGES[::2]]


def test_an_update_with_a_token_budget_and_a_quota_equals_a_selection_from_scratch(
    prefect_server, tiny_models, tmp_path
):  # fmt: skip
    limits = {"budget": 6, "token_budget": 400, "per": "layout", "cap": 0.5, "floor": 1, "threshold": 1.0}
    models = {**tiny_models, **limits}
    place = Place(tmp_path / "place").write("a.jsonl", ROWS)
    report = place.select(**models)
    assert 0 < report.chosen.tokens <= 400
    assert report.counts.over_quota > 0
    place.write("b.jsonl", MORE)
    again = place.update()
    assert again.job.settings.token_budget == 400
    assert place.decisions.equals(place.from_scratch(**models).decisions)


def test_a_strategy_of_an_update_replaces_that_of_the_snapshot(prefect_server, tiny_models, tmp_path):
    place = Place(tmp_path / "place").write("a.jsonl", ROWS)
    assert place.select(**tiny_models, budget=3, strategy="kmq").job.settings.diversity == "clusters"
    assert place.update().job.settings.diversity == "clusters"
    again = place.update(strategy="random")
    assert (again.job.settings.rank, again.job.settings.diversity) == ("random", "none")


def test_each_strategy_has_a_folder_of_its_own_and_nothing_is_computed_twice(prefect_server, tiny_models, tmp_path):
    place = Place(tmp_path / "place").write("a.jsonl", ROWS)
    settings = ComparisonSettings(
        **{**place.settings(**tiny_models).model_dump(exclude={"strategy", "rank", "diversity"}), "budget": 3},
        strategies=["deita", "random", "kmq"],
        seeds=2,
    )
    out = tmp_path / "compared"
    card = compare([str(place.pool)], str(out), settings)
    folders = {path.parent.name for path in out.glob("*/manifest.json")}
    assert folders == {"deita", "random", "random-seed-1", "kmq", "kmq-seed-1"}
    assert (out / "deita" / "report.html").is_file() and not (out / "random-seed-1" / "report.html").exists()
    assert (out / "README.md").read_text(encoding="utf-8") == card
    subsets = pl.read_parquet(out / "subsets.parquet")
    for folder, arm, seed in (("deita", "deita", 0), ("kmq-seed-1", "kmq", 1)):
        rows = pl.read_parquet(out / folder / "selected.parquet")
        assert subsets.filter(arm=arm, seed=seed)["id"].to_list() == rows["id"].to_list()
    assert "## Where Deita stands" in card
    assert pl.read_parquet(out / "figures.parquet").filter(figure="rows", arm="random")["value"].to_list() == [3.0, 3.0]


def test_a_proof_of_a_comparison_has_its_selections_as_arms(tmp_path):
    settings = ComparisonSettings(budget=30, strategies=["deita", "random", "rds"], like="tasks.txt", store="kept")
    file = tmp_path / "proof.yaml"
    file.write_text("base_model: smollm2-135m\nheldout: good.jsonl\nseeds: 2\n")
    found = proof_settings(file, settings, tmp_path)
    assert found.names == ["deita", "random", "rds"]
    assert found.arms == {"random": str(tmp_path / "random"), "rds": str(tmp_path / "rds")}
    assert (found.budget, found.seeds, found.store, found.rank) == (30, 2, "kept", "evol")
