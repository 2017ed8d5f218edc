"""The example scripts run and do what they say."""

import importlib.util

from deita_core.scorers import load_scorer
from tests.support.paths import ROOT

EXAMPLES = ROOT / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_whole_way_offline_ends_with_two_scorers_that_have_learned_the_plain_rules(
    prefect_server, laptop, tmp_path, capsys
):
    example = load("evolve_offline")
    example.SEEDS = 16
    example.main(tmp_path)
    said = capsys.readouterr().out
    assert "complexity: 16 seeds" in said and "quality: 16 seeds" in said
    easy, hard = load_scorer(str(tmp_path / "scorers" / "complexity"), "complexity").score(
        ["Name a tree.", "Name a tree, and keep to 40 words. First work out why it grows there, then say what follows."]
    )["score"]
    assert easy < hard
