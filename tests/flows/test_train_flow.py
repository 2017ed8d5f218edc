import shutil

import pytest

from deita_core.config.settings import TrainingSettings
from deita_core.errors import InputError, ModelError
from deita_core.scorers import load_scorer
from deita_core.store import Store
from tests.support.paths import ROOT

CHAINS = ROOT / "examples" / "evolution" / "complexity.jsonl"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    (folder / "chains.jsonl").write_bytes(b"\n".join(CHAINS.read_bytes().splitlines()[:12]) + b"\n")
    return folder


@pytest.fixture(scope="module")
def run(prefect_server, laptop, place):
    """Trains a complexity head on a few chains."""
    from flows.train import train

    def trained(out="head", **settings):
        chosen = TrainingSettings(axis="complexity", store=str(place / "store"), **settings)
        return train([str(place / "chains.jsonl")], str(place / out), chosen)

    return trained


def test_a_head_is_trained_once_and_again_where_its_folder_is_gone(run, place):
    first = run()
    weights = (place / "head" / "model.safetensors").read_bytes()
    changed = (place / "head" / "model.safetensors").stat().st_mtime_ns
    assert run() == first
    assert (place / "head" / "model.safetensors").stat().st_mtime_ns == changed
    shutil.rmtree(place / "head")
    assert run() == first
    assert (place / "head" / "model.safetensors").read_bytes() == weights
    assert load_scorer(str(place / "head"), "complexity").score(["Name a tree."])["status"].to_list() == ["ok"]


def test_training_again_encodes_nothing(run, place):
    run()
    [table] = [name for name in Store(place / "store").tables() if name.startswith("vectors")]
    versions = Store(place / "store").versions()[table]
    run(out="another")
    assert Store(place / "store").versions()[table] == versions


def test_the_other_axis_chains_are_refused_with_their_line(run, place):
    from flows.train import train

    settings = TrainingSettings(axis="quality", store=str(place / "store"))
    with pytest.raises(InputError, match="line 1 is not a quality chain"):
        train([str(place / "chains.jsonl")], str(place / "wrong"), settings)


def test_a_language_model_is_no_encoder_for_a_head(run, tiny_llama):
    with pytest.raises(ModelError, match="sentence-transformers"):
        run(out="none", encoder=str(tiny_llama))
