"""The align flows: a language model fine-tuned on a selection, then on preference pairs."""

from pathlib import Path

from prefect import flow

from deita_core.alignment.records import DpoMetrics, SftMetrics
from deita_core.alignment.settings import DpoSettings, SftSettings
from deita_core.export.placing import check_folder
from tasks.align import fine_tune, prefer, publish_training
from tasks.runtime.progress import Progress


@flow(name="align-sft", flow_run_name="fine-tune {settings.base_model} into {out}")
def sft(data: str, out: str, settings: SftSettings) -> SftMetrics:
    """Fine-tune a model on the answers of a selection, or of any other data.

    An interrupted run goes on from its last checkpoint; a finished one is not repeated.

    Args:
        data: An output folder of a selection, or a file, folder or glob that the readers take.
        out: The folder for the model.
        settings: The base model, and its training.
    """
    check_folder(Path(out))
    with Progress() as progress:
        with progress.percent("fine-tuning") as watch:
            metrics = fine_tune(data, out, settings, watch)
        publish_training(metrics, out)
    return metrics


@flow(name="align-dpo", flow_run_name="optimise {settings.model} into {out}")
def dpo(pairs: str, out: str, settings: DpoSettings) -> DpoMetrics:
    """Train a fine-tuned model to prefer the chosen answers of pairs; goes on and ends as `sft` does.

    Args:
        pairs: A file, folder or glob of rows with prompt, chosen and rejected.
        out: The folder for the model.
        settings: The fine-tuned model, and its training.
    """
    check_folder(Path(out))
    with Progress() as progress:
        with progress.percent("preferences") as watch:
            metrics = prefer(pairs, out, settings, watch)
        publish_training(metrics, out)
    return metrics
