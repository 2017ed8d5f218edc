import json

import polars as pl
import pytest

from deita_core.config.settings import SelectionSettings
from deita_core.errors import InputError
from deita_core.selection.pairs import PairRules
from deita_core.store import Store
from tests.support.commands import deita
from tests.support.pools import ALPACA

ANSWERS = [
    {"instruction": row["instruction"], "output": f"{row['output']} {more}".strip()}
    for row in ALPACA
    for more in ("", "That is all there is to say.", "Ask again if a word of it is unclear, or look it up.")
]
EAGER = {"margin": 1e-6, "similarity": 1}


@pytest.fixture
def pool(tmp_path):
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ANSWERS))
    return tmp_path / "answers.jsonl"


def test_every_instruction_gives_a_pair_and_a_second_run_computes_nothing(prefect_server, tiny_models, pool, tmp_path):
    from flows.pairs import pairs

    settings = SelectionSettings(store=str(tmp_path / "store"), **tiny_models)
    report = pairs([str(pool)], str(tmp_path / "p.jsonl"), settings, PairRules(**EAGER), str(tmp_path / "d.parquet"))
    assert (report.pairs, report.read) == (len(ALPACA), len(ANSWERS))
    assert report.fates == {"in_between": 7, "paired": 14, "merged": 0}
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert {row["prompt"][0]["content"] for row in rows} == {row["instruction"] for row in ALPACA}
    assert len(pl.read_parquet(tmp_path / "d.parquet")) == len(ANSWERS)
    # Only quality counts.
    tables = Store(settings.store).versions()
    assert len([name for name in tables if name.startswith("scores__")]) == 1
    assert pairs([str(pool)], str(tmp_path / "again.jsonl"), settings, PairRules(**EAGER)) == report
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "p.jsonl").read_bytes()
    computed = [name for name in tables if name.startswith(("scores__", "vectors__"))]
    assert {name: Store(settings.store).versions()[name] for name in computed} == {n: tables[n] for n in computed}


def test_the_command_says_what_came_of_the_rows(prefect_server, tiny_models, pool, tmp_path):
    models = ["--encoder", tiny_models["encoder"], "--quality-scorer", tiny_models["quality_scorer"]]
    done = deita("pairs", pool, "--out", "p.jsonl", "--margin", "5", "--similarity", "1", *models, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "0 pairs in p.jsonl, of 21 rows read: " in done.stdout and "14 margin too small" in done.stdout
    assert "--preference both" in done.stdout


def test_a_name_that_says_no_format_is_refused_before_any_work(prefect_server, pool, tmp_path):
    from flows.pairs import pairs

    with pytest.raises(InputError, match="end its name"):
        pairs([str(pool)], str(tmp_path / "pairs.csv"), SelectionSettings(store=str(tmp_path / "untouched")))
    assert not (tmp_path / "untouched").exists()
