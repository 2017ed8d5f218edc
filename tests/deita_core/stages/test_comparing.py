"""Figures of several selections of one pool, whose vectors, scores and tokens are written by hand."""

import numpy as np
import polars as pl
import pytest

from deita_core.errors import InputError
from deita_core.selection import set_figures
from deita_core.stages.comparing import Run, check_field, compare_runs
from deita_core.stages.selecting import decisions_of, select
from deita_core.stages.token_counts import TokenizerFiles
from tests.support.pool_by_hand import Pool, at, job

WORDS = TokenizerFiles(name="words", fingerprint="9" * 32)
N = 24


@pytest.fixture
def pool(tmp_path):
    made = Pool(tmp_path / "store")
    for i in range(N):
        made.add(str(i), at(7 * i), (6 - 0.2 * i, 1 + 0.1 * i), good=i % 3, kind="ab"[i % 2])
    rows = [{"id": id_, "tokens": 10 + int(name), "answer_tokens": 5} for id_, name in made.name_of.items()]
    made.store.write(WORDS.table, pl.DataFrame(rows, schema=WORDS.table.empty().schema))
    return made


def runs(pool, *wanted):
    made = []
    for strategy, seed in wanted:
        one = job(strategy=strategy, seed=seed, budget=6, clusters=4).model_copy(
            update={"run_id": f"{strategy} {seed}", "tokenizer": WORDS}
        )
        select(pool.store, one)
        made.append(Run(strategy, seed, one))
    return made


def test_every_figure_is_that_of_the_rows_selected(pool):
    made = runs(pool, ("deita", 0), ("random", 0), ("random", 1))
    found = compare_runs(pool.store, made, "good")
    values = {(arm, seed, figure): value for arm, seed, figure, value in found.figures.iter_rows()}
    vectors = np.array([at(7 * i) for i in range(N)], np.float32)
    for run in made:
        ids = decisions_of(pool.store, run.job, ["id", "fate"]).filter(pl.col("fate") == "selected")["id"]
        places = [int(pool.name_of[id_]) for id_ in ids]
        own = {
            figure: value for (arm, seed, figure), value in values.items() if (arm, seed) == (run.strategy, run.seed)
        }
        assert own["rows"] == 6
        assert own["tokens"] == sum(10 + i for i in places)
        assert own["complexity"] == pytest.approx(np.mean([6 - 0.2 * i for i in places]))
        assert own["score"] == pytest.approx(np.mean([(6 - 0.2 * i) * (1 + 0.1 * i) for i in places]))
        assert own["good (mean)"] == pytest.approx(np.mean([i % 3 for i in places]))
        assert own["nearest similarity"] == pytest.approx(set_figures.nearest_similarity(vectors[places]), abs=1e-5)
        assert own["sources unlike the pool"] == 0
        subset = found.subsets.filter(arm=run.strategy, seed=run.seed)
        assert subset["id"].to_list() == ids.to_list()
    assert values["pool", 0, "rows"] == N
    assert values["pool", 0, "score above its length"] == pytest.approx(0, abs=1e-9)


def test_a_truth_in_words_gives_the_share_of_each_value(pool):
    found = compare_runs(pool.store, runs(pool, ("deita", 0)), "kind").figures
    shares = {figure: value for arm, _, figure, value in found.iter_rows() if arm == "deita" and "kind" in figure}
    assert set(shares) == {"kind a", "kind b"}
    assert sum(shares.values()) == pytest.approx(1)
    with pytest.raises(InputError, match="No row of the pool has a field 'absent'"):
        check_field(pool.store, job(), "absent")
