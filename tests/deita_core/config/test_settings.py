import pytest

from deita_core.config.settings import PRESETS, SelectionSettings, load_settings, why_not
from deita_core.errors import InputError
from deita_core.scorers.endpoint import ServedLimits


@pytest.fixture
def config(tmp_path):
    """Writes a settings file and returns its path."""

    def write(text):
        path = tmp_path / "settings.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refused(config=None, longest=400, **flags):
    """The sentence with which settings are refused."""
    with pytest.raises(InputError) as error:
        load_settings(config, **flags)
    assert error.value.exit_code == 2
    sentence = str(error.value)
    assert "\n" not in sentence and len(sentence) < longest
    return sentence


# -- what overrides what


def test_without_anything_given_the_laptop_preset_holds():
    settings = load_settings()
    assert settings == SelectionSettings()
    assert (settings.preset, settings.budget, settings.limit, settings.format) == ("laptop", None, None, "same")


def test_a_file_overrides_the_preset(config):
    settings = load_settings(config("threshold: 0.8\nturns: max\n"))
    assert (settings.threshold, settings.turns, settings.format) == (0.8, "max", "same")


def test_the_environment_overrides_the_file(config, monkeypatch):
    monkeypatch.setenv("DEITA_THRESHOLD", "0.7")
    settings = load_settings(config("threshold: 0.8\nbudget: 10\n"))
    assert (settings.threshold, settings.budget) == (0.7, 10)


def test_flags_override_everything(config, monkeypatch):
    monkeypatch.setenv("DEITA_THRESHOLD", "0.7")
    monkeypatch.setenv("DEITA_BUDGET", "500")
    settings = load_settings(config("threshold: 0.8\nbudget: 10\nlimit: 7\n"), threshold="0.6")
    assert (settings.threshold, settings.budget, settings.limit) == (0.6, 500, 7)


def test_a_flag_that_is_none_is_not_given(config):
    assert load_settings(config("budget: 10\n"), budget=None).budget == 10


def test_every_setting_can_come_from_the_environment(monkeypatch):
    wanted = {
        "preset": "laptop",
        "store": "elsewhere",
        "budget": 12,
        "threshold": 0.5,
        "turns": "max",
        "training_tokens": 512,
        "encoder": "some/encoder",
        "precision": "float32",
        "encoder_pooling": "weighted",
        "encoder_storage": "float16",
        "complexity_scorer": "one",
        "quality_scorer": "judge+other",
        "refine": "third",
        "refine_factor": 2,
        "classifier_text": "pair",
        "judge_votes": 3,
        "llm": {**ServedLimits().model_dump(), "concurrency": 3},
        "layout": "sharegpt",
        "map": {"role": "from", "content": "value"},
        "preference": "both",
        "modality": "text",
        "reasoning": "score",
        "limit": 3,
        "leave_out": ["*.tmp.jsonl"],
        "format": "alpaca",
        "report": False,
        "keep_snapshots": 30,
        "runner": "processes",
        "strategy": "kmq",
        "rank": "quality",
        "diversity": "none",
        "seed": 5,
        "clusters": 6,
        "cluster_draw": "best",
        "tags_field": "tags",
        "rank_model": "some/model",
        "like": None,
        "like_task": "kind",
        "like_weight": 0.5,
        "token_budget": 70_000,
        "tokenizer": "some/base",
        "per": "language",
        "cap": 0.25,
        "floor": 8,
        "quotas": None,
        "keep": ["/rows/keep.jsonl"],
        "drop": ["/rows/drop.jsonl"],
        "exclude": ["/rows/benchmark.jsonl"],
        "exclude_similarity": 0.9,
        "where": "line > 1",
        "min_score": 1.5,
        "language": ["en", "de"],
        "max_repetition": 0.5,
        "min_answer_tokens": 9,
        "max_answer_tokens": 900,
    }
    assert set(wanted) == set(SelectionSettings.model_fields)
    for name, value in wanted.items():
        if name == "llm":
            monkeypatch.setenv("DEITA_LLM__CONCURRENCY", "3")
        elif name == "leave_out":
            monkeypatch.setenv("DEITA_LEAVE_OUT", "*.tmp.jsonl")
        elif name == "map":
            monkeypatch.setenv("DEITA_MAP", "role=from, content=value")
        elif name in ("keep", "drop", "exclude", "language"):
            monkeypatch.setenv(f"DEITA_{name.upper()}", ",".join(value))
        elif name in ("quotas", "like"):
            # Shares of groups are read from a file; examples do not go with the scorer of refine.
            continue
        else:
            monkeypatch.setenv(f"DEITA_{name.upper()}", str(value))
    assert load_settings().model_dump() == wanted
    monkeypatch.delenv("DEITA_REFINE")
    monkeypatch.setenv("DEITA_RANK", "target")
    monkeypatch.setenv("DEITA_LIKE", "/rows/tasks.txt")
    assert load_settings().like == "/rows/tasks.txt"


@pytest.mark.parametrize(
    "given, others",
    [
        ({"judge_votes": 3}, {"quality_scorer": "judge+m"}),
        ({"judge_votes": 3}, {"refine": "judge+m", "budget": 5}),
        ({"classifier_text": "answer"}, {"complexity_scorer": "some/reward-model"}),
    ],
)
def test_a_setting_of_a_kind_of_scorer_needs_such_a_scorer(given, others):
    served = {"quality_scorer": ["fast", "http://localhost:1/v1#m"]}
    for without in ({}, served):
        with pytest.raises(InputError, match=f"no scorer is a .*leave {next(iter(given))} out"):
            load_settings(**given, **without)
    assert load_settings(**given, **others).model_dump(include=set(given)) == given


def test_a_mapping_of_columns_is_text_or_yaml_and_names_what_is_known(config):
    assert load_settings(config("map: {messages: dialog, role: from}\n")).reading.columns == {
        "messages": "dialog", "role": "from"
    }  # fmt: skip
    assert load_settings(map="prompt=q,response=a").reading.expected == "prompt-response"
    for wrong in ("speaker=from", "role", "role=", "=from"):
        assert "setting map cannot be" in refused(config(f"map: '{wrong}'\n"))


def test_globs_to_leave_out_are_a_list_and_name_something(config):
    assert load_settings(config("leave_out:\n- a\n- b/*.json\n")).leave_out == ["a", "b/*.json"]
    assert "leave_out" in refused(config("leave_out: ['']\n"))


def test_limits_of_a_served_scorer_come_from_the_file_with_variables_over_them(config, monkeypatch):
    monkeypatch.setenv("DEITA_LLM__TIMEOUT", "5")
    monkeypatch.setenv("DEITA_LLM__MODEL", "the model that evolves")
    limits = load_settings(config("llm:\n  timeout: 60\n  requests_per_minute: 90\n")).llm
    assert (limits.timeout, limits.requests_per_minute, limits.concurrency) == (5, 90, 32)
    assert load_settings().llm.timeout == 5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("llm:\n  model: gpt\n", "There is no setting 'llm.model'; the settings are concurrency,"),
        ("llm:\n  api_key: sk-secret\n", "a key stands in DEITA_LLM__API_KEY only"),
        ("llm:\n  concurrency: 0\n", "The setting llm.concurrency cannot be '0'"),
        ("llm:\n  spend_cap: 5\n", "llm: spend_cap needs input_price and output_price"),
    ],
)
def test_limits_that_cannot_be_are_one_sentence_without_a_secret(content, said, config):
    sentence = refused(config(content))
    assert said in sentence and "sk-secret" not in sentence


def test_other_variables_of_the_program_are_no_settings(monkeypatch):
    monkeypatch.setenv("DEITA_DEBUG", "1")
    assert load_settings() == SelectionSettings()


@pytest.mark.parametrize("given", ["auto", "0.85", 0.85, 1, -1])
def test_a_threshold_is_a_cosine_or_auto(given):
    threshold = load_settings(threshold=given, budget=5).threshold
    assert threshold == "auto" if given == "auto" else threshold == float(given)


def test_an_empty_file_changes_nothing(config):
    assert load_settings(config("# nothing yet\n")) == SelectionSettings()


# -- what is refused


def test_an_unknown_setting_is_named_with_those_there_are(config):
    # The names of all settings take their room.
    sentence = refused(config("bugdet: 100\n"), longest=1_000)
    assert "'bugdet'" in sentence
    assert all(name in sentence for name in SelectionSettings.model_fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("budget", "0"),
        ("budget", "many"),
        ("threshold", "1.5"),
        ("threshold", "high"),
        ("turns", "median"),
        ("training_tokens", "-1"),
        ("layout", "chatml"),
        ("limit", "0"),
        ("format", "xml"),
        ("precision", "float16"),
        ("encoder_pooling", "first"),
        ("encoder_storage", "bfloat16"),
    ],
)
@pytest.mark.parametrize("where", ["file", "environment", "flag"])
def test_a_bad_value_is_refused_with_its_name_and_the_value(name, value, where, config, monkeypatch):
    if where == "environment":
        monkeypatch.setenv(f"DEITA_{name.upper()}", value)
    file = config(f"{name}: {value}\n") if where == "file" else None
    sentence = refused(file, **({name: value} if where == "flag" else {}))
    assert name in sentence and value in sentence


def test_a_missing_file_is_named(tmp_path):
    assert "nowhere.yaml cannot be read" in refused(tmp_path / "nowhere.yaml")


def test_a_folder_is_no_settings_file(tmp_path):
    assert "cannot be read" in refused(tmp_path)


def test_what_is_no_yaml_is_said_to_be_none(config):
    assert "settings.yaml is not YAML" in refused(config("budget: [1, 2\n"))


def test_bytes_that_are_no_text_are_said_to_be_none(tmp_path):
    (tmp_path / "settings.yaml").write_bytes(b"budget: \xff\xfe\n")
    assert "settings.yaml is not YAML" in refused(tmp_path / "settings.yaml")


def test_a_list_holds_no_settings(config):
    assert "holds no settings" in refused(config("- budget\n- 100\n"))


def test_auto_without_a_budget_is_refused():
    assert "budget" in refused(threshold="auto")


@pytest.mark.parametrize("name", ["budget", "threshold", "limit", "training_tokens"])
def test_a_truth_value_is_no_number(name, config):
    assert name in refused(config(f"{name}: yes\n"))


def test_a_preset_holds_outside_the_command_line_as_well():
    assert SelectionSettings(preset="paper").encoder == PRESETS["paper"]["encoder"]


def test_an_unknown_preset_is_named_with_those_there_are():
    sentence = refused(preset="desktop")
    assert "'desktop'" in sentence and "'laptop', 'fast' or 'paper'" in sentence


def test_a_preset_of_the_wrong_type_is_one_sentence(config):
    assert "preset" in refused(config("preset: [laptop]\n"))


def test_a_name_that_is_no_text_is_one_sentence(config):
    assert "7" in refused(config("7: laptop\n"))


@pytest.mark.parametrize("where", ["file", "environment", "flag"])
def test_the_paper_preset_can_be_given_in_every_way_and_overridden(where, config, monkeypatch):
    if where == "environment":
        monkeypatch.setenv("DEITA_PRESET", "paper")
    file = config("preset: paper\n") if where == "file" else None
    settings = load_settings(file, encoder_storage="float16", **({"preset": "paper"} if where == "flag" else {}))
    given = settings.model_dump()
    assert {name: given[name] for name in PRESETS["paper"]} == PRESETS["paper"]
    assert (settings.preset, settings.encoder_storage) == ("paper", "float16")


@pytest.mark.parametrize("where", ["file", "variable", "flag"])
def test_the_fast_preset_names_one_encoder_and_its_heads(where, config, monkeypatch):
    if where == "variable":
        monkeypatch.setenv("DEITA_PRESET", "fast")
    file = config("preset: fast\n") if where == "file" else None
    settings = load_settings(file, **({"preset": "fast"} if where == "flag" else {}))
    assert (settings.encoder, settings.complexity_scorer, settings.quality_scorer) == ("fast", "fast", "fast")
    assert (settings.threshold, settings.turns) == (0.9, "mean")
    assert why_not("fast") is None


def test_the_paper_preset_names_the_papers_models():
    assert PRESETS["paper"]["complexity_scorer"] == "hkust-nlp/deita-complexity-scorer"
    assert PRESETS["paper"]["quality_scorer"] == "hkust-nlp/deita-quality-scorer"
    assert PRESETS["paper"]["encoder"] == "mistralai/Mistral-7B-v0.1"
    assert (PRESETS["paper"]["turns"], PRESETS["paper"]["threshold"]) == ("sum", 0.9)
    assert PRESETS["paper"]["encoder_pooling"] == "last"


def test_what_a_preset_needs_is_told_without_fetching_it():
    """The tests have no hub, so that anything fetched would be an error."""
    assert why_not("laptop") is None
    sentence = why_not("paper")
    for part in ("encoder", "complexity_scorer", "quality_scorer"):
        assert PRESETS["paper"][part] in sentence
    assert "the first run fetches them" in sentence and "GPU" in sentence


def test_a_preset_whose_models_are_all_here_has_nothing_against_it(tmp_path, monkeypatch):
    """In the layout of the hub's own cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for part in ("encoder", "complexity_scorer", "quality_scorer"):
        assert PRESETS["paper"][part] in why_not("paper")
        repository = tmp_path / f"models--{PRESETS['paper'][part].replace('/', '--')}"
        (repository / "snapshots/1").mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text("1")
        (repository / "snapshots/1/config.json").write_text("{}")
    assert why_not("paper") is None
