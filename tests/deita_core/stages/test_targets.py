"""Rows of a store compared with examples of tasks: likeness is the highest cosine of vectors as the pool has them."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from deita_core.errors import InputError
from deita_core.models.encoder_spec import find_encoder
from deita_core.reading.examples import read_examples
from deita_core.stages.candidates import candidate_vectors
from deita_core.stages.encoding import load_encoder
from deita_core.stages.targets import encode_examples, target_values
from deita_core.store import Store
from tests.support.stored_pool import StoredPool
from tests.support.tiny_llama import TOPICS

ROWS = [
    *([("user", f"What of {topic}?"), ("assistant", f"{topic} and more of it")] for topic in TOPICS),
    [("system", "Be brief."), ("user", "Name a fruit."), ("assistant", "Quince."), ("user", "And a sea?")],
]


@pytest.fixture(params=["sentence", "causal"])
def encoder(request, tiny_model, tiny_llama):
    name = str(tiny_model if request.param == "sentence" else tiny_llama)
    return find_encoder(name, "float32", pooling="weighted")


@pytest.fixture
def pool(tmp_path, encoder):
    pool = StoredPool(tmp_path / "pool", ROWS)
    pool.encode(encoder)
    return pool


def written(folder, *rows):
    path = folder / "like.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_examples(str(path))


def row_of(turns, task):
    return {"messages": [{"role": role, "content": text} for role, text in turns], "task": task}


def vectors_of(pool, encoder):
    blocks = candidate_vectors(pool.store, encoder, pool.ids.rename("id").to_frame())
    return {id_: vector for ids, block in blocks for id_, vector in zip(ids, block, strict=True)}


def test_a_row_of_the_pool_is_as_like_to_another_as_their_vectors_in_the_pool(pool, encoder, tmp_path):
    examples = written(tmp_path, row_of(ROWS[3], "third"), row_of(ROWS[-1], "last"), row_of(ROWS[5], "third"))
    key = encode_examples(pool.store, encoder, lambda: load_encoder(encoder), examples)
    found = target_values(pool.store, encoder, key, pool.ids)
    vectors = vectors_of(pool, encoder)
    wanted = {"third": [vectors[examples[i].conversation.id] for i in (0, 2)], "last": [
        vectors[examples[1].conversation.id]]}  # fmt: skip
    for id_, likeness, task in found.select("id", "likeness", "task").iter_rows():
        assert likeness == pytest.approx(max(float(vectors[id_] @ vector) for vector in wanted[task]), abs=1e-5)
    ranked = found.sort("score", descending=True)
    # Each task takes one of its own examples first.
    assert ranked["likeness"][0] == pytest.approx(1, abs=1e-5) and ranked["task"][0] == "third"
    assert ranked["id"][1] == examples[1].conversation.id and ranked["task"][:4].to_list() == ["third", "last"] * 2
    assert found["id"].to_list() == pool.ids.to_list() and found["reason"].null_count() == len(ROWS)


def test_examples_are_encoded_once_and_no_text_of_them_is_kept(pool, encoder, tmp_path):
    examples = written(tmp_path, {"prompt": "A question of hyacinths?"})
    key = encode_examples(pool.store, encoder, lambda: load_encoder(encoder), examples)
    assert encode_examples(pool.store, encoder, lambda: pytest.fail("encoded again"), examples) == key
    files = [path for path in pool.store.side.rglob("*") if path.is_file() and b"hyacinth" in path.read_bytes()]
    assert files == []
    others = written(tmp_path, {"prompt": "A question of hyacinths?", "task": "flowers"})
    assert encode_examples(pool.store, encoder, lambda: load_encoder(encoder), others) != key


def test_a_weight_below_1_needs_a_score_and_a_row_without_one_says_so(pool, encoder, tmp_path):
    examples = written(tmp_path, row_of(ROWS[3], "x"))
    key = encode_examples(pool.store, encoder, lambda: load_encoder(encoder), examples)
    evol = np.arange(len(ROWS), dtype=float)
    evol[4] = np.nan
    found = target_values(pool.store, encoder, key, pool.ids, evol, 0.25)
    assert found["reason"].to_list() == [None] * 4 + ["a turn has no readable score"] + [None] * (len(ROWS) - 5)
    assert found["score"].is_null().to_list() == found["reason"].is_not_null().to_list()


def test_an_example_without_a_known_word_is_an_error(tmp_path):
    folder = tmp_path / "static"
    folder.mkdir()
    save_file({"embeddings": np.array([[0, 0], [0, 1]], np.float32)}, folder / "model.safetensors")
    Tokenizer(WordLevel({"[UNK]": 0, "salt": 1}, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec"}))
    encoder, store = find_encoder(str(folder)), Store(tmp_path / "store")
    with pytest.raises(InputError, match="knows no word of 1 examples"):
        examples = written(tmp_path, {"prompt": "salt"}, {"prompt": "sea"})
        encode_examples(store, encoder, lambda: load_encoder(encoder), examples)
