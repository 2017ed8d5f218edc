"""Static encoders: found by their module, equal to the library's vectors, and usable wherever an encoder is."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize, StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from benchmarks.tiny import make_head
from deita_core.config.settings import SelectionSettings
from deita_core.errors import ModelError
from deita_core.models import static_encoder, static_layers
from deita_core.models.encoder_spec import find_encoder
from deita_core.models.static_encoder import StaticEncoder, count_tokens, load_text_encoder
from deita_core.scorers import find_scorer, load_found, load_scorer
from deita_core.stages.encoding import encode_shard, load_encoder, plan_encoding
from deita_core.stages.ingest import describe_file, ingest_file
from deita_core.stages.job import Job
from deita_core.stages.scoring import plan_scoring, score_shard
from deita_core.stages.selecting import decisions_of, select
from deita_core.store import Store
from tests.support.paths import ROOT

WORDS = ["[UNK]", *"the a of bread salt fox bake cat dog runs . , ? ! 1 2 3 面 包".split()]  # noqa: SIM905
DIM = 24
TEXTS = ["the cat runs .", "bake bread , a dog ?", "面包", "the " * 5_000, "salt", "zebra cat"]


def tokenizer():
    made = Tokenizer(WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    return made


def table():
    return np.random.default_rng(0).normal(size=(len(WORDS), DIM)).astype(np.float32)


def save_static(folder, *further):
    SentenceTransformer(modules=[StaticEmbedding(tokenizer(), table()), *further], device="cpu").save(str(folder))
    return folder


def save_model2vec(folder):
    folder.mkdir()
    save_file({"embeddings": table()}, folder / "model.safetensors")
    tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_static(tmp_path_factory.mktemp("static") / "encoder")


@pytest.fixture(scope="module")
def encoder(folder):
    return StaticEncoder(find_encoder(str(folder)))


def library(folder, texts):
    vectors = SentenceTransformer(str(folder), device="cpu").encode(list(texts)).astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


USUAL = {
    "bare": [],
    "normalized": [Normalize()],
    "dense": [Dense(DIM, 8, bias=False)],
    "linear": [Normalize(), Dense(DIM, 8, activation_function=torch.nn.Identity()), Normalize()],
}
OTHER = {
    "relu": [Dense(DIM, 8, activation_function=torch.nn.ReLU())],
    "residual": [Dense(DIM, 8, use_residual=True)],
    "layer norm": [LayerNorm(DIM)],
    "another name": [Normalize(module_output_name="other")],
}


@pytest.mark.parametrize("further", [*USUAL.values(), *OTHER.values()], ids=[*USUAL, *OTHER])
def test_vectors_are_the_librarys_of_any_modules(tmp_path, further):
    save_static(tmp_path / "encoder", *further)
    files = find_encoder(str(tmp_path / "encoder"))
    encoded = load_text_encoder(files).encode(TEXTS)
    assert files.kind == "static" and files.precision == "float32"
    assert encoded.vectors.shape == (len(TEXTS), files.dim) and encoded.vectors.dtype == np.float32
    assert np.abs(encoded.vectors - library(tmp_path / "encoder", TEXTS)).max() < 1e-6


@pytest.mark.parametrize("further", USUAL.values(), ids=USUAL)
def test_usual_layers_give_the_librarys_vectors_to_the_last_bit(tmp_path, further, monkeypatch):
    files = find_encoder(str(save_static(tmp_path / "encoder", *further)))
    alone = StaticEncoder(files).encode(TEXTS)
    monkeypatch.setattr(static_encoder, "load_layers", static_layers._by_library)
    assert np.array_equal(StaticEncoder(files).encode(TEXTS).vectors, alone.vectors)


@pytest.mark.parametrize("name", [*USUAL, "relu"])
def test_the_library_is_imported_only_for_unusual_layers(tmp_path, name):
    path = save_static(tmp_path / "encoder", *(USUAL | OTHER)[name])
    code = """
        import sys
        from deita_core.models.encoder_spec import find_encoder
        from deita_core.models.static_encoder import StaticEncoder
        StaticEncoder(find_encoder(sys.argv[1])).encode(["the cat"])
        print("sentence_transformers" in sys.modules, "transformers" in sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert said.stdout.split() == [str(name == "relu")] * 2


def test_a_model2vec_folder_with_weights_beside_its_vectors_is_read_by_the_library(tmp_path, encoder):
    path = save_model2vec(tmp_path / "potion")
    halves = np.full(len(WORDS), 0.5, np.float32)
    save_file({"embeddings": table() * 2, "weights": halves}, path / "model.safetensors")
    files = find_encoder(str(path))
    assert np.array_equal(StaticEncoder(files).encode(TEXTS).vectors, encoder.encode(TEXTS).vectors)


def test_a_model2vec_folder_is_the_same_encoder(tmp_path, encoder):
    files = find_encoder(str(save_model2vec(tmp_path / "potion")))
    assert (files.kind, files.dim) == ("static", DIM)
    assert np.array_equal(StaticEncoder(files).encode(TEXTS).vectors, encoder.encode(TEXTS).vectors)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.sampled_from([*"abc", *WORDS]), max_size=40).map(" ".join), max_size=6), st.integers(0, 6))
def test_a_vector_does_not_depend_on_other_texts(encoder, texts, at):
    whole = encoder.encode(texts).vectors
    parts = np.concatenate([encoder.encode(texts[:at]).vectors, encoder.encode(texts[at:]).vectors])
    assert np.array_equal(whole, parts)
    norms = np.linalg.norm(whole.astype(np.float64), axis=1)
    assert np.all((np.abs(norms - 1) < 1e-6) | (norms == 0))


def test_every_token_of_a_long_text_counts(encoder):
    long = "the " * 300_000 + "fox"
    assert encoder.encode([long]).n_tokens.tolist() == [300_001] == count_tokens(encoder.files, [long])
    assert not np.array_equal(encoder.encode([long]).vectors, encoder.encode([long[:-3]]).vectors)


def test_a_text_without_tokens_has_the_zero_vector(encoder):
    encoded = encoder.encode(["\u200b\u200b", "cat"])
    assert encoded.n_tokens.tolist() == [0, 1] and not encoded.vectors[0].any() and encoded.vectors[1].any()


def test_the_fingerprint_follows_vectors_tokens_and_modules_and_no_path(tmp_path, folder):
    def fingerprint(change, name):
        save_static(tmp_path / name)
        change(tmp_path / name)
        return find_encoder(str(tmp_path / name)).fingerprint

    def other_weights(path):
        [file] = path.rglob("*.safetensors")
        save_file({name: values + 1 for name, values in load_file(file).items()}, file)

    def other_tokens(path):
        [file] = path.rglob("tokenizer.json")
        file.write_text(file.read_text().replace('"salt"', '"pepper"'))

    same = fingerprint(lambda _: None, "same")
    assert same == find_encoder(str(folder)).fingerprint
    save_static(tmp_path / "normalized", Normalize())
    others = [
        fingerprint(other_weights, "w"),
        fingerprint(other_tokens, "t"),
        find_encoder(str(tmp_path / "normalized")).fingerprint,
    ]
    assert len({same, *others}) == 4


def test_a_folder_without_token_vectors_is_refused(tmp_path):
    path = save_static(tmp_path / "encoder")
    for file in path.rglob("*.safetensors"):
        file.unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        find_encoder(str(path))


def test_a_pool_is_selected_from_and_scored_on_static_vectors(tmp_path, folder):
    rows = [{"instruction": f"bake {word}", "output": f"the {word} runs ."} for word in WORDS[1:9]]
    rows += [{"instruction": "\u200b", "output": "\u200b"}, {"instruction": "bake bread", "output": "the bread runs !"}]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, rows)))
    store, encoder = Store(tmp_path / "store"), find_encoder(str(folder))
    file = ingest_file(store, describe_file(str(tmp_path / "pool.jsonl")))
    heads = {axis: make_head(tmp_path / axis, axis, folder) for axis in ("complexity", "quality")}
    scorers = [find_scorer(str(path), axis, encoder) for axis, path in heads.items()]
    for shard in plan_encoding(store, encoder, [file.file_id]):
        encode_shard(store, load_encoder(encoder), shard)
    for scorer in scorers:
        for shard in plan_scoring(store, [scorer], [file.file_id]):
            score_shard(store, [(load_found(scorer, encoder), scorer)], encoder, shard)
    job = Job(
        run_id="r", file_ids=(file.file_id,), encoder=encoder, complexity=scorers[0], quality=scorers[1],
        settings=SelectionSettings(threshold=0.95),
    )  # fmt: skip
    chosen = select(store, job)
    assert (chosen.samples, chosen.rejected) == (10, 1) and chosen.selected >= 7
    reasons = decisions_of(store, job).filter(pl.col("fate") == "rejected")["reason"].to_list()
    assert reasons == ["a turn has no readable score"]
    scored = load_scorer(str(heads["complexity"]), "complexity").score(["bake bread", "\u200b"])
    assert scored["status"].to_list() == ["ok", "unreadable"]
