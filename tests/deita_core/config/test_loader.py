import pytest

from deita_core.config.loader import load
from deita_core.config.settings import EvolutionSettings, SelectionSettings, TrainingSettings
from deita_core.errors import InputError
from deita_core.llm.client import LLMSettings

SECRET = "sk-0123456789-very-secret-abcdef"


@pytest.fixture
def config(tmp_path):
    """Writes a settings file and returns its path."""

    def write(text):
        path = tmp_path / "settings.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def evolution(config=None, **flags):
    return load(EvolutionSettings, config, flags)


def refused(config=None, model=EvolutionSettings, **flags):
    """The sentence with which settings are refused."""
    with pytest.raises(InputError) as error:
        load(model, config, flags)
    sentence = str(error.value)
    assert "\n" not in sentence and len(sentence) < 600
    return sentence


# -- what overrides what

YAML = "rounds: 3\nllm:\n  model: from-yaml\n  judge: yaml-judge\n  timeout: 33\n"


def test_settings_within_settings_come_from_a_file(config):
    settings = evolution(config(YAML))
    assert (settings.rounds, settings.llm.model, settings.llm.timeout) == (3, "from-yaml", 33)
    assert settings.llm.max_tokens == LLMSettings(model="x").max_tokens


def test_the_environment_overrides_the_file_one_by_one(config, monkeypatch):
    monkeypatch.setenv("DEITA_LLM__MODEL", "from-environment")
    monkeypatch.setenv("DEITA_LLM__CONCURRENCY", "3")
    llm = evolution(config(YAML)).llm
    assert (llm.model, llm.judge, llm.timeout, llm.concurrency) == ("from-environment", "yaml-judge", 33, 3)


def test_flags_override_both_one_by_one(config, monkeypatch):
    monkeypatch.setenv("DEITA_LLM__MODEL", "from-environment")
    monkeypatch.setenv("DEITA_LLM__JUDGE", "environment-judge")
    monkeypatch.setenv("DEITA_ROUNDS", "4")
    settings = evolution(config(YAML), llm={"model": "from-flag", "judge": None, "seed": 7}, rounds=None, seeds=5)
    assert (settings.llm.model, settings.llm.judge, settings.llm.timeout) == ("from-flag", "environment-judge", 33)
    assert (settings.llm.seed, settings.rounds, settings.seeds) == (7, 4, 5)


def test_the_environment_alone_is_enough(monkeypatch):
    monkeypatch.setenv("DEITA_LLM__MODEL", "m")
    monkeypatch.setenv("DEITA_LLM__BASE_URL", "http://localhost:8000/v1/")
    llm = evolution().llm
    assert (llm.model, llm.base_url) == ("m", "http://localhost:8000/v1")


def test_flags_that_are_none_are_not_given(monkeypatch):
    monkeypatch.setenv("DEITA_LLM__MODEL", "m")
    nothing = {"model": None, "judge": None, "spend_cap": None}
    assert evolution(llm=nothing) == evolution() == evolution(llm={})


def test_zero_is_given():
    settings = evolution(llm={"model": "m", "temperature": 0, "seed": 0}, audit=0)
    assert (settings.llm.temperature, settings.audit) == (0, 0)


def test_every_setting_of_the_model_can_come_from_the_environment(monkeypatch):
    wanted = {
        "base_url": "http://localhost:1/v1",
        "model": "m",
        "judge": "j",
        "api_key_block": "my-key",
        "temperature": 0.25,
        "seed": 3,
        "max_tokens": 100,
        "structured": "off",
        "concurrency": 2,
        "requests_per_minute": 60.0,
        "tokens_per_minute": 6_000.0,
        "timeout": 5.0,
        "attempts": 2,
        "first_pause": 0.5,
        "input_price": 1.0,
        "output_price": 2.0,
        "spend_cap": 3.0,
    }
    assert set(wanted) == set(LLMSettings.model_fields)
    for name, value in wanted.items():
        monkeypatch.setenv(f"DEITA_LLM__{name.upper()}", str(value))
    assert evolution().llm.model_dump() == wanted


def test_settings_that_may_be_left_out_are_read_when_one_of_them_is_given(monkeypatch, config):
    assert load(TrainingSettings, None, {"axis": "quality"}).tuning is None
    monkeypatch.setenv("DEITA_TUNING__BASE_MODEL", "some/model")
    tuning = load(TrainingSettings, config("axis: quality\nkind: causal\ntuning: {epochs: 2}\n"), {}).tuning
    assert (tuning.base_model, tuning.epochs) == ("some/model", 2)


def test_settings_of_another_kind_do_not_matter(monkeypatch):
    monkeypatch.setenv("DEITA_LLM__MODEL", "m")
    monkeypatch.setenv("DEITA_BUDGET", "7")
    assert load(SelectionSettings, None, {}).budget == 7
    assert evolution().llm.model == "m"


# -- the key


@pytest.mark.parametrize("variable", ["DEITA_LLM__API_KEY", "OPENAI_API_KEY"])
def test_a_key_is_never_taken_into_settings(variable, monkeypatch, config):
    monkeypatch.setenv(variable, SECRET)
    for settings in (evolution(llm={"model": "m"}), evolution(config(YAML))):
        assert SECRET not in settings.model_dump_json() + repr(settings) + str(settings.model_dump())
        assert SECRET not in repr(vars(settings)) + repr(vars(settings.llm))


@pytest.mark.parametrize(
    "text",
    [
        "llm: {{model: m, api_key: {}}}",
        "llm:\n  model: m\n  api_key: {}",
        "llm: {{model: m}}\napi_key: {}",
        "api_key: {}",
        "llm: {{api_key: {}}}",
        "llm: {{model: m, base_url: 'https://user:{}@example.com/v1'}}",
        "llm: {{model: m, base_url: 'https://example.com/v1?key={}'}}",
    ],
)
def test_a_key_in_a_file_is_refused_without_being_shown(text, config):
    file = config(text.format(SECRET))
    assert SECRET not in refused(file)
    with pytest.raises(InputError) as error:
        evolution(file)
    assert error.value.__cause__ is None, "nor does a traceback show it"


def test_a_key_in_a_file_is_told_where_it_belongs(config):
    assert "DEITA_LLM__API_KEY" in refused(config(f"llm: {{model: m, api_key: {SECRET}}}\n"))
    assert "DEITA_LLM__API_KEY" in refused(config(f"llm: {{model: m}}\napi_key: {SECRET}\n"))
    assert "DEITA_LLM__API_KEY" in refused(llm={"model": "m", "base_url": f"https://x:{SECRET}@example.com"})


# -- what is refused


def test_a_missing_model_is_named(config):
    for given in ({}, {"llm": {"judge": "j"}}, {"llm": {"model": None}}, {"config": config("rounds: 2\n")}):
        assert "llm.model" in refused(**given)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "hot"),
        ("timeout", "0"),
        ("concurrency", "0"),
        ("structured", "yes"),
        ("model", ""),
        ("seed", "-1"),
    ],
)
@pytest.mark.parametrize("where", ["file", "environment", "flag"])
def test_a_bad_value_is_refused_with_its_whole_name(name, value, where, config, monkeypatch):
    if where == "environment":
        monkeypatch.setenv(f"DEITA_LLM__{name.upper()}", value)
    other = {} if name == "model" else {"model": "m"}
    text = "llm:\n" + "".join(f"  {key}: '{given}'\n" for key, given in {**other, name: value}.items())
    file = config(text) if where == "file" else None
    sentence = refused(file, llm={**other, **({name: value} if where == "flag" else {})})
    assert f"llm.{name}" in sentence and repr(value) in sentence


def test_an_unknown_setting_within_settings_is_named_with_those_there_are(config):
    sentence = refused(config("llm: {model: m, tempreature: 1}\n"))
    assert "'llm.tempreature'" in sentence
    assert all(name in sentence for name in LLMSettings.model_fields)


@pytest.mark.parametrize("value", ["gpt-4o", "[a, b]", "3", "true"])
def test_settings_within_settings_are_a_mapping(value, config):
    assert "llm" in refused(config(f"llm: {value}\n"))


def test_a_cap_without_prices_is_refused_with_what_is_missing():
    sentence = refused(llm={"model": "m", "spend_cap": 1})
    assert "spend_cap" in sentence and "input_price" in sentence
