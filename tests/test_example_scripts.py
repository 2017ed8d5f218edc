"""The example scripts run and do what they say."""

import importlib.util

import pytest

from deita_core.models.chat_model import Generated
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


@pytest.mark.parametrize("name", ["held_out_complexity", "held_out_typed_complexity"])
def test_the_shipped_complexity_head_orders_instructions_that_it_never_saw_far_better_than_length(laptop, name):
    training = load("train_scorers")
    assert name in training.HELD_OUT
    ours, length = training.single_instructions(training.SHIPPED / "laptop-complexity", name)
    assert ours > 0.8 and ours > length + 0.2


def test_the_shipped_complexity_head_tells_one_constraint_more_better_than_length(laptop):
    training = load("train_scorers")
    ours, length = training.one_constraint_more(training.SHIPPED / "laptop-complexity")
    assert ours > 0.8 and ours > length


@pytest.fixture(scope="module")
def weak():
    return load("make_weak_answers")


CHAIN = {"id": "a-1", "instruction": "one two three four five six seven"}


def test_a_weak_model_is_shown_an_instruction_whole_blurred_or_cut_and_always_the_same(weak):
    ways = {way.kind: weak.shown(CHAIN, way) for way in weak.WAYS}
    assert ways["greedy"] == ways["warm"] == ways["hot"] == CHAIN["instruction"]
    assert ways["cut"] == "one two three"
    blurred = ways["blurred"].split()
    assert len(blurred) == 4 and blurred == [word for word in CHAIN["instruction"].split() if word in blurred]
    assert weak.shown(CHAIN, weak.WAYS[3]) == ways["blurred"]


@pytest.mark.parametrize(
    "text, is_cut, kept",
    [
        ("It is so. And th", True, "It is so."),
        ("It is so. And then.", False, "It is so. And then."),
        ("It costs 3.5 and mo", True, "It costs 3.5 and mo"),
    ],
)
def test_a_weak_answer_that_was_cut_off_keeps_its_whole_sentences(weak, text, is_cut, kept):
    assert weak.whole_sentences(Generated(text, is_cut, 1, 1)) == kept


def test_answers_of_one_way_share_a_batch_with_those_of_similar_length(weak):
    jobs = [weak.Job(row, weak.WAYS[row % 2], [0] * (9 - row)) for row in range(6)]
    batches = list(weak.batches(jobs))
    assert [[job.row for job in batch] for batch in batches] == [[4, 2, 0], [5, 3, 1]]
