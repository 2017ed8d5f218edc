"""Settings and presets. Precedence, lowest first: preset, YAML file, DEITA_* variables, arguments."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from deita_core.config.choice import ChoiceSettings, as_list, check_choice, with_strategy
from deita_core.config.filters import FilterSettings, check_limits
from deita_core.config.loader import load
from deita_core.errors import InputError
from deita_core.literals import (
    Axis,
    ClassifierText,
    Format,
    Layout,
    Modality,
    Pooling,
    Preference,
    PresetName,
    Reasoning,
    Storage,
    Turns,
)
from deita_core.llm.client import LLMSettings
from deita_core.models.encoder_spec import FAST_ENCODER, LAPTOP_ENCODER
from deita_core.reading.options import ReadOptions, known_columns
from deita_core.scorers.endpoint import ServedLimits
from deita_core.scorers.training.records import TuningSettings

DEFAULT_PRESET: PresetName = "laptop"
RUNNER = re.compile(r"threads|processes|(dask|ray)://([^\s/]+:\d{1,5})?")


def _as_mapping(given: Any) -> Any:
    """A mapping of columns written as text: role=from,content=value."""
    if not isinstance(given, str):
        return given
    pairs = [pair.split("=", 1) for pair in given.split(",") if pair.strip()]
    if any(len(pair) != 2 or not all(map(str.strip, pair)) for pair in pairs):
        raise PydanticCustomError("columns", "it is not of the form name=column,name=column")
    return {name.strip(): column.strip() for name, column in pairs}


ColumnMap = Annotated[dict[str, str], BeforeValidator(_as_mapping), AfterValidator(known_columns)]


# Settings of which true and false would else count as 1 and 0.
NUMBERS = (
    "budget", "threshold", "limit", "training_tokens", "token_budget", "floor", "cap", "clusters", "min_score",
    "max_repetition", "min_answer_tokens", "max_answer_tokens",
)  # fmt: skip


def _known_runner(name: str) -> str:
    if not RUNNER.fullmatch(name):
        raise PydanticCustomError("runner", "input should be threads, processes, dask://HOST:PORT or ray://HOST:PORT")
    return name


def _as_names(given: Any) -> Any:
    """A list of one scorer as its name."""
    if not isinstance(given, list | tuple):
        return given
    if not given or any(given.count(name) > 1 for name in given):
        raise PydanticCustomError("scorers", "it names no scorer, or one of them twice")
    return given[0] if len(given) == 1 else list(given)


ScorerNames = Annotated[str | list[str], BeforeValidator(_as_names)]


class SelectionSettings(ChoiceSettings, FilterSettings):
    """Settings of a selection; those not given are the preset's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: Any) -> Any:
        """Add a preset's values for settings not given. Raises ValueError for a bool in place of a number."""
        if not isinstance(given, dict):
            return given
        preset = given.get("preset", DEFAULT_PRESET)
        if isinstance(preset, str) and preset in PRESETS:
            given = {**PRESETS[preset], **given}
        given = with_strategy(given)
        for name in NUMBERS:
            if isinstance(given.get(name), bool):
                raise ValueError(f"{name} is {given[name]}, and not a number")
        return given

    preset: PresetName = Field(DEFAULT_PRESET, description="The set of defaults these settings started from.")
    store: str = Field(".deita", min_length=1, description="Folder or URI of the store (vectors, scores, snapshots).")
    budget: Annotated[int, Field(ge=1)] | None = Field(None, description="How many samples to select; none: no limit.")
    threshold: Annotated[float, Field(ge=-1, le=1)] | Literal["auto"] = Field(
        0.9,
        description="Largest cosine similarity to a selected sample; auto: the smallest that still fills the budget.",
    )
    turns: Turns = Field(
        "mean", description="How the scores of turns make a sample's; fit: the sum of those within training_tokens."
    )
    training_tokens: Annotated[int, Field(ge=1)] = Field(2_048, description="Where training will cut a conversation.")
    encoder: str = Field(
        LAPTOP_ENCODER,
        description="A sentence-transformers model or a causal language model: fast, a hub name or a folder.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="What the encoder and rank_model compute in."
    )
    encoder_pooling: Pooling = Field(
        "last", description="Of a language model's states: the last token's, their mean, or weighted by position."
    )
    encoder_storage: Storage = Field(
        "float32", description="What a language model's vectors are stored in; float16 takes half the room."
    )
    complexity_scorer: ScorerNames = Field(
        "laptop",
        description="laptop, fast, a folder, a hub name, URL#MODEL of a served one, or judge+URL#MODEL; of a list the "
        "mean rank.",
    )
    quality_scorer: ScorerNames = Field(
        "laptop",
        description="laptop, fast, a folder, a hub name, URL#MODEL of a served one, or judge+URL#MODEL; of a list the "
        "mean rank.",
    )
    refine: str | None = Field(
        None, description="A slow quality scorer that scores the best conversations again; they are ranked by it."
    )
    refine_factor: Annotated[int, Field(ge=1)] = Field(
        4, description="How many times the budget the scorer of refine scores again."
    )
    classifier_text: ClassifierText | None = Field(
        None,
        description="What a classifier reads of a turn: chat (its chat template), pair, answer or instruction; none: "
        "chat, or pair where there is no template. Of complexity always the instruction only.",
    )
    judge_votes: int = Field(
        1, ge=1, le=5, description="How often a judge is asked about each text, with its criteria in another order."
    )
    llm: ServedLimits | None = Field(
        None, description="How much a served scorer or judge is asked: concurrency, timeout, spend_cap and the like."
    )
    layout: Layout | None = Field(None, description="The layout of the pool's files; none: detected for each.")
    map: ColumnMap = Field(
        {}, description="The pool's own names: messages=dialog,role=from,content=value, also of columns and roles."
    )
    preference: Preference = Field(
        "chosen", description="chosen: the preferred one of two answers; both: each is a sample of its own."
    )
    modality: Modality = Field("any", description="text: rows with images, audio, video or files are rejected.")
    reasoning: Reasoning = Field(
        "ignore", description="score: the reasoning before an answer is encoded and scored with it."
    )
    limit: Annotated[int, Field(ge=1)] | None = Field(None, description="Read only the first rows of the pool.")
    leave_out: Annotated[list[Annotated[str, Field(pattern="[^/]")]], BeforeValidator(as_list)] = Field(
        [], description="Globs of files and folders of the pool that are not read."
    )
    format: Format = Field("same", description="The layout of selected.jsonl.")
    report: bool = Field(
        True, description="Whether to write report.html, a page to look at the selection, and the card's pictures."
    )
    keep_snapshots: Annotated[int, Field(ge=2)] | None = Field(
        None, description="How many of the folder's last snapshots to keep; none: all."
    )
    runner: Annotated[str, AfterValidator(_known_runner)] = Field(
        "threads",
        description="What computes the shards: threads, processes, dask://HOST:PORT or ray://HOST:PORT; a cluster of "
        "its own on this machine without HOST:PORT.",
    )

    def scorers(self, axis: Axis) -> list[str]:
        """The names of an axis's scorers."""
        names = self.complexity_scorer if axis == "complexity" else self.quality_scorer
        return [names] if isinstance(names, str) else names

    @property
    def needs_languages(self) -> bool:
        """True if the language of every conversation has to be known."""
        return bool(self.language) or self.grouped_by == "language"

    @property
    def reading(self) -> ReadOptions:
        """How the rows of the pool are read."""
        return ReadOptions(layout=self.layout, preference=self.preference, modality=self.modality, columns=self.map)


class RemovalSettings(BaseModel):
    """The conversations to remove."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ids: list[str] = Field([], description="Ids of samples, as in decisions.parquet.")
    where: Annotated[str, Field(pattern=r"\S")] | None = Field(
        None, description="An SQL condition on file, line, layout, fields (the row as JSON) or sample_id."
    )
    old_versions: bool = Field(False, description="Whether it is on rows that files had in the past as well.")
    reason: str = Field("", max_length=300, description="Why, for the record; no text of the conversation.")


def removal_settings(ids: list[str], where: str | None, reason: str, old_versions: bool) -> RemovalSettings:
    """Settings of a removal, from arguments only, no file or environment. Raises InputError naming the setting."""
    try:
        return RemovalSettings(ids=ids, where=where, reason=reason, old_versions=old_versions)
    except ValidationError as error:
        problem = error.errors()[0]
        raise InputError(f"Invalid value for {problem['loc'][0]}: {problem['msg'].lower()}.") from None


# Threshold of laptop: in examples/pool every planted rewording has a similarity of 0.95 or more, and no other pair is
# above 0.8. Mean over turns: the sum over many short turns of small talk outweighs a single good answer.
# Threshold of fast: there every rewording has 0.94 or more, and no other pair is above 0.6.
# Settings of paper: sections 2.3 and 2.4, and the released checkpoints.
PRESETS: dict[PresetName, dict[str, Any]] = {
    "laptop": {},
    "fast": {
        "threshold": 0.9,
        "encoder": FAST_ENCODER,
        "complexity_scorer": FAST_ENCODER,
        "quality_scorer": FAST_ENCODER,
    },
    "paper": {
        "turns": "sum",
        "threshold": 0.9,
        "encoder": "mistralai/Mistral-7B-v0.1",
        "encoder_pooling": "last",
        "complexity_scorer": "hkust-nlp/deita-complexity-scorer",
        "quality_scorer": "hkust-nlp/deita-quality-scorer",
    },
}


def why_not(preset: PresetName) -> str | None:
    """The reason why a preset cannot run here without the hub, or None; downloads nothing."""
    if preset != "paper":
        return None
    from huggingface_hub import try_to_load_from_cache

    names = [PRESETS[preset][part] for part in ("encoder", "complexity_scorer", "quality_scorer")]
    absent = [name for name in names if not isinstance(try_to_load_from_cache(name, "config.json"), str)]
    if not absent:
        return None
    return (
        f"the causal language models {', '.join(absent)} are not on this machine; the first run fetches them from the "
        f"hub, and a GPU is advised"
    )


def load_settings(config: Path | None = None, **flags: Any) -> SelectionSettings:
    """Settings of a selection from its preset, a YAML file, the environment and flags, each overriding those before it.

    Flags that are None count as not given. Raises InputError naming the setting and its valid values.
    """
    return fitting(load(SelectionSettings, config, flags))


def fitting(settings: SelectionSettings) -> SelectionSettings:
    """The settings, if they are consistent; raises InputError if not."""
    if settings.threshold == "auto" and settings.budget is None:
        raise InputError("Threshold auto looks for what fills a budget; give a budget as well.")
    if settings.refine is not None and settings.budget is None:
        raise InputError("The scorer of refine scores a multiple of the budget again; give a budget as well.")
    _check_scorers(settings)
    check_limits(settings)
    check_choice(settings, settings.budget, settings.threshold, settings.refine)
    return settings


def _check_scorers(settings: SelectionSettings) -> None:
    """Raise InputError for a setting of judges or classifiers that no scorer of the settings can read."""
    from deita_core.scorers.judged import is_judge
    from deita_core.scorers.served import is_served

    names = [*settings.scorers("complexity"), *settings.scorers("quality"), *filter(None, [settings.refine])]
    if settings.judge_votes > 1 and not any(map(is_judge, names)):
        raise InputError(
            f"A judge is to be asked {settings.judge_votes} times, and no scorer is a judge; name one, such as "
            f"--quality-scorer judge+URL#MODEL, or leave judge_votes out."
        )
    # Only its files tell whether any other name is that of a classifier.
    if settings.classifier_text and all(n in ("laptop", FAST_ENCODER) or is_judge(n) or is_served(n) for n in names):
        raise InputError(
            f"Classifiers are to read {settings.classifier_text}, and no scorer is a classifier; name one, such as "
            f"--quality-scorer FOLDER, or leave classifier_text out."
        )


class EvolutionSettings(BaseModel):
    """Settings of an evolution: evolving chains from seeds and ranking them; paper defaults (section 2.2)."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    llm: LLMSettings = Field(description="The model that evolves and ranks.")
    store: str = Field(
        ".deita",
        min_length=1,
        description="Where answers, chains and rankings are kept: a folder, or s3://BUCKET/NAME.",
    )
    axis: Axis | Literal["both"] = Field("both", description="What to evolve: complexity, quality or both.")
    seeds: int = Field(2_000, ge=1, description="How many samples to draw as seeds; all where there are fewer.")
    rounds: int = Field(5, ge=1, le=10, description="Rounds of evolution, so that a chain has one variant more.")
    tries: int = Field(3, ge=1, le=5, description="Operations tried in a round before it counts as failed.")
    audit: int = Field(20, ge=0, description="Chains of each axis ranked twice, to see how far the judge agrees.")
    draw: int = Field(0, ge=0, description="Seed of every random draw: seeds, operations, orders shown.")
    layout: Layout | None = Field(None, description="The layout of the seeds' files; none: detected for each.")
    limit: Annotated[int, Field(ge=1)] | None = Field(None, description="Read only the first rows of the files.")

    @property
    def reading(self) -> ReadOptions:
        """How the rows of the seeds' files are read."""
        return ReadOptions(layout=self.layout)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes to evolve."""
        return ("complexity", "quality") if self.axis == "both" else (self.axis,)


class TrainingSettings(BaseModel):
    """Settings of training a scorer on ranked chains."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    axis: Axis = Field(description="What the scorer scores: complexity or quality.")
    kind: Literal["head", "causal"] = Field(
        "head", description="head: on stored vectors, minutes on a CPU; causal: a language model that prints a digit."
    )
    store: str = Field(
        ".deita", min_length=1, description="Where vectors and results are kept: a folder, or s3://BUCKET/NAME."
    )
    encoder: str = Field(LAPTOP_ENCODER, description="For a head: a sentence-transformers model.")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="What the encoder computes in.")
    tuning: TuningSettings | None = Field(None, description="For a causal scorer: the model to start from, and how.")

    @model_validator(mode="after")
    def _causal_has_a_model(self) -> "TrainingSettings":
        if self.kind == "causal" and self.tuning is None:
            raise ValueError("a causal scorer starts from a language model, so give --base-model")
        return self
