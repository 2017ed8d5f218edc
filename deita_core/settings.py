"""Settings and presets: a preset's values, then a YAML file, then DEITA_* variables, then what the caller gives."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from deita_core.encoders import LAPTOP_ENCODER
from deita_core.errors import InputError

PresetName = Literal["laptop", "paper"]
Turns = Literal["fit", "sum", "mean", "max"]
Format = Literal["same", "messages", "sharegpt", "alpaca"]
LayoutName = Literal["alpaca", "sharegpt", "messages", "prompt-response"]


class SelectionSettings(BaseModel):
    """How a pool is scored and selected from; the defaults are the laptop preset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: Any) -> Any:
        """A preset's values wherever nothing else is given, and no truth value where a number is meant."""
        if not isinstance(given, dict):
            return given
        preset = given.get("preset", "laptop")
        if isinstance(preset, str) and preset in PRESETS:
            if reason := why_not(preset):
                raise ValueError(f"the {preset} preset cannot run: {reason}; use --preset laptop")
            given = {**PRESETS[preset], **given}
        for name in ("budget", "threshold", "limit", "training_tokens"):
            if isinstance(given.get(name), bool):
                raise ValueError(f"{name} is {given[name]}, and not a number")
        return given

    @model_validator(mode="after")
    def _auto_has_a_budget(self) -> "SelectionSettings":
        if self.threshold == "auto" and self.budget is None:
            raise ValueError("threshold auto looks for what fills a budget, so give a budget as well")
        return self

    preset: PresetName = Field("laptop", description="The set of defaults these settings started from.")
    store: str = Field(".deita", min_length=1, description="Where vectors, scores and runs are kept: a folder.")
    budget: Annotated[int, Field(ge=1)] | None = Field(None, description="How many samples to select; none: no limit.")
    threshold: Annotated[float, Field(ge=-1, le=1)] | Literal["auto"] = Field(
        0.9, description="Largest cosine similarity to a kept sample; auto: the smallest that still fills the budget."
    )
    turns: Turns = Field(
        "mean", description="How the scores of turns make a sample's; fit: the sum of those within training_tokens."
    )
    training_tokens: Annotated[int, Field(ge=1)] = Field(2_048, description="Where training will cut a conversation.")
    encoder: str = Field(LAPTOP_ENCODER, description="A sentence-transformers model: a hub name or a folder.")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="What the encoder computes in.")
    complexity_scorer: str = Field("laptop", description="laptop, or a folder that holds a trained scorer.")
    quality_scorer: str = Field("laptop", description="laptop, or a folder that holds a trained scorer.")
    layout: LayoutName | None = Field(None, description="The layout of the pool's files; none: detected for each.")
    limit: Annotated[int, Field(ge=1)] | None = Field(None, description="Read only the first rows of the pool.")
    format: Format = Field("same", description="The layout of selected.jsonl.")


# The laptop's threshold: among examples/pool every rewording planted there is at 0.95 or more, and no other pair is
# above 0.8. Its mean over turns: a sum over many short turns of small talk outweighs any single good answer.
# The paper's settings: sections 2.3 and 2.4, and the released checkpoints.
PRESETS: dict[PresetName, dict[str, Any]] = {
    "laptop": {},
    "paper": {
        "turns": "sum",
        "threshold": 0.9,
        "encoder": "mistralai/Mistral-7B-v0.1",
        "complexity_scorer": "hkust-nlp/deita-complexity-scorer",
        "quality_scorer": "hkust-nlp/deita-quality-scorer",
    },
}


def why_not(preset: PresetName) -> str | None:
    """Why a preset cannot run with this version at all, or None."""
    if preset == "paper":
        return "its scorers and its encoder are causal language models, which this version does not load yet"
    return None


def load_settings(config: Path | None = None, **flags: Any) -> SelectionSettings:
    """Settings from a preset, a YAML file, the environment and flags, each overriding those before it.

    Flags that are None are not given. Raises InputError naming the setting and what it may be.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    merged = {**_read_yaml(config), **_read_environment(), **given}
    preset: Any = merged.get("preset", "laptop")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise InputError(f"There is no preset {preset!r}; the presets are {' and '.join(PRESETS)}.")
    try:
        return SelectionSettings(**merged)
    except ValidationError as error:
        raise InputError(_first_problem(error)) from None


def _read_yaml(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The settings file {config} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"The settings file {config} is not YAML: {str(error).splitlines()[0]}.") from error
    if isinstance(content, dict) and (odd := [name for name in content if not isinstance(name, str)]):
        raise InputError(f"The settings file {config} has a setting named {odd[0]!r}; names are words.")
    if content is not None and not isinstance(content, dict):
        raise InputError(f"The settings file {config} holds no settings; write one `name: value` on each line.")
    return content or {}


class _Environment(BaseSettings):
    """DEITA_BUDGET=500 and so on; every value is checked with the others, by SelectionSettings."""

    model_config = SettingsConfigDict(env_prefix="DEITA_", extra="ignore")

    preset: str | None = None
    store: str | None = None
    budget: str | None = None
    threshold: str | None = None
    turns: str | None = None
    training_tokens: str | None = None
    encoder: str | None = None
    precision: str | None = None
    complexity_scorer: str | None = None
    quality_scorer: str | None = None
    layout: str | None = None
    limit: str | None = None
    format: str | None = None


def _read_environment() -> dict[str, str]:
    return _Environment().model_dump(exclude_none=True)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    if not problem["loc"]:
        sentence = problem["msg"].removeprefix("Value error, ")
        return f"The settings do not fit together: {sentence}."
    name = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        return f"There is no setting {name!r}; the settings are {', '.join(SelectionSettings.model_fields)}."
    meaning = SelectionSettings.model_fields[name].description
    return f"The setting {name} cannot be {str(problem['input'])[:80]!r}: {problem['msg'].lower()}. ({meaning})"
