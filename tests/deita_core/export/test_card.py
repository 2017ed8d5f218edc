import re

import polars as pl
import pytest

from deita_core.export.card import dataset_card, with_pictures
from deita_core.export.files import SELECTED_SCHEMA, Changed, place_selection, prepare_selection
from deita_core.export.markdown import markdown_table

MANIFEST = {
    "counts": {"read": 4, "selected": 2, "near_duplicate": 1, "over_budget": 0, "rejected": 1, "merged": 0},
    "settings": {
        "budget": None,
        "threshold": 0.9,
        "turns": "mean",
        "training_tokens": 2_048,
        "rank": "evol",
        "diversity": "threshold",
    },
    "threshold": 0.9,
    "encoder": {"name": "an/encoder", "precision": "float32"},
    "scorers": {"quality": {"name": "laptop", "fingerprint": "f" * 64}},
}
DECISIONS = pl.DataFrame({"file": ["a"] * 4, "line": [1, 2, 3, 4], "fate": ["selected", "rejected", None, "selected"]})


def selection(file="pool.jsonl"):
    facts = {"score": 12.5, "complexity": 2.5, "quality": 5.0, "n_scored": 1, "copies": 1, "file": file}
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    rows = [
        {"id": str(n), "rank": n, "nearest": None, "similarity": None, "line": n, "messages": messages, "fields": "{}"}
        | facts
        for n in (1, 2)
    ]
    return pl.DataFrame(rows, schema=SELECTED_SCHEMA)


@pytest.fixture
def folder(tmp_path):
    """A selection's folder, with the files of an update as well."""
    rows = selection()
    changed = Changed(rows.select("id", reason=pl.lit("new")), rows.select("id", "rank"), "# Changes\n")
    card = dataset_card(rows, MANIFEST)
    names = prepare_selection(tmp_path / "out", rows, DECISIONS, MANIFEST, card, "messages", changed)
    place_selection(tmp_path / "out", names)
    return tmp_path / "out"


def test_datasets_loads_the_folder_as_the_selection_and_the_decisions_by_name(folder, tmp_path):
    from datasets import load_dataset

    selected = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert list(selected) == ["train"] and selected["train"]["rank"][:] == [1, 2]
    assert selected["train"][0]["messages"][1] == {"role": "assistant", "content": "So.", "extra": None}
    decisions = load_dataset(str(folder), "decisions", split="train", cache_dir=str(tmp_path / "cache"))
    assert decisions["fate"][:] == DECISIONS["fate"].to_list()


def test_the_hub_reads_the_cards_front_matter(folder):
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(folder / "README.md")
    assert card.data.task_categories == ["text-generation"] and "deita" in card.data.tags
    assert [config["config_name"] for config in card.data["configs"]] == ["selected", "decisions"]
    assert card.text.lstrip().startswith("# 2 conversations selected from 4\n")


def test_the_card_says_how_it_was_made_and_where_every_row_went():
    text = dataset_card(selection(), MANIFEST)
    assert "| encoder | an/encoder (float32) |" in text
    assert "| skipped: near-duplicates of a better one | 1 |" in text
    assert "| score | 12.500 | 12.500 | 12.500 |" in text
    assert "complexity times quality of each turn" in text and "| threshold | 0.9 |" in text


def test_the_card_of_another_strategy_does_not_speak_of_evol_scores_and_a_threshold():
    settings = MANIFEST["settings"] | {"rank": "random", "diversity": "none", "language": ["en", "de"], "cap": 0.25}
    text = dataset_card(selection(), MANIFEST | {"settings": settings})
    assert "Selected in the order `random`, kept apart by the rule `none`." in text
    assert "complexity times quality" not in text and "| threshold |" not in text
    assert "| language | en, de |" in text and "| cap | 0.25 |" in text


def test_pictures_stand_in_the_card_once_and_a_card_of_ones_own_is_left_alone():
    card = dataset_card(selection(), MANIFEST)
    shown = with_pictures(card, "a.svg", "b.svg")
    assert re.findall(r"^!\[[^\]]+\]\((.+)\)$", shown, re.MULTILINE) == ["a.svg", "b.svg"]
    assert [line for line in shown.splitlines() if line and not line.startswith("![")] == [
        line for line in card.splitlines() if line
    ]
    assert with_pictures(shown, "a.svg", "b.svg") == shown
    assert with_pictures("# My own words\n", "a.svg", "b.svg") == "# My own words\n"


def test_a_name_of_a_file_cannot_break_the_table_it_stands_in():
    text = dataset_card(selection("a|b\n# <b>c`.jsonl"), MANIFEST)
    assert "| a\\|b \\# \\<b\\>c\\`.jsonl | 2 |" in text


def test_a_table_has_a_line_for_the_header_and_each_row_and_is_markdown_where_it_is_read():
    table = markdown_table(("a", "b"), [(1, None), ("x | y", 2.5)])
    assert table == "| a | b |\n| --- | --- |\n| 1 | None |\n| x \\| y | 2.5 |"
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in table.splitlines())
