from importlib.metadata import version

import pytest

from deita_core.config.settings import PRESETS
from deita_core.diagnosis import diagnose
from deita_core.models.encoder_spec import LAPTOP_ENCODER


@pytest.fixture(scope="module")
def found():
    return diagnose()


def test_versions_are_those_installed(found):
    for name in ("prefect", "torch", "polars", "lancedb"):
        assert found.versions[name] == version(name)


def test_every_preset_has_a_verdict(found):
    assert set(found.presets) == set(PRESETS)


def test_the_laptop_preset_runs_where_its_encoder_is_installed(found, laptop):
    assert found.presets["laptop"] is None
    assert LAPTOP_ENCODER in found.machine["laptop encoder"]
    assert f"{laptop.dim} dimensions" in found.machine["laptop encoder"]


def test_the_fast_preset_can_run_before_its_models_are_made(laptop, tmp_path, monkeypatch):
    monkeypatch.setenv("DEITA_CACHE", str(tmp_path / "cache"))
    found = diagnose()
    assert found.presets["fast"] is None
    assert found.machine["fast encoder"].startswith("made at first use, in about a minute, in ")
    assert not (tmp_path / "cache").exists()


def test_the_paper_preset_says_why_it_cannot_run(found):
    assert "causal language models" in found.presets["paper"]


def test_the_machine_is_described(found):
    assert int(found.machine["cores"]) >= 1
    assert found.machine["GPU"]
