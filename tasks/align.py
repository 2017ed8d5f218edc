"""Tasks that fine-tune a language model; a run resumes from its last checkpoint, and a finished one is not repeated."""

from collections.abc import Callable
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from deita_core.alignment.dpo import align_dpo
from deita_core.alignment.records import DpoMetrics, SftMetrics, TrainingMetrics, figure_lines
from deita_core.alignment.settings import DpoSettings, SftSettings
from deita_core.alignment.sft import align_sft
from tasks.artifacts import shown_if_possible
from tasks.runtime.policy import RETRIES
from tasks.train import step_reporter

# The folder says whether a run is finished, so nothing is cached by Prefect.
Watch = Callable[[float, str], None]


@task(task_run_name="fine-tune {settings.base_model}", cache_policy=NO_CACHE, **RETRIES)
def fine_tune(data: str, out: str, settings: SftSettings, watch: Watch) -> SftMetrics:
    """Fine-tune a model on answers; `watch` gets the percentage done and a note."""
    return align_sft(data, Path(out), settings, report=step_reporter("fine-tuning", watch))


@task(task_run_name="optimise {settings.model} on preferences", cache_policy=NO_CACHE, **RETRIES)
def prefer(data: str, out: str, settings: DpoSettings, watch: Watch) -> DpoMetrics:
    """Train a model on pairs of answers; `watch` gets the percentage done and a note."""
    return align_dpo(data, Path(out), settings, report=step_reporter("preferences", watch))


def publish_training(metrics: TrainingMetrics, out: str) -> None:
    """Show the figures of a training as an artifact."""
    with shown_if_possible(f"in {out}"):
        create_markdown_artifact(
            key="alignment",
            markdown="".join(f"- {line}\n" for line in figure_lines(metrics)) + f"\nFolder: `{out}`",
            description="Figures of a fine-tuned model",
        )
