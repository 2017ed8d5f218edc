"""Settings of evaluations: by a judge, and on benchmarks."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deita_core.errors import InputError
from deita_core.llm.settings import LLMLimits, LLMSettings

# The key of an evaluated model at another address than the judge's.
ANSWERING_KEY = "DEITA_ANSWERING__API_KEY"

Model = Annotated[str, Field(min_length=1)]
Precisions = Literal["auto", "float32", "bfloat16"]


class JudgeSettings(BaseModel):
    """Settings of an evaluation by a judge."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    model: Model = Field(description="The model to evaluate: a folder, a hub name, smollm2-135m, or URL#MODEL.")
    llm: LLMSettings = Field(description="The judge, which is asked at temperature 0, and the limits on its use.")
    answering: LLMLimits = Field(
        LLMLimits(),
        description="Limits on the use of the evaluated model, if it is served: prices, a cap and so on.",
    )
    store: str = Field(
        ".deita", min_length=1, description="Where answers and replies are kept: a folder, or s3://BUCKET/NAME."
    )
    temperature: float = Field(0.0, ge=0, le=2, description="Of the answers; 0: the likeliest token each time.")
    max_tokens: int = Field(1_024, ge=1, description="Longest answer, in tokens.")
    seed: int = Field(0, ge=0, description="Of sampled answers.")
    batch: int = Field(8, ge=1, description="Questions that a model on this machine answers at a time.")
    precision: Precisions = Field("auto", description="What a model on this machine computes in.")
    limit: Annotated[int, Field(ge=1)] | None = Field(None, description="Ask only the first questions.")


class BenchmarkSettings(BaseModel):
    """Settings of an evaluation on benchmarks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Model = Field(description="The model to evaluate: a folder, a hub name, or smollm2-135m.")
    tasks: list[str] = Field(min_length=1, description="Names of tasks and groups of lm-evaluation-harness.")
    task_folder: Path | None = Field(None, description="A folder of own tasks; then only these are known.")
    store: str = Field(".deita", min_length=1, description="Where results of requests are kept: a folder.")
    shots: Annotated[int, Field(ge=0)] | None = Field(None, description="Examples before a question; none: the task's.")
    chat_template: bool = Field(False, description="Put questions with the model's chat template.")
    batch: int = Field(8, ge=1, description="Requests computed at a time.")
    precision: Precisions = Field("auto", description="What the model computes in.")
    limit: Annotated[int, Field(ge=1)] | None = Field(None, description="Only the first documents of each task.")


def endpoint_of(name: str) -> tuple[str | None, str]:
    """Address and model of an endpoint's name: URL#MODEL, or MODEL alone at OpenAI's. Raises InputError."""
    if "://" not in name:
        return None, name
    address, _, model = name.partition("#")
    if not model.strip():
        raise InputError(f"The endpoint {address} is given without a model; write it as http://HOST:PORT/v1#MODEL.")
    return address, model.strip()


def is_endpoint(name: str) -> bool:
    """Whether a model's name is the address of an endpoint."""
    return name.lower().startswith(("http://", "https://"))


def answering_llm(settings: JudgeSettings) -> LLMSettings:
    """The settings of the evaluated model's endpoint. Raises InputError."""
    address, model = endpoint_of(settings.model)
    try:
        return LLMSettings(
            **settings.answering.model_dump(),
            base_url=address,
            model=model,
            temperature=settings.temperature,
            seed=settings.seed,
            max_tokens=settings.max_tokens,
        )
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(f"The model {model} cannot be asked: {said}.") from None
