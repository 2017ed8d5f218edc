"""Selecting with a reward model: its values stay in the store, and their quantiles in the pool are the scores."""

import json

import polars as pl
import pytest

from deita_core.config.settings import SelectionSettings
from deita_core.errors import InputError
from deita_core.models.encoder_spec import find_encoder
from deita_core.scorers import find_scorer, load_scorer
from deita_core.selection.pairs import PairRules
from deita_core.stages.estimate import estimate
from deita_core.stages.explaining import explain
from deita_core.stages.pairs import PairReport
from deita_core.stages.repair import examine
from deita_core.stages.snapshots import read_snapshot
from deita_core.store import Store
from deita_core.tables import scores_table
from tests.support.commands import deita
from tests.support.installation import make_heads
from tests.support.pools import ALPACA, MESSAGES, MORE, Place, talk
from tests.support.tiny_classifiers import make_encoder_classifier, make_reward_llama

TWO_TURNS = {"messages": [*talk("Name a fruit.", "Quince.")["messages"], *talk("Another.", "Medlar.")["messages"]]}
FIRST = [*ALPACA, TWO_TURNS]
TURNS = len(ALPACA) + 2


@pytest.fixture(scope="module")
def models(tiny_models, tmp_path_factory):
    """Settings with a reward model for quality, of which a text in float32 has one value."""
    folder = make_reward_llama(tmp_path_factory.mktemp("models") / "reward")
    return {**tiny_models, "quality_scorer": str(folder)}


@pytest.fixture(scope="module")
def selected(prefect_server, models, tmp_path_factory):
    """A place with a selection of three, and its report."""
    place = Place(tmp_path_factory.mktemp("classifier") / "place").write("a.jsonl", FIRST)
    return place, place.select(budget=3, **models)


def table_of(models, axis="quality"):
    scorer = find_scorer(models[f"{axis}_scorer"], axis, find_encoder(models["encoder"]))
    return scores_table(scorer.slug)


def test_decisions_have_the_models_values_and_scores_on_the_scale(selected, models):
    place, report = selected
    assert report.scored == 2 * TURNS
    decisions = place.decisions
    assert "complexity_raw" not in decisions.columns, "the other scorer has no scale of its own"
    assert decisions["quality"].is_between(1, 6).all() and decisions["quality_raw"].is_not_null().all()
    assert decisions["quality_raw"].n_unique() == len(FIRST)
    asked, answered = ALPACA[1]["instruction"], ALPACA[1]["output"]
    [value] = load_scorer(models["quality_scorer"], "quality").score([asked], [answered])["raw"]
    row = decisions.row(by_predicate=pl.col("id") == place.id_of(asked), named=True)
    assert row["quality_raw"] == pytest.approx(value, rel=1e-4)


def test_a_row_is_explained_with_its_scores_and_the_report_names_the_model(selected, models):
    place, _ = selected
    store = Store(place.store)
    decisions = place.decisions
    id_ = place.id_of(ALPACA[1]["instruction"])
    explained = explain(store, read_snapshot(store), id_)
    [score] = decisions.filter(id=id_)["quality"]
    assert [turn.quality for turn in explained.turns] == [pytest.approx(score)]
    assert models["quality_scorer"] in (place.out / "report.html").read_text(encoding="utf-8")


def test_scores_are_quantiles_of_the_turns_of_the_pool(selected, models):
    place, _ = selected
    turns = Store(place.store).read(table_of(models))
    assert turns.columns == ["id", "turn", "raw", "status"] and len(turns) == TURNS
    values = turns["raw"].to_list()
    ranked = {value: 1 + 5 * sum(other < value for other in values) / (TURNS - 1) for value in values}
    for row in place.decisions.iter_rows(named=True):
        of_sample = turns.filter(pl.col("id") == row["id"])["raw"].to_list()
        assert row["quality_raw"] == pytest.approx(sum(of_sample) / len(of_sample))
        assert row["quality"] == pytest.approx(sum(ranked[v] for v in of_sample) / len(of_sample))


def test_an_update_ranks_anew_from_stored_values_and_computes_only_those_of_new_rows(selected, models):
    place, _ = selected
    before = place.decisions
    stored = Store(place.store).read(table_of(models)).sort("id", "turn")
    place.write("b.jsonl", [*MESSAGES, *MORE])
    report = place.update()
    # One of the new rows was there.
    new = len(MESSAGES) + len(MORE) - 1
    assert (report.counts.scored, report.counts.merged) == (2 * new, 1)
    scratch = place.from_scratch(budget=3, **models)
    assert place.decisions.drop("quality_raw").equals(scratch.decisions.drop("quality_raw"))
    assert (place.out / "selected.jsonl").read_bytes() == (scratch.out / "selected.jsonl").read_bytes()
    moved = before.join(place.decisions, on="id", suffix="_now")
    assert moved["quality_raw"].equals(moved["quality_raw_now"], check_names=False)
    assert (moved["quality"] != moved["quality_now"]).any(), "new rows move the quantiles of old ones"
    assert Store(place.store).read(table_of(models)).join(stored, on=["id", "turn", "raw"], how="semi").height == TURNS
    assert place.update().counts.scored == 0


def test_a_dry_run_counts_what_is_not_scored(selected, models, tmp_path):
    place, _ = selected
    file = tmp_path / "pool.jsonl"
    file.write_bytes((place.pool / "a.jsonl").read_bytes() + b'{"instruction": "New?", "output": "Yes."}\n')
    found = estimate([str(file)], place.settings(**models))
    assert (found.samples, found.to_score) == (len(FIRST) + 1, 1)


def test_the_table_of_values_is_whole_to_deita_doctor(selected):
    place, _ = selected
    assert {health.name: health.trouble for health in examine(Store(place.store)) if health.trouble} == {}


def test_scores_without_a_selection_have_the_values_beside_them(selected, models, tmp_path):
    from flows.score import score

    place, _ = selected
    out = tmp_path / "scores.parquet"
    counts = score([str(place.pool / "a.jsonl")], str(out), place.settings(**models))
    table = pl.read_parquet(out)
    assert counts == {"ok": 2 * TURNS}
    assert table["quality"].min() == 1 and table["quality"].max() == 6
    assert table.sort("quality_raw")["quality"].is_sorted()
    assert "complexity_raw" not in table.columns


def test_pairs_are_made_by_quantiles_of_the_values(prefect_server, models, tmp_path):
    from flows.pairs import pairs

    place = Place(tmp_path / "place").write(
        "answers.jsonl",
        [{**row, "output": f"{row['output']}{more}"} for row in ALPACA for more in ("", " Quite so.", " No, or so.")],
    )
    rules = PairRules(margin=1e-6, similarity=1)
    report = pairs([str(place.pool)], str(tmp_path / "pairs.parquet"), place.settings(**models), rules)
    assert isinstance(report, PairReport) and report.pairs == len(ALPACA)
    scores = pl.read_parquet(tmp_path / "pairs.parquet")["deita"].struct.unnest()
    assert scores["chosen_score"].max() == 6 and scores["rejected_score"].min() == 1


def test_both_axes_may_have_classifiers_and_labels_of_one_to_six_need_no_quantiles(
    prefect_server, models, tmp_path
):  # fmt: skip
    labels = ("1", "2", "3", "4", "5", "6")
    complexity = make_encoder_classifier(tmp_path / "bert", "bert", ("easy", "hard"))
    config = (complexity / "config.json").read_text()
    (complexity / "config.json").write_text(config.replace("{", '{"ordered_labels": ["easy", "hard"],', 1))
    quality = make_encoder_classifier(tmp_path / "deberta", "deberta-v2", labels)
    place = Place(tmp_path / "place").write("a.jsonl", FIRST)
    scorers = {"complexity_scorer": str(complexity), "quality_scorer": str(quality)}
    place.select(budget=3, **{**models, **scorers}, classifier_text="answer")
    decisions = place.decisions
    assert decisions["complexity_raw"].is_between(0, 1).all() and "quality_raw" not in decisions.columns
    asked, answered = ALPACA[1]["instruction"], ALPACA[1]["output"]
    scorer = load_scorer(str(quality), "quality", classifier_text="answer")
    row = decisions.row(by_predicate=pl.col("id") == place.id_of(asked), named=True)
    assert row["quality"] == pytest.approx(scorer.score([asked], [answered])["score"][0], rel=1e-4)
    assert place.update().job.settings.classifier_text == "answer"


def test_several_scorers_of_an_axis_are_combined_and_each_ones_values_are_told(selected, models):
    place, _ = selected
    both = [models["quality_scorer"], str(make_reward_llama(place.folder / "other", seed=1))]
    report = place.select(out=place.folder / "both", budget=3, **{**models, "quality_scorer": both})
    one = pl.read_parquet(place.folder / "both" / "decisions.parquet")
    # The first scorer has scored everything before.
    assert report.scored == len(Store(place.store).read(table_of({**models, "quality_scorer": both[1]})))
    assert {"quality_raw_1", "quality_raw_2"} <= set(one.columns) and "quality_raw" not in one.columns
    before = place.decisions.select("id", "quality_raw").join(one, on="id")
    assert before["quality_raw"].to_list() == before["quality_raw_1"].to_list()
    manifest = json.loads((place.folder / "both" / "manifest.json").read_text())
    assert manifest["settings"]["quality_scorer"] == both
    assert [scorer["name"] for scorer in manifest["scorers"]["quality"]["each"]] == both


def test_the_commands_take_a_scorer_more_than_once(prefect_server, models, tmp_path):
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in FIRST))
    words = ["--encoder", models["encoder"], "--complexity-scorer", models["complexity_scorer"], "--store", "store"]
    fast = str(make_heads(tmp_path / "heads", models["encoder"]) / "quality")
    twice = ["--quality-scorer", models["quality_scorer"], "--quality-scorer", fast]
    done = deita("score", "pool.jsonl", "--out", "scores.parquet", *words, *twice, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = pl.read_parquet(tmp_path / "scores.parquet")
    assert table["quality"].is_between(1, 6).all() and table["quality_raw_2"].is_between(1, 6).all()
    done = deita("select", "pool.jsonl", "--out", "out", *words, *twice, "--budget", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "0 turns scored" in done.stdout
    wrong = deita("select", "pool.jsonl", "--out", "out", *words, *twice[:2], *twice[:2], cwd=tmp_path)
    assert wrong.returncode == 2 and "quality_scorer cannot be" in wrong.stderr and "twice" in wrong.stderr


def test_a_text_that_no_classifier_reads_is_named(tmp_path, monkeypatch):
    from deita_core.config.settings import load_settings

    monkeypatch.setenv("DEITA_CLASSIFIER_TEXT", "whole")
    with pytest.raises(InputError, match=r"classifier_text cannot be 'whole': .*'chat', 'pair', 'answer'"):
        load_settings()
    monkeypatch.setenv("DEITA_CLASSIFIER_TEXT", "pair")
    models = {"quality_scorer": "some/reward-model"}
    assert load_settings(**models) == SelectionSettings(classifier_text="pair", **models)
