import json

import pytest

from deita_core.config.settings import SelectionSettings
from deita_core.errors import InputError
from deita_core.models.encoder_spec import find_encoder
from deita_core.models.sentence_encoder import SentenceEncoder
from deita_core.scorers import find_scorer, load_scorer
from deita_core.stages.encoding import encode_shard, plan_encoding
from deita_core.stages.estimate import estimate
from deita_core.stages.ingest import describe_file, ingest_file
from deita_core.stages.scoring import plan_scoring, score_shard
from deita_core.store import Store

ROWS = [{"instruction": f"What is {n} plus {n}?", "output": f"It is {2 * n}."} for n in range(1, 9)]
SHARED_ANSWER = {"instruction": "What is 4 plus 4, again?", "output": "It is 8."}
TWO_TURNS = {
    "messages": [
        {"role": "user", "content": "Name a fruit."},
        {"role": "assistant", "content": "Quince."},
        {"role": "user", "content": "Another."},
        {"role": "assistant", "content": " "},
        {"role": "assistant", "content": "Medlar."},
    ]
}


@pytest.fixture
def pool(tmp_path, monkeypatch, laptop):
    """13 rows in two files: 8 distinct ones, one twice more, an answer met before, two rejects, one of two turns."""
    monkeypatch.chdir(tmp_path)
    rows = [*ROWS, ROWS[0], SHARED_ANSWER, {"instruction": "", "output": "x"}, {"instruction": "No answer?"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.jsonl").write_text(json.dumps(TWO_TURNS) + "\n" + json.dumps(TWO_TURNS) + "\n")
    return [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]


def everything_below(folder):
    return {path: path.stat().st_mtime_ns if path.is_file() else None for path in folder.rglob("*")}


def fill(store, files, settings):
    """Read, encode and score some files."""
    encoder = find_encoder(settings.encoder, settings.precision)
    ids = [ingest_file(store, describe_file(file)).file_id for file in files]
    model = SentenceEncoder(encoder)
    for shard in plan_encoding(store, encoder, ids):
        encode_shard(store, model, shard)
    for axis in ("complexity", "quality"):
        scorer = find_scorer("laptop", axis, encoder)
        for shard in plan_scoring(store, [scorer], ids):
            score_shard(store, [(load_scorer("laptop", axis), scorer)], encoder, shard)


def test_rows_samples_and_texts_are_counted(pool):
    found = estimate(pool, SelectionSettings())
    assert (found.files, found.rows, found.rejects) == (2, 14, 2)
    assert found.samples == 8 + 1 + 1
    # Eight questions and answers, a ninth question whose answer is there, and four messages that are not blank.
    assert found.texts == 8 + 8 + 1 + 4


def test_files_of_a_folder_that_cannot_be_read_are_told_about_and_not_counted(pool, tmp_path):
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "other.json").write_text('{"x": 1}')
    (tmp_path / "dataset_info.json").write_text("{}")
    found = estimate([str(tmp_path)], SelectionSettings())
    assert (found.files, found.rows, found.rejects) == (2, 15, 3)
    assert [line.partition(str(tmp_path))[2].split()[0] for line in found.warnings] == [
        "/dataset_info.json",
        "/empty.jsonl",
        "/other.json",
    ]
    assert estimate([str(tmp_path)], SelectionSettings(leave_out=["[d-o]*"])).warnings == []
    with pytest.raises(InputError, match="is empty"):
        estimate([str(tmp_path / "empty.jsonl")], SelectionSettings())


def test_without_a_store_everything_is_to_do(pool):
    found = estimate(pool, SelectionSettings())
    assert (found.to_encode, found.to_score) == (found.texts, found.samples)
    assert found.seconds > 0
    assert found.chars_per_second > 0


def test_the_time_of_the_other_preset_is_told_and_its_models_are_not_made(pool, tmp_path, monkeypatch):
    monkeypatch.setenv("DEITA_CACHE", str(tmp_path / "cache"))
    laptop, fast = estimate(pool, SelectionSettings()), estimate(pool, SelectionSettings(preset="fast"))
    assert laptop.fast_is_made is fast.fast_is_made is False
    assert list(laptop.others) == ["fast"] and list(fast.others) == ["laptop"]
    assert min(laptop.seconds, laptop.others["fast"], fast.seconds, fast.others["laptop"]) > 0
    assert (fast.to_encode, fast.to_score) == (fast.texts, fast.samples)
    assert not (tmp_path / "cache").exists()


def test_an_encoder_of_no_preset_is_not_compared(pool, tiny_models):
    found = estimate(pool, SelectionSettings(**tiny_models))
    assert (found.others, found.fast_is_made) == ({}, True)


def test_nothing_is_written(pool, tmp_path):
    before = everything_below(tmp_path)
    estimate(pool, SelectionSettings())
    estimate(pool, SelectionSettings(store=str(tmp_path / "elsewhere" / "store")))
    assert everything_below(tmp_path) == before


def test_what_the_store_has_is_not_to_do_and_the_store_stays_as_it_is(pool, tmp_path):
    settings = SelectionSettings(store=str(tmp_path / "store"))
    fill(Store(settings.store), pool[:1], settings)
    before = everything_below(tmp_path)
    found = estimate(pool, settings)
    assert (found.texts, found.to_encode, found.to_score) == (21, 4, 1)
    whole = estimate(pool[:1], settings)
    assert (whole.to_encode, whole.to_score, whole.seconds, whole.chars_per_second) == (0, 0, 0, None)
    assert everything_below(tmp_path) == before


def test_vectors_of_another_precision_do_not_count(pool, tmp_path):
    settings = SelectionSettings(store=str(tmp_path / "store"), precision="float32")
    fill(Store(settings.store), pool[:1], settings)
    assert estimate(pool[:1], settings).to_encode == 0
    assert estimate(pool[:1], settings.model_copy(update={"precision": "bfloat16"})).to_encode == 17


@pytest.mark.parametrize(("limit", "files_rows", "samples"), [(3, 3, 3), (12, 12, 9), (13, 13, 10), (100, 14, 10)])
def test_the_limit_counts_the_rows_of_all_files(limit, files_rows, samples, pool):
    found = estimate(pool, SelectionSettings(limit=limit))
    assert (found.rows, found.samples) == (files_rows, samples)


def test_a_pool_that_is_not_there_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        estimate([str(tmp_path / "nowhere.jsonl")], SelectionSettings())


def test_texts_that_the_language_model_of_an_order_reads_are_counted(pool, tiny_llama):
    def found(rank):
        return estimate(pool, SelectionSettings(rank=rank, rank_model=str(tiny_llama))).to_read

    # Each of 10 conversations given its instruction, alone, and after 8 others.
    assert [found(rank) for rank in ("evol", "perplexity", "ifd", "wici")] == [0, 10, 20, 100]
