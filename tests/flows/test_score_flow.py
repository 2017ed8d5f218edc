import polars as pl
import pytest

from deita_core.config.settings import SelectionSettings
from deita_core.errors import InputError
from deita_core.store import Store
from tests.support.commands import deita
from tests.support.paths import ROOT

POOL = str(ROOT / "examples" / "pool")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("measure")


@pytest.fixture(scope="module")
def settings(place):
    return SelectionSettings(store=str(place / "store"))


@pytest.fixture(scope="module")
def scored(prefect_server, laptop, place, settings):
    """Scores of the examples, as each kind of file."""
    from flows.score import score

    files = [place / f"scores.{kind}" for kind in ("parquet", "csv", "jsonl")]
    counts = [score([POOL], str(file), settings) for file in files]
    assert counts[0] == counts[1] == counts[2]
    return files, counts[0]


def test_every_turn_has_a_row_with_both_scores_and_its_place(scored, settings):
    files, counts = scored
    table = pl.read_parquet(files[0])
    assert not table.select(pl.struct("id", "turn").is_duplicated().any()).item()
    assert table["complexity"].is_between(1, 6).all() and table["quality"].is_between(1, 6).all()
    assert counts == {"ok": 2 * len(table)}
    assert table["file"].is_not_null().all() and table["line"].min() >= 1


def test_the_kinds_of_file_hold_the_same(scored):
    files, _ = scored
    parquet, csv, lines = pl.read_parquet(files[0]), pl.read_csv(files[1]), pl.read_ndjson(files[2])
    assert parquet["id"].to_list() == csv["id"].to_list() == lines["id"].to_list()
    assert parquet["quality"].to_list() == pytest.approx(csv["quality"].to_list())
    assert parquet["quality"].to_list() == lines["quality"].to_list()


def test_a_selection_afterwards_scores_nothing_again(scored, settings, place):
    from flows.selection import select

    report = select([POOL], str(place / "selected"), settings.model_copy(update={"budget": 5}))
    assert (report.encoded, report.scored) == (0, 0)
    chosen = pl.read_parquet(place / "selected" / "selected.parquet")
    table = pl.read_parquet(scored[0][0])
    means = table.group_by("id").agg(pl.col("quality").mean())
    joined = chosen.join(means, on="id", suffix="_mean")
    assert joined["quality"].to_list() == pytest.approx(joined["quality_mean"].to_list())


def test_a_name_that_says_no_format_is_refused_before_any_work(prefect_server, place):
    from flows.score import score

    with pytest.raises(InputError, match="parquet"):
        score([POOL], str(place / "scores.xlsx"), SelectionSettings(store=str(place / "untouched")))
    assert not (place / "untouched").exists()


def test_calibration_needs_no_scores_and_holds_for_the_selection(prefect_server, laptop, place):
    from flows.score import calibrate

    settings = SelectionSettings(store=str(place / "vectors"))
    found = calibrate([POOL], settings, keep=0.9)
    assert not [name for name in Store(settings.store).tables() if name.startswith("scores")]
    shares = [kept.share for kept in found.kept]
    assert shares == sorted(shares) and found.wanted.share >= 0.9
    assert found == calibrate([POOL], settings, keep=0.9)


def test_the_commands_say_what_they_found(prefect_server, settings, scored, tmp_path):
    words = ["calibrate", POOL, "--store", settings.store, "--keep"]
    done = deita(*words, "0.5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "nearest neighbour" in done.stdout and "keeps 5" in done.stdout
    wrong = deita(*words, "2", cwd=tmp_path)
    assert wrong.returncode == 2 and "--keep" in wrong.stderr
