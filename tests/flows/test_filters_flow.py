"""Selecting with filters; tests/deita_core/stages/test_filtering.py has what each of them leaves out."""

import json

import polars as pl
import pytest

from deita_core.reading.language import detector
from deita_core.stages.estimate import estimate
from deita_core.store import Store
from deita_core.tables import languages_table
from tests.support.commands import deita
from tests.support.languages import SENTENCES
from tests.support.pools import Place, talk

LOOP = "I do not know that. " * 12


def asked(code, number=6):
    return talk(SENTENCES[code][number % 6], SENTENCES[code][number])


ROWS = [
    *(asked(code, number) for code in ("en", "de", "fr") for number in (6, 7, 8)),
    talk(SENTENCES["en"][0], LOOP),
    talk("2 + 2 =", "4"),
]
FILTERS = {"language": "en,de", "max_repetition": 0.5, "where": "line != 1"}


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "place").write("a.jsonl", ROWS)


def reasons(place):
    """Fate and reason of each row, in the order of the file."""
    return place.decisions.sort("file", "line").select("fate", "reason").rows()


def test_a_flow_leaves_rows_out_with_their_reasons_and_an_update_does_so_again(prefect_server, tiny_models, place):
    estimated = estimate([str(place.pool)], place.settings(**tiny_models, **FILTERS))
    assert estimated.to_detect == len(ROWS)
    assert estimate([str(place.pool)], place.settings(**tiny_models)).to_detect == 0
    report = place.select(**tiny_models, **FILTERS)
    french = ("filtered", "its language is fr, not en or de")
    fates = reasons(place)
    assert fates[0] == ("filtered", "no row of it meets the condition of the setting where")
    assert fates[6:9] == [french] * 3
    # 60 words in a row, 5 of the 57 runs differ.
    assert fates[9] == ("filtered", "0.9123 of its answers' 4-grams are repeated, more than 0.5")
    assert fates[10] == ("filtered", "its language is not known to be en or de")
    assert {fate for fate, _ in fates[1:6]} <= {"selected", "near_duplicate"}
    assert report.chosen.filtered == 6
    ranks = place.decisions.filter(place.decisions["fate"] == "filtered")["rank"]
    assert ranks.null_count() == 6

    place.write("b.jsonl", [asked("fr", 9), asked("de", 10)])
    again = place.update()
    assert again.job.settings.language == ["en", "de"]
    assert again.chosen.filtered == 7
    assert reasons(place)[11] == ("filtered", "no row of it meets the condition of the setting where")
    assert reasons(place)[12][0] in ("selected", "near_duplicate")
    assert place.decisions.equals(place.from_scratch(**tiny_models, **FILTERS).decisions)


def test_languages_are_found_once_and_only_if_they_are_asked_for(prefect_server, tiny_models, place):
    table = languages_table(detector())
    place.select(**tiny_models)
    assert Store(place.store).count(table) == 0
    page = (place.out / "report.html").read_text(encoding="utf-8")
    assert "writing system" in page
    place.select(out=place.folder / "other", **tiny_models, per="language", cap=0.5, budget=4)
    assert Store(place.store).count(table) == len(ROWS)
    assert estimate([str(place.pool)], place.settings(**tiny_models, language="fr")).to_detect == 0
    page = (place.folder / "other" / "report.html").read_text(encoding="utf-8")
    assert 'scope="row">not known' in page and "writing system" not in page.partition("Clusters:")[0]


def test_a_share_of_each_language_is_held(prefect_server, tiny_models, place):
    place.select(**tiny_models, per="language", cap=0.25, budget=8)
    answers = {row["messages"][1]["content"] for row in place.lines()}
    said = {code: answers & {*SENTENCES[code], *([LOOP] if code == "en" else [])} for code in ("en", "de", "fr")}
    assert max(map(len, said.values())) <= 2
    assert len(answers) == sum(map(len, said.values())) + ("4" in answers) > 4


def test_answers_are_as_long_as_the_flags_say(prefect_server, tiny_models, place):
    place.select(**tiny_models, min_answer_tokens=5, max_answer_tokens=40)
    fates = reasons(place)
    assert fates[10][0] == "filtered" and fates[10][1].endswith("fewer than 5")
    assert fates[9][0] == "filtered" and fates[9][1].endswith("more than 40")


def test_a_smallest_score_is_one_of_complexity_times_quality_whatever_is_ranked_by(
    prefect_server, tiny_models, place
):  # fmt: skip
    place.select(**tiny_models)
    scores = dict(place.decisions.select("id", "score").iter_rows())
    middle = sorted(scores.values())[5]
    place.select(**tiny_models, rank="random", min_score=middle)
    filtered = place.decisions.filter(pl.col("fate") == "filtered")
    assert set(filtered["id"]) == {id_ for id_, score in scores.items() if score < middle}
    assert len(filtered) == 5
    assert filtered["reason"].str.starts_with("its score ").all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--where", "lines = 3"], "The condition 'lines = 3' cannot be read"),
        (["--language", "en,klingon"], "'yo' or 'zh'"),
        (["--min-answer-tokens", "9", "--max-answer-tokens", "8"], "at least 9 and at most 8 tokens"),
        (["--max-repetition", "2"], "max_repetition"),
    ],
)
def test_a_filter_that_cannot_be_is_one_sentence_and_nothing_is_done(arguments, said, tmp_path):
    place = Place(tmp_path).write("a.jsonl", ROWS)
    run = deita("select", place.pool, *arguments, "--dry-run", cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.startswith("deita: ") and run.stderr.count("\n") == 1
    assert said in run.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"pool"}


def test_a_condition_that_cannot_be_read_ends_a_run_before_its_store_is_made(prefect_server, tmp_path):
    place = Place(tmp_path).write("a.jsonl", ROWS)
    run = deita("select", place.pool, "--where", "line =", "--out", "out", cwd=tmp_path, PREFECT_API_URL=prefect_server)
    assert run.returncode == 2
    assert "The condition 'line =' cannot be read" in run.stderr
    assert not (tmp_path / ".deita").exists() and not (tmp_path / "out").exists()


def test_flags_reach_the_snapshot(prefect_server, tiny_models, place):
    flags = ["--encoder", tiny_models["encoder"], "--threshold", tiny_models["threshold"]]
    for axis in ("complexity", "quality"):
        flags += [f"--{axis}-scorer", tiny_models[f"{axis}_scorer"]]
    flags += ["--language", "de", "--min-score", "0.5", "--max-repetition", "0.9", "--where", "line > 0"]
    flags += ["--min-answer-tokens", "1", "--max-answer-tokens", "999", "--out", place.out, "--store", place.store]
    run = deita("select", place.pool, *flags, cwd=place.folder, PREFECT_API_URL=prefect_server)
    assert run.returncode == 0, run.stderr
    settings = json.loads((place.out / "manifest.json").read_text())["settings"]
    assert (settings["language"], settings["min_score"], settings["max_repetition"]) == (["de"], 0.5, 0.9)
    assert (settings["where"], settings["min_answer_tokens"], settings["max_answer_tokens"]) == ("line > 0", 1, 999)
    assert {row["messages"][1]["content"] for row in place.lines()} <= set(SENTENCES["de"])
