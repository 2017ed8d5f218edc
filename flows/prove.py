"""The prove flow: a small model fine-tuned on a selection and on its rivals, at equal training tokens."""

from collections.abc import Sequence
from pathlib import Path

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from deita_core.alignment.arms import ArmRun
from deita_core.alignment.rows import data_files
from deita_core.config.proof import BASE, ProofSettings
from deita_core.config.settings import SelectionSettings
from deita_core.export.placing import check_folder
from deita_core.models.fine_tuning import check_installed
from deita_core.stages.contamination import find_excluded
from deita_core.stages.proof.export import ProofReport
from deita_core.stages.proof.job import ProofJob
from flows.steps.computing import (
    compare_with_benchmarks,
    count_tokens,
    encode_pool,
    find_languages,
    order_pool,
    refine_best,
    score_pool,
)
from flows.steps.finding import check_settings, find_models, find_refiner, selection_job
from flows.steps.reading import read_pool
from flows.steps.store import holding
from tasks.prove import choose_subsets, train_arm, write_proof
from tasks.runtime.progress import Progress
from tasks.runtime.runners import check_runner, open_runner


@flow(name="prove", flow_run_name="prove into {out}", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def prove(pool: list[str], out: str, settings: ProofSettings) -> ProofReport:
    """Fine-tune one base model on a selection and on its rivals, and measure each on held-out answers.

    What was trained is not trained again; an interrupted run goes on from the last checkpoint.

    Args:
        pool: Files, folders, globs or hf://datasets/... names.
        out: The folder for the table, the subsets and the losses.
        settings: The base model, the held-out answers, what to compare with, the selection and the training.
    """
    selection = check_settings(settings.selection)
    check_folder(Path(out))
    check_installed()
    check_runner(selection.runner)
    with holding(selection.store), Progress() as progress:
        exclude = find_excluded(selection.exclude, selection.exclude_similarity)
        encoder, scorers = find_models(selection)
        pool_ids = _read(progress, selection, pool, out)
        # These have layouts of their own.
        plain = SelectionSettings(store=selection.store)
        refine = find_refiner(selection, encoder)
        job = ProofJob(
            selection=selection_job(encoder, scorers, refine, pool_ids, selection, exclude),
            settings=settings,
            heldout=_read(progress, plain, [settings.heldout]),
            weaker=_read(progress, plain, [settings.weaker]) if settings.weaker else (),
            arms={name: _read(progress, plain, data_files(file)) for name, file in settings.arms.items()},
        )
        with open_runner(selection.runner) as submit:
            encode_pool(progress, submit, selection.store, encoder, job.encoded_files)
            score_pool(progress, submit, selection.store, encoder, scorers, pool_ids)
            count_tokens(progress, submit, selection.store, job.selection)
            if selection.needs_languages:
                find_languages(progress, submit, selection.store, pool_ids)
            compare_with_benchmarks(progress, selection.store, job.selection)
            refine_best(progress, submit, selection.store, job.selection)
            order_pool(progress, submit, selection.store, job.selection)
        with progress.step("making subsets"):
            subsets = choose_subsets(job)
        runs = _train(progress, job)
        with progress.step("writing"):
            return write_proof(job, subsets, runs, out)


def _read(progress: Progress, settings: SelectionSettings, names: Sequence[str], *own: str) -> tuple[str, ...]:
    """Read files into the store, except those in the folders `own`; returns their ids."""
    return tuple(file.file_id for file in read_pool(progress, names, settings, own=own))


def _train(progress: Progress, job: ProofJob) -> dict[tuple[str, int], ArmRun]:
    """One training after the other, each on all of this machine."""
    seeds = job.settings.all_seeds
    wanted = [(BASE, seeds[0]), *((arm, seed) for seed in seeds for arm in job.settings.names)]
    runs: dict[tuple[str, int], ArmRun] = {}
    with progress.percent("fine-tuning") as watch:
        for done, (arm, seed) in enumerate(wanted):

            def shown(percent: float, note: str, done: int = done, name: str = f"{arm}, seed {seed}") -> None:
                watch((100 * done + percent) / len(wanted), f"{name}: {note}")

            shown(0, "reading")
            runs[arm, seed] = train_arm(job, arm, seed, shown)
        # Ordered by arm for the table, the base model first.
    order = [BASE, *job.settings.names]
    return dict(sorted(runs.items(), key=lambda run: (order.index(run[0][0]), run[0][1])))
