"""Each option of a command is a setting by its name: none is lost on the way from the command line to the settings."""

import inspect
from pathlib import Path

import pytest
import typer

from deita_core.alignment.settings import DpoSettings, SftSettings
from deita_core.config.comparison import ComparisonSettings
from deita_core.config.evaluation import BenchmarkSettings, JudgeSettings
from deita_core.config.loader import load
from deita_core.config.proof import ProofSettings
from deita_core.config.settings import EvolutionSettings, SelectionSettings, TrainingSettings
from deita_core.errors import InputError
from flows.cli import align, compare, evaluate, pool, prove, scorers, snapshots
from flows.cli.options import OTHERS, given_settings, names_in, taken

# The parameters of a command that are not settings of its kind by their names, but are set within it.
COMMANDS = {
    pool.select: (SelectionSettings, set()),
    pool.score: (SelectionSettings, set()),
    pool.calibrate: (SelectionSettings, set()),
    pool.pairs: (SelectionSettings, set()),
    snapshots.update: (SelectionSettings, set()),
    compare.compare: (ComparisonSettings, set()),
    prove.prove: (ProofSettings, {"arm", "epochs", "batch", "learning_rate", "max_tokens"}),
    align.sft: (SftSettings, set()),
    align.dpo: (DpoSettings, {"count"}),
    scorers.train: (TrainingSettings, {"base_model", "method", "epochs", "learning_rate"}),
    scorers.evolve: (
        EvolutionSettings,
        {"count", "model", "judge", "base_url", "concurrency", "spend_cap", "input_price", "output_price"},
    ),
    evaluate.judge: (JudgeSettings, {"judge", "concurrency", "spend_cap", "input_price", "output_price"}),
    evaluate.benchmarks: (BenchmarkSettings, set()),
}
SELECTING = [pool.select, pool.score, pool.calibrate, pool.pairs, snapshots.update, compare.compare]
# Of each option of the selecting commands: what stands on the command line, and the setting.
GIVEN = {
    "budget": (["--budget", "7"], 7),
    "cap": (["--cap", "0.5"], 0.5),
    "cluster_draw": (["--cluster-draw", "best"], "best"),
    "clusters": (["--clusters", "9"], 9),
    "complexity_scorer": (["--complexity-scorer", "a", "--complexity-scorer", "b"], ["a", "b"]),
    "diversity": (["--diversity", "tags"], "tags"),
    "drop": (["--drop", "/a", "--drop", "/b"], ["/a", "/b"]),
    "encoder": (["--encoder", "e"], "e"),
    "exclude": (["--exclude", "/a"], ["/a"]),
    "exclude_similarity": (["--exclude-similarity", "0.8"], 0.8),
    "floor": (["--floor", "2"], 2),
    "format": (["--format", "alpaca"], "alpaca"),
    "judge_votes": (["--judge-votes", "3"], 3),
    "keep": (["--keep", "/a", "--keep", "/b"], ["/a", "/b"]),
    "language": (["--language", "en,de"], ["en", "de"]),
    "layout": (["--layout", "alpaca"], "alpaca"),
    "leave_out": (["--leave-out", "a*"], ["a*"]),
    "like": (["--like", "/a"], "/a"),
    "like_task": (["--like-task", "kind"], "kind"),
    "like_weight": (["--like-weight", "0.3"], 0.3),
    "limit": (["--limit", "8"], 8),
    "map": (["--map", "messages=dialog"], {"messages": "dialog"}),
    "max_answer_tokens": (["--max-answer-tokens", "90"], 90),
    "max_repetition": (["--max-repetition", "0.3"], 0.3),
    "min_answer_tokens": (["--min-answer-tokens", "3"], 3),
    "min_score": (["--min-score", "2.5"], 2.5),
    "modality": (["--modality", "text"], "text"),
    "per": (["--per", "layout"], "layout"),
    "preference": (["--preference", "both"], "both"),
    "preset": (["--preset", "fast"], "fast"),
    "quality_scorer": (["--quality-scorer", "a"], "a"),
    "rank": (["--rank", "quality"], "quality"),
    "rank_model": (["--rank-model", "m"], "m"),
    "reasoning": (["--reasoning", "score"], "score"),
    "refine": (["--refine", "r"], "r"),
    "refine_factor": (["--refine-factor", "6"], 6),
    "report": (["--no-report"], False),
    "runner": (["--runner", "processes"], "processes"),
    "seed": (["--seed", "3"], 3),
    "seeds": (["--seeds", "4"], 4),
    "store": (["--store", "s"], "s"),
    "strategies": (["--strategies", "random,kmq"], ["random", "kmq"]),
    "strategy": (["--strategy", "random"], "random"),
    "tags_field": (["--tags-field", "tags"], "tags"),
    "threshold": (["--threshold", "0.5"], 0.5),
    "token_budget": (["--token-budget", "99"], 99),
    "tokenizer": (["--tokenizer", "t"], "t"),
    "training_tokens": (["--training-tokens", "512"], 512),
    "truth": (["--truth", "grade"], "grade"),
    "turns": (["--turns", "sum"], "sum"),
    "where": (["--where", "line > 1"], "line > 1"),
}


def options(command):
    """The parameters of a command that have to reach its settings."""
    return [name for name in inspect.signature(command).parameters if name not in OTHERS]


def parsed(command, *line):
    """What a command's parameters are for a command line, as Typer hands them to it."""
    found = {}

    def received(**given):
        found.update(given)

    received.__signature__ = inspect.signature(command)
    received.__annotations__ = command.__annotations__
    app = typer.Typer()
    app.command()(received)
    app(list(line), standalone_mode=False)
    return found


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_each_parameter_of_a_command_is_a_setting_or_known_to_be_none(command):
    model, within = COMMANDS[command]
    assert set(options(command)) - within <= set(model.model_fields)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_a_command_hands_on_all_of_its_parameters_before_it_does_anything_else(command):
    body = inspect.getsource(command).rsplit('"""', 1)[1]
    assert body.strip().startswith("flags = given_settings(locals())\n")


@pytest.mark.parametrize(
    ("command", "name"),
    [(command, name) for command in SELECTING for name in options(command)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_each_option_of_a_selecting_command_reaches_the_setting_of_its_name(command, name):
    model, _ = COMMANDS[command]
    line, value = GIVEN[name]
    needed = {"budget": 5} if model is ComparisonSettings else {}
    out = ["--out", "out"] if "out" in inspect.signature(command).parameters else []
    flags = given_settings(parsed(command, "pool.jsonl", *out, *line))
    if name == "strategies":
        flags[name] = names_in(flags[name])
    assert [other for other, given in flags.items() if given is not None] == [name]
    assert getattr(load(model, None, needed | {n: v for n, v in flags.items() if v is not None}), name) == value
    assert getattr(load(model, None, {"budget": 5}), name) != value


def test_a_name_that_is_no_setting_is_refused_and_not_dropped():
    with pytest.raises(InputError, match="no setting 'budgte'"):
        load(SelectionSettings, None, given_settings({"budgte": 3}))


def test_what_is_not_given_leaves_the_setting_as_it_is():
    given = given_settings({"pool": ["a"], "out": Path("out"), "keep": [], "budget": None, "seed": 0})
    assert given == {"keep": None, "budget": None, "seed": 0}


def test_taken_flags_are_no_longer_among_the_others():
    flags = {"epochs": 2, "batch": None, "seed": 1}
    assert (taken(flags, "epochs", "batch"), flags) == ({"epochs": 2, "batch": None}, {"seed": 1})


def test_names_are_separated_by_commas():
    assert [names_in(text) for text in ("a, b,", "", None)] == [["a", "b"], [], None]
