"""Scores as a file, and what a threshold means in a pool."""

from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact

from deita_core.models.encoder_spec import EncoderFiles
from deita_core.scorers import ScorerFiles
from deita_core.selection.calibration import Calibration, calibration_text
from deita_core.stages.measuring import calibrate_pool, export_scores
from deita_core.store import Store
from tasks.runtime.policy import RETRIES


@task(task_run_name="write {out}", **RETRIES)
def write_scores(store: str, file_ids: Sequence[str], scorers: Sequence[ScorerFiles], out: str) -> dict[str, int]:
    """Write the pool's scores; returns counts of the statuses."""
    return export_scores(Store(store), file_ids, scorers, Path(out))


@task(task_run_name="calibrate {encoder.name}", **RETRIES)
def calibrate_encoder(
    store: str, file_ids: Sequence[str], encoder: EncoderFiles, keep: float, samples: int
) -> Calibration:
    """Measure how alike the pool's vectors are, and publish it."""
    found = calibrate_pool(Store(store), file_ids, encoder, keep, samples)
    create_markdown_artifact(key="calibration", markdown=calibration_text(found, encoder.name))
    return found
