"""The encoder `fast`: equal to its recipe computed with numpy, frozen in its folder, made once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

from benchmarks.tiny import WORDS
from deita_core.config.folders import example_chains
from deita_core.errors import ModelError
from deita_core.models import distillation
from deita_core.models.distillation import chain_texts, distilled_spec, fast_spec, find_distilled, principal_components
from deita_core.models.encoder_spec import find_encoder
from deita_core.models.static_encoder import StaticEncoder, count_tokens
from tasks.embed import found_here

TRAINED_ON = [" ".join(WORDS[start : start + 9]) + " the cat" * start for start in range(len(WORDS) - 9)]
TEXTS = ["the cat runs .", "bake bread , a dog ?", "面 包", "the " * 2_000 + "fox", "salt", "a", "hello world 1 2 3 !"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEITA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def teacher(tiny_model):
    return find_encoder(str(tiny_model), "float32")


@pytest.fixture(scope="module")
def made(teacher, tmp_path_factory):
    """An encoder of 9 dimensions, 3 of which are removed, made from the tiny model of 16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEITA_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(distillation, "DIMENSIONS", 9)
        return find_distilled(teacher, TRAINED_ON)


@pytest.fixture(scope="module")
def encoder(made):
    return StaticEncoder(made)


def by_the_recipe(folder, trained_on, texts, dimensions):
    """The vectors of texts in float64, up to a rotation: each step as the documentation names it."""
    library, tokenizer = SentenceTransformer(str(folder), device="cpu"), AutoTokenizer.from_pretrained(folder)
    size = len(tokenizer)
    rows = torch.tensor([[tokenizer.cls_token_id, token, tokenizer.sep_token_id] for token in range(size)])
    with torch.inference_mode():
        tokens = library({"input_ids": rows, "attention_mask": torch.ones_like(rows)})["sentence_embedding"].double()
    tokens = tokens.numpy() / np.linalg.norm(tokens.numpy(), axis=1, keepdims=True)
    centred = tokens - tokens.mean(axis=0)
    reduced = centred @ np.linalg.svd(centred, full_matrices=False)[2][:dimensions].T

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    counts = np.zeros(size)
    for text in trained_on:
        for token in ids(text):
            counts[token] += 1
    p = (counts + 1) / (counts + 1).sum()
    weights = 1e-4 / (1e-4 + p)
    weights[tokenizer.unk_token_id] = 0

    def unit(text):
        total = sum(weights[token] * reduced[token] for token in ids(text))
        return total / np.linalg.norm(total)

    known = np.stack([unit(text) for text in trained_on])
    mean = known.mean(axis=0)
    common = np.linalg.svd(known - mean, full_matrices=False)[2][:3]
    vectors = np.stack([unit(text) for text in texts]) - mean
    vectors -= vectors @ common.T @ common
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_vectors_are_those_of_the_recipe(tiny_model, encoder):
    expected, found = by_the_recipe(tiny_model, TRAINED_ON, TEXTS, 9), encoder.encode(TEXTS).vectors
    assert found.shape == (len(TEXTS), 6)
    assert np.abs(found @ found.T - expected @ expected.T).max() < 1e-5


def test_the_frozen_folder_is_a_model_of_the_library(made, encoder):
    vectors = SentenceTransformer(str(made.path), device="cpu").encode(TEXTS)
    assert np.abs(vectors - encoder.encode(TEXTS).vectors).max() < 1e-6


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=20).map(" ".join), max_size=8), st.integers(0, 8))
def test_a_vector_does_not_depend_on_other_texts(encoder, texts, at):
    many = encoder.encode([*TEXTS, *texts, *(f"{text} fox" for text in TEXTS * 10)]).vectors[len(TEXTS) :]
    parts = np.concatenate([encoder.encode(texts[:at]).vectors, encoder.encode(texts[at:]).vectors])
    assert np.array_equal(many[: len(texts)], parts)


def test_unknown_tokens_say_nothing(encoder):
    assert not encoder.encode(["漢字", "", "漢"]).vectors.any()
    assert np.allclose(*encoder.encode(["the cat runs", "the 漢 cat 漢 runs 字"]).vectors, atol=1e-6)


def test_a_text_is_read_to_its_end(made, encoder):
    [short, long] = encoder.encode(["the " * 500, "the " * 500 + "fox " * 500]).vectors
    assert short @ long < 0.99
    assert count_tokens(made, ["the " * 500]) == [500]


def test_the_sign_of_a_component_is_fixed():
    rows = np.random.default_rng(0).normal(size=(50, 6)) * np.arange(1, 7)
    noisy = rows + 1e-7 * np.random.default_rng(1).normal(size=rows.shape)
    first, second = principal_components(rows, 4), principal_components(noisy, 4)
    assert np.abs(first - second).max() < 1e-5
    assert np.allclose(first @ first.T, np.eye(4))


def test_a_second_use_makes_nothing(teacher, capsys):
    first = find_distilled(teacher, TRAINED_ON)
    assert "once on this machine" in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}
    assert find_distilled(teacher, TRAINED_ON) == first
    assert capsys.readouterr().err == ""
    assert {path: path.stat().st_mtime_ns for path in first.path.rglob("*")} == before


def test_damaged_weights_are_made_again(teacher):
    made = find_distilled(teacher, TRAINED_ON)
    weights = made.path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert find_distilled(teacher, TRAINED_ON) == made
    assert weights.read_bytes() == whole


def test_the_identity_is_that_of_the_recipe(teacher, other_tiny_model, tmp_path, monkeypatch):
    first = distilled_spec(teacher, TRAINED_ON)
    monkeypatch.setenv("DEITA_CACHE", str(tmp_path / "elsewhere"))
    same = distilled_spec(teacher, TRAINED_ON)
    assert same == first.model_copy(update={"path": same.path}) and same.path != first.path
    others = [
        distilled_spec(find_encoder(str(other_tiny_model), "float32"), TRAINED_ON),
        distilled_spec(teacher, TRAINED_ON[1:]),
        distilled_spec(teacher, TRAINED_ON[::-1]),
    ]
    monkeypatch.setattr(distillation, "DISTILLATION_VERSION", 2)
    others.append(distilled_spec(teacher, TRAINED_ON))
    assert len({spec.fingerprint for spec in [first, *others]}) == len({spec.weights for spec in [first, *others]}) == 5
    assert not (tmp_path / "cache").exists()


def test_the_texts_are_those_of_the_example_chains():
    texts = chain_texts()
    assert len(texts) == len(set(texts)) > 2_000
    assert all(
        f"{axis}.jsonl" in {file.name for file in example_chains().iterdir()} for axis in ("complexity", "quality")
    )


def test_a_worker_without_the_folder_makes_its_own(laptop, tmp_path, monkeypatch, capsys):
    here = fast_spec()
    elsewhere = here.model_copy(update={"path": tmp_path / "not here", "reasoning": "score"})
    found = found_here(elsewhere)
    assert "Making the encoder fast" in capsys.readouterr().err
    assert (found.path, found.fingerprint, found.reasoning) == (here.path, here.fingerprint, "score")
    assert StaticEncoder(found).encode(["a text"]).vectors.shape == (1, 253)
    with pytest.raises(ModelError, match="is not the run's"):
        found_here(elsewhere.model_copy(update={"fingerprint": "of another version"}))
