"""Flows that analyse a pool without selecting: its scores, and what a threshold means for the encoder."""

from pathlib import Path

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from deita_core.config.settings import SelectionSettings
from deita_core.selection.calibration import Calibration
from deita_core.stages.encoding import find_pool_encoder
from deita_core.stages.measuring import check_scores_file
from flows.steps.computing import encode_pool, score_pool
from flows.steps.finding import find_models
from flows.steps.reading import read_pool
from flows.steps.store import holding
from tasks.export import calibrate_encoder, write_scores
from tasks.runtime.progress import Progress
from tasks.runtime.runners import check_runner, open_runner


@flow(name="score", flow_run_name="score into {out}", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def score(pool: list[str], out: str, settings: SelectionSettings | None = None) -> dict[str, int]:
    """Score every turn of a pool on both axes, and write the scores to the file `out`; returns counts of statuses.

    Computes only scores that the store lacks. `select` uses the same scores.
    """
    settings = settings or SelectionSettings()
    check_scores_file(Path(out))
    check_runner(settings.runner)
    encoder, scorers = find_models(settings)
    with holding(settings.store), Progress() as progress:
        file_ids = tuple(file.file_id for file in read_pool(progress, pool, settings, own=[]))
        with open_runner(settings.runner) as submit:
            if any(scorer.kind == "head" for scorer in scorers):
                encode_pool(progress, submit, settings.store, encoder, file_ids)
            score_pool(progress, submit, settings.store, encoder, scorers, file_ids)
        with progress.step("writing"):
            return write_scores(settings.store, file_ids, scorers, out)


@flow(name="calibrate", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def calibrate(
    pool: list[str], settings: SelectionSettings | None = None, keep: float = 0.9, samples: int = 5_000
) -> Calibration:
    """Measure the similarity of a pool's vectors, and find the threshold that keeps the share `keep` of the pool."""
    settings = settings or SelectionSettings()
    encoder = find_pool_encoder(settings)
    with holding(settings.store), Progress() as progress:
        file_ids = tuple(file.file_id for file in read_pool(progress, pool, settings, own=[]))
        with open_runner(settings.runner) as submit:
            encode_pool(progress, submit, settings.store, encoder, file_ids)
        with progress.step("calibrating"):
            return calibrate_encoder(settings.store, file_ids, encoder, keep, samples)
