import shutil
from itertools import chain

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.errors import ModelError
from deita_core.models.encoder_spec import LAPTOP_ENCODER, find_encoder
from deita_core.models.sentence_encoder import SHORT_TEXT_TOKENS, SentenceEncoder, padded_batches, split_evenly

ENGLISH = "The rain had stopped by noon, and the children ran out to see how far the river had risen over the meadow."
CHINESE = "请用三句话解释为什么天空是蓝色的，并举一个生活中的例子来说明光的散射现象。"
CODE = "def fib(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n\nprint(fib(10))"
LONG = " ".join(
    f"Paragraph {i}: the committee discussed item {i * 7} and postponed it to week {i % 52}." for i in range(36)
)
WITHIN_A_WINDOW = [
    "a",
    "7",
    "OK",
    "?",
    "Yes, it is.",
    "hello world",
    "one two three four five six seven eight nine ten eleven",
    ENGLISH,
    ENGLISH * 4,
    CHINESE,
    CHINESE * 3,
    CODE,
    "🎉🎉 naïve café — Größe, ñandú; “quotes”",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "x" * 300,
    "  leading and trailing blanks \n\n",
]
SWAPPED = {"hello": "salt", "salt": "hello"}
VARIED = [*WITHIN_A_WINDOW, LONG, CHINESE * 14, CODE * 7]


def cosines(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module")
def varied(laptop):
    """The varied texts, encoded in float32."""
    return laptop.encode(VARIED)


@pytest.fixture(scope="module")
def varied_in_bfloat16(laptop_bfloat16):
    """The same, in bfloat16."""
    return laptop_bfloat16.encode(VARIED)


# -- the real encoder


def test_texts_within_a_window_get_the_vectors_of_plain_sentence_transformers(laptop):
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(laptop.files.path), device="cpu")
    expected = plain.encode(WITHIN_A_WINDOW, normalize_embeddings=True)
    assert np.abs(laptop.encode(WITHIN_A_WINDOW).vectors - expected).max() <= 1e-5


def test_every_vector_is_float32_of_length_one(varied):
    vectors = varied.vectors
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(VARIED), 384)
    assert np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max() < 1e-6


def test_bfloat16_stays_within_a_cosine_of_0_9999_of_float32(varied, varied_in_bfloat16):
    found = cosines(varied.vectors, varied_in_bfloat16.vectors)
    assert found.min() >= 0.9999, VARIED[int(found.argmin())][:60]


def test_the_tail_of_a_long_text_is_read(laptop):
    on_bread = "To bake bread, mix flour, water, salt and yeast, knead the dough, let it rise and bake it hot."
    bread, plain, ending = laptop.encode([on_bread, LONG, f"{LONG} {' '.join([on_bread] * 8)}"]).vectors
    assert plain @ ending < 0.999
    assert bread @ ending > bread @ plain + 0.05


def test_swapping_two_windows_worth_of_text_keeps_both_in_the_vector(laptop):
    first, second = ENGLISH * 12, CODE * 6
    a, b, ab = laptop.encode([first, second, first + second]).vectors
    assert ab @ a > a @ b and ab @ b > a @ b


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "encoded"), [("laptop", "varied"), ("laptop_bfloat16", "varied_in_bfloat16")])
def test_a_vector_does_not_depend_on_the_order_of_the_texts(encoder, encoded, request):
    order = np.random.default_rng(3).permutation(len(VARIED))
    straight = request.getfixturevalue(encoded)
    shuffled = request.getfixturevalue(encoder).encode([VARIED[i] for i in order])
    assert np.abs(straight.vectors[order] - shuffled.vectors).max() <= 1e-6
    assert np.array_equal(straight.n_tokens[order], shuffled.n_tokens)


def test_a_vector_does_not_depend_on_the_texts_beside_it(laptop, varied):
    alone = np.vstack([laptop.encode([text]).vectors for text in VARIED])
    assert np.abs(varied.vectors - alone).max() <= 1e-6


def test_small_batches_give_the_same_vectors(laptop, varied):
    small = SentenceEncoder(laptop.files, device="cpu", max_tokens_per_batch=64)
    assert np.abs(small.encode(VARIED).vectors - varied.vectors).max() <= 1e-6


def test_a_text_given_twice_gets_one_vector_twice(laptop):
    vectors = laptop.encode([ENGLISH, CODE, ENGLISH]).vectors
    assert np.abs(vectors[0] - vectors[2]).max() <= 1e-6


def test_n_tokens_counts_the_whole_text_with_its_special_tokens(laptop, varied):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(laptop.files.path)
    expected = [len(tokenizer(text, truncation=False)["input_ids"]) for text in VARIED]
    assert varied.n_tokens.dtype == np.int32
    assert varied.n_tokens.tolist() == expected
    assert max(expected) > 2 * 256


def test_no_texts_are_no_vectors(laptop):
    encoded = laptop.encode([])
    assert encoded.vectors.shape == (0, 384)
    assert encoded.n_tokens.shape == (0,)


def test_like_texts_are_more_alike_than_unlike_ones(laptop):
    a, b, c = laptop.encode(["How do I bake bread?", "What is a good way to bake a loaf?", CODE]).vectors
    assert a @ b > 0.5 > a @ c


# -- finding


def test_other_weights_under_the_laptop_encoders_name_are_refused(laptop, tmp_path, monkeypatch):
    folder = tmp_path / LAPTOP_ENCODER
    shutil.copytree(laptop.files.path, folder)
    monkeypatch.chdir(tmp_path)
    assert find_encoder(LAPTOP_ENCODER, "float32").fingerprint == laptop.files.fingerprint
    weights = folder / "model.safetensors"
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    with pytest.raises(ModelError, match="not those published") as refused:
        find_encoder(LAPTOP_ENCODER, "float32")
    assert "install the laptop extra again" in str(refused.value)


def test_a_model_that_is_nowhere_is_one_sentence():
    with pytest.raises(ModelError, match="no-such-org/no-such-model") as refused:
        find_encoder("no-such-org/no-such-model")
    assert "\n" not in str(refused.value)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        find_encoder(str(tmp_path))


def test_a_folder_that_is_no_sentence_transformers_model_is_refused(tiny_model, tmp_path):
    shutil.copy(tiny_model / "model.safetensors", tmp_path)
    with pytest.raises(ModelError, match="does not hold a sentence-transformers model"):
        find_encoder(str(tmp_path))


# -- a model in a folder


def test_a_model_in_a_folder_encodes_like_sentence_transformers(tiny_model):
    from sentence_transformers import SentenceTransformer

    texts = ["hello world", "the fox runs, bread!", "面包", "q", "a dog runs . " * 5]
    files = find_encoder(str(tiny_model), "float32")
    encoder = SentenceEncoder(files, device="cpu")
    assert files.dim == encoder.dim == 16
    plain = SentenceTransformer(str(tiny_model), device="cpu").encode(texts, normalize_embeddings=True)
    assert np.abs(encoder.encode(texts).vectors - plain).max() <= 1e-5


def test_a_model_in_a_folder_reads_past_its_window(tiny_model):
    encoder = SentenceEncoder(find_encoder(str(tiny_model), "float32"), device="cpu")
    whole, head = encoder.encode(["hello world " * 30 + "bread salt fox " * 30, "hello world " * 30]).vectors
    assert np.abs(whole - head).max() > 1e-3


def test_the_fingerprint_names_the_content_and_not_the_place(tiny_model, tmp_path):
    copy = shutil.copytree(tiny_model, tmp_path / "elsewhere")
    (copy / "README.md").write_text("other words")
    assert find_encoder(str(copy), "float32").fingerprint == find_encoder(str(tiny_model), "float32").fingerprint


def test_another_precision_is_another_fingerprint(tiny_model):
    full, half = (find_encoder(str(tiny_model), precision) for precision in ("float32", "bfloat16"))
    assert full.fingerprint != half.fingerprint
    assert full.slug != half.slug
    assert full.weights == half.weights


def test_other_weights_are_another_fingerprint(tiny_model, other_tiny_model):
    one, other = (find_encoder(str(folder), "float32") for folder in (tiny_model, other_tiny_model))
    assert one.weights != other.weights
    assert one.fingerprint != other.fingerprint


def test_another_window_is_another_fingerprint(tiny_model, tmp_path):
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    config = copy / "sentence_bert_config.json"
    config.write_bytes(orjson.dumps({**orjson.loads(config.read_bytes()), "max_seq_length": 16}))
    assert find_encoder(str(copy), "float32").fingerprint != find_encoder(str(tiny_model), "float32").fingerprint


def test_other_weights_of_a_dense_layer_are_another_fingerprint(tiny_model, tmp_path):
    """EncoderFiles: `fingerprint` names everything its vectors depend on."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Pooling, Transformer

    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        modules = [Transformer(str(tiny_model)), Pooling(16), Dense(16, 8)]
        folder = tmp_path / str(seed)
        SentenceTransformer(modules=modules, device="cpu").save(str(folder))
        files = find_encoder(str(folder), "float32")
        assert files.dim == 8
        found.append((SentenceEncoder(files, device="cpu").encode(["hello world"]).vectors, files.fingerprint))
    (one, fingerprint), (other, other_fingerprint) = found
    assert np.abs(one - other).max() > 1e-3
    assert fingerprint != other_fingerprint


def test_another_vocabulary_is_another_fingerprint(tiny_model, tmp_path):
    """A model may keep its vocabulary in vocab.txt alone; its vectors depend on that as well."""
    words = list(orjson.loads((tiny_model / "tokenizer.json").read_bytes())["model"]["vocab"])
    found = []
    for name, vocabulary in (("one", words), ("other", [SWAPPED.get(word, word) for word in words])):
        copy = shutil.copytree(tiny_model, tmp_path / name)
        (copy / "tokenizer.json").unlink()
        (copy / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        files = find_encoder(str(copy), "float32")
        found.append((SentenceEncoder(files, device="cpu").encode(["hello world"]).vectors, files.fingerprint))
    (one, fingerprint), (other, other_fingerprint) = found
    assert np.abs(one - other).max() > 1e-3
    assert fingerprint != other_fingerprint


# -- cutting and batching


@given(st.lists(st.integers(0, 30_000), max_size=400), st.integers(1, 60))
def test_split_evenly_loses_nothing_and_keeps_to_the_size(items, size):
    parts = list(split_evenly(items, size))
    assert list(chain.from_iterable(parts)) == items
    assert all(len(part) <= size for part in parts)


@given(st.integers(0, 5_000), st.integers(1, 300))
def test_split_evenly_cuts_the_fewest_parts_of_about_one_length(n, size):
    lengths = [len(part) for part in split_evenly(list(range(n)), size)]
    assert len(lengths) == max(1, -(-n // size))
    assert max(lengths) - min(lengths) <= 1


WINDOWS = st.lists(st.integers(0, 40), max_size=200).map(
    lambda lengths: [(i, [i] * n) for i, n in enumerate(sorted(lengths))]
)


@given(WINDOWS, st.integers(1, 500))
def test_padded_batches_lose_nothing(windows, budget):
    batches = [batch for _, batch in padded_batches(windows, 2, 64, budget)]
    assert sorted(chain.from_iterable(batches)) == sorted(windows)


@given(WINDOWS, st.integers(1, 500))
def test_a_padded_batch_is_within_the_budget_or_one_window(windows, budget):
    for width, batch in padded_batches(windows, 2, 64, budget):
        assert len(batch) == 1 or len(batch) * width <= budget
        assert all(len(ids) + 2 <= width for _, ids in batch)


@given(WINDOWS, st.integers(1, 500))
def test_short_windows_and_long_ones_never_share_a_batch(windows, budget):
    for _, batch in padded_batches(windows, 2, 64, budget):
        assert len({len(ids) + 2 <= SHORT_TEXT_TOKENS for _, ids in batch}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["laptop", "laptop_bfloat16"])
def test_a_vector_is_the_same_to_the_last_bit_whatever_is_encoded_with_it(name, request):
    encoder = request.getfixturevalue(name)
    texts = [ENGLISH, CHINESE, CODE, LONG, "OK", ENGLISH * 4]
    together = encoder.encode(texts).vectors
    for text, vector in zip(texts, together, strict=True):
        assert np.array_equal(encoder.encode([text]).vectors[0], vector)
