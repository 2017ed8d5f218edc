import json
import time
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from deita_core.config.settings import SelectionSettings
from deita_core.conversation import content_id, conversation, text_id
from deita_core.errors import InputError
from deita_core.models.causal_lm import load_tokenizer
from deita_core.models.encoder_spec import find_encoder
from deita_core.models.lm_encoder import LanguageModelEncoder, render
from deita_core.models.sentence_encoder import SentenceEncoder
from deita_core.scorers import ScorerFiles
from deita_core.stages import encoding, estimate
from deita_core.stages.candidates import BLOCK, candidate_vectors
from deita_core.stages.encoding import encode_shard, encoder_table, load_encoder, plan_encoding
from deita_core.stages.ingest import describe_file, ingest_file
from deita_core.stages.job import Job
from deita_core.stages.ranking import rank_pool
from deita_core.stages.selecting import select
from deita_core.stages.shards import read_shard
from deita_core.store import Store
from deita_core.tables import SAMPLES, scores_table

COMPLEXITY = ScorerFiles(name="c", axis="complexity", path=".", fingerprint="1" * 32)
QUALITY = ScorerFiles(name="q", axis="quality", path=".", fingerprint="2" * 32)
TALKS = [
    [("user", "Name a fruit."), ("assistant", "Quince.")],
    [("system", "Be brief."), ("user", "Name a fruit."), ("assistant", "Medlar.")],
    [("user", "Count to 99."), ("assistant", "1 2 3 " * 60)],
    [("user", "Hi"), ("assistant", "Hello"), ("user", "Bread?"), ("assistant", "Salt " * 40), ("user", "And?")],
    [("user", "What time is it?"), ("tool", "12:00"), ("assistant", " "), ("assistant", "Noon.")],
]


@pytest.fixture(scope="module")
def encoder(tiny_llama):
    return find_encoder(str(tiny_llama), "float32")


class Pool:
    """Conversations in a file and in a store."""

    def __init__(self, place, talks):
        self.file, self.store = place / "pool.jsonl", Store(place / "store")
        rows = [{"messages": [{"role": role, "content": text} for role, text in talk]} for talk in talks]
        self.file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        self.talks = {talk.id: talk for talk in map(conversation, talks)}
        self.file_ids = [ingest_file(self.store, describe_file(str(self.file))).file_id]

    def encode(self, encoder):
        """Encode what lacks a vector, the shards in reverse order; how many that was."""
        shards = plan_encoding(self.store, encoder, self.file_ids)
        return sum(encode_shard(self.store, load_encoder(encoder), shard) for shard in reversed(shards))

    def score(self, scores):
        """Write scores by sample and turn: (complexity, quality)."""
        for files, axis in ((COMPLEXITY, 0), (QUALITY, 1)):
            rows = [(id_, turn, pair[axis], "ok") for id_, pairs in scores.items() for turn, pair in enumerate(pairs)]
            table = scores_table(files.slug)
            self.store.write(table, pl.DataFrame(rows, schema=table.empty().schema, orient="row"))

    def job(self, encoder, **changes):
        told = {"turns": "sum", "training_tokens": 2_048, "budget": None, "threshold": 0.9, **changes}
        files = tuple(self.file_ids)
        settings = SelectionSettings(**told)
        return Job(
            run_id="r", file_ids=files, encoder=encoder, complexity=COMPLEXITY, quality=QUALITY, settings=settings
        )


@pytest.fixture
def pool(tmp_path):
    return Pool(tmp_path, TALKS)


# -- the table


def test_there_is_one_vector_for_each_conversation_under_its_sample_id(pool, encoder):
    assert pool.encode(encoder) == len(TALKS)
    rows = pool.store.read(encoder_table(encoder))
    assert sorted(rows["text_id"]) == sorted(pool.talks)
    model = LanguageModelEncoder(encoder, "cpu")
    for id_, n_tokens, vector in rows.iter_rows():
        text = render(pool.talks[id_], model.tokenizer)
        expected = model.encode([text])
        assert np.abs(np.array(vector) - expected.vectors[0]).max() <= 1e-5
        assert n_tokens == len(model.tokenizer(text)["input_ids"])


def test_nothing_is_encoded_twice_and_a_grown_pool_costs_what_is_new(pool, encoder, tmp_path):
    pool.encode(encoder)
    assert plan_encoding(pool.store, encoder, pool.file_ids) == []
    more = tmp_path / "more.jsonl"
    new = [{"role": "user", "content": "Name a sea."}, {"role": "assistant", "content": "Aral."}]
    more.write_text(pool.file.read_text() + json.dumps({"messages": new}) + "\n")
    pool.file_ids = [ingest_file(pool.store, describe_file(str(more))).file_id]
    assert pool.encode(encoder) == 1


def test_poolings_and_storages_have_tables_of_their_own(pool, tiny_llama):
    ways = [("last", "float32"), ("mean", "float32"), ("last", "float16")]
    for pooling, storage in ways:
        assert pool.encode(find_encoder(str(tiny_llama), "float32", pooling, storage)) == len(TALKS)
    assert len([name for name in pool.store.tables() if name.startswith("vectors__")]) == len(ways)


def test_float16_is_stored_as_such_and_read_as_float32(pool, tiny_llama, encoder):
    half = find_encoder(str(tiny_llama), "float32", storage="float16")
    pool.encode(encoder)
    pool.encode(half)
    stored = pool.store.read(encoder_table(half))
    assert stored.schema["vector"] == pl.Array(pl.Float16, 64)
    ids = list(pool.talks)
    full, read = (pool.store.vectors(encoder_table(files), ids) for files in (encoder, half))
    assert read.dtype == np.float32
    assert 0 < np.abs(full - read).max() < 2**-11
    assert np.array_equal(read, full.astype(np.float16).astype(np.float32))


# -- shards


def many(n):
    draw = np.random.default_rng(7)
    return [[("user", f"Story {i}?"), ("assistant", "word " * int(draw.integers(1, 400)))] for i in range(n)]


def test_shards_are_small_for_a_cpu_and_hold_conversations_of_like_length(encoder, tmp_path):
    pool = Pool(tmp_path, many(300))
    shards = plan_encoding(pool.store, encoder, pool.file_ids)
    sizes = [[pool.talks[id_].n_chars for id_ in read_shard(pool.store, shard)["id"]] for shard in shards]
    assert sum(map(len, sizes)) == 300
    assert len(sizes) > 10
    assert all(sum(size[:-1]) < encoding.CHARS_PER_CAUSAL_SHARD for size in sizes)
    assert all(a[-1] <= b[0] for a, b in pairwise(sizes))
    assert encoding.CHARS_PER_CAUSAL_SHARD * 10 < encoding.CHARS_PER_SHARD


def test_what_is_cut_away_counts_for_no_size(encoder, tmp_path):
    pool = Pool(tmp_path, [[("user", f"{i}?"), ("assistant", "long " * 20_000)] for i in range(12)])
    shards = plan_encoding(pool.store, encoder, pool.file_ids)
    # Of 8,192 characters each, at about 20,000 a shard.
    assert [shard.rows for shard in shards] == [3, 2, 3, 2, 2]


# -- choosing


def test_candidates_vectors_come_in_their_order(pool, encoder, monkeypatch):
    monkeypatch.setattr("deita_core.stages.candidates.BLOCK", 2)
    pool.encode(encoder)
    indices = pool.store.read(SAMPLES, ["id", "message_index"]).sort("id", descending=True)
    blocks = list(candidate_vectors(pool.store, encoder, indices))
    assert [len(ids) for ids, _ in blocks] == [2, 2, 1] and BLOCK > 2
    assert [id_ for ids, _ in blocks for id_ in ids] == indices["id"].to_list()
    model = LanguageModelEncoder(encoder, "cpu")
    expected = model.encode([render(pool.talks[id_], model.tokenizer) for id_ in indices["id"]]).vectors
    assert np.abs(np.concatenate([vectors for _, vectors in blocks]) - expected).max() <= 1e-5


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_a_conversation_too_like_a_better_one_is_blocked_by_it(storage, tiny_llama, tmp_path):
    """Two conversations that the model reads alike to its cut, and another."""
    encoder = find_encoder(str(tiny_llama), "float32", storage=storage)
    long = "bread salt " * 300
    talks = [[("user", "Say it."), ("assistant", long + end)] for end in ("1", "2")] + [TALKS[0]]
    pool = Pool(tmp_path, talks)
    pool.encode(encoder)
    first, second, third = (conversation(talk).id for talk in talks)
    pool.score({first: [(3, 3)], second: [(4, 4)], third: [(2, 2)]})
    chosen = select(pool.store, pool.job(encoder, threshold=0.99))
    assert (chosen.selected, chosen.near_duplicate, chosen.rejected) == (2, 1, 0)


def test_turns_fit_counts_the_tokens_of_messages_with_the_models_tokenizer(pool, encoder, tiny_llama):
    pool.encode(encoder)
    talk = conversation(TALKS[3])
    pool.score({id_: [(2, 2)] * len(t.turns) for id_, t in pool.talks.items()})
    tokenizer = load_tokenizer(tiny_llama)
    upto = [len(tokenizer(m.content, add_special_tokens=False)["input_ids"]) for m in talk.messages[:4]]
    for room, scored in ((sum(upto), 2), (sum(upto) - 1, 1)):
        ranked = rank_pool(pool.store, pool.job(encoder, turns="fit", training_tokens=room)).candidates
        assert ranked.filter(pl.col("id") == talk.id)["n_scored"].item() == scored


def test_blank_messages_and_single_turns_need_no_count(tmp_path, encoder):
    pool = Pool(tmp_path, [TALKS[0], TALKS[4]])
    indices = pool.store.read(SAMPLES, ["id", "message_index"])
    assert encoding.message_tokens(pool.store, encoder, indices.head(0)) == {}
    counted = encoding.message_tokens(pool.store, encoder, indices)
    assert set(counted) == {text_id(m.content) for t in pool.talks.values() for m in t.messages if not m.is_blank}


def test_many_conversations_are_counted_a_block_at_a_time(tmp_path, encoder, monkeypatch):
    pool = Pool(tmp_path, many(9))
    indices = pool.store.read(SAMPLES, ["id", "message_index"])
    whole = encoding.message_tokens(pool.store, encoder, indices)
    monkeypatch.setattr(encoding, "BLOCK", 2)
    assert encoding.message_tokens(pool.store, encoder, indices) == whole
    assert len(whole) == 18


# -- what it is not for


def test_single_texts_are_not_for_a_language_model_which_is_not_even_loaded(encoder, tiny_model, tmp_path):
    from tasks.embed import loaded_encoder

    with pytest.raises(InputError, match="reads whole conversations and no single texts") as refused:
        loaded_encoder(encoder.model_copy(update={"path": tmp_path / "nowhere"}))
    assert encoder.name in str(refused.value) and "\n" not in str(refused.value)
    assert isinstance(loaded_encoder(find_encoder(str(tiny_model), "float32")), SentenceEncoder)


# -- a dry run


@pytest.fixture
def settings(tiny_llama, tmp_path):
    names = {"encoder": str(tiny_llama), "complexity_scorer": str(tiny_llama), "quality_scorer": str(tiny_llama)}
    return SelectionSettings(preset="paper", store=str(tmp_path / "store"), precision="float32", **names)


def test_a_dry_run_counts_conversations_and_measures_the_model(pool, settings):
    found = estimate.estimate([str(pool.file)], settings)
    assert (found.samples, found.texts, found.to_encode, found.to_score) == (5, 5, 5, 5)
    assert found.chars_per_second > 0
    assert found.seconds == pytest.approx(sum(t.n_chars for t in pool.talks.values()) / found.chars_per_second)


def test_a_dry_run_knows_what_is_encoded_by_this_pooling(pool, settings, encoder):
    pool.encode(encoder)
    assert estimate.estimate([str(pool.file)], settings).to_encode == 0
    for change in ({"encoder_pooling": "mean"}, {"encoder_storage": "float16"}):
        assert estimate.estimate([str(pool.file)], settings.model_copy(update=change)).to_encode == 5


@pytest.mark.parametrize(("delay", "measured"), [(0.0, 60), (0.3, 4)])
def test_a_dry_run_measures_no_longer_than_it_must(delay, measured, settings, tmp_path, monkeypatch):
    """A slow model is asked for one conversation, one more, then for two at once, and that is enough."""
    pool, read = Pool(tmp_path, many(60)), []
    encode = LanguageModelEncoder.encode

    def slowly(model, texts):
        read.append(len(texts))
        time.sleep(delay * len(texts))
        return encode(model, texts)

    monkeypatch.setattr(LanguageModelEncoder, "encode", slowly)
    monkeypatch.setattr(estimate, "MEASURED_SECONDS", 0.9 if delay else 60.0)
    rate = estimate.estimate([str(pool.file)], settings).chars_per_second
    warming, *timed = read
    assert (warming, sum(timed)) == (1, measured)
    assert rate > 0


def test_ids_of_samples_and_texts_do_not_meet(pool):
    """Both may key a vectors table: one is of JSON, the other of a bare text."""
    texts = {text_id(m.content) for talk in pool.talks.values() for m in talk.messages}
    assert not texts & set(pool.talks) and content_id(b"") not in pool.talks
