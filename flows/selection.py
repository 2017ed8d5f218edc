"""The main job: read a pool, score and embed what is new in it, select, export."""

from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from deita_core.settings import SelectionSettings
from deita_core.stages.choosing import Job
from deita_core.stages.exporting import Report
from deita_core.store import Store
from deita_core.writers import check_folder
from flows.progress import Progress
from flows.steps import encode_pool, find_models, read_pool, score_pool
from tasks.export import close_run, export_files
from tasks.report import publish
from tasks.selection import select_samples


# Two shards at a time: one is read or written while the other is computed.
@flow(name="select", flow_run_name="select into {out}", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def select(pool: list[str], out: str, settings: SelectionSettings | None = None) -> Report:
    """Select the best and most diverse conversations of a pool into the folder `out`.

    `pool`: files, folders, globs or hf://datasets/... names. Does only what the store lacks.
    """
    settings = settings or SelectionSettings()
    check_folder(Path(out))
    encoder, scorers = find_models(settings)
    store, run_id = settings.store, str(flow_run.id)
    with Store(store).lock(f"{flow_run.name} ({run_id})"), Progress() as progress:
        files = read_pool(progress, pool, settings, leave_out=[out])
        file_ids = tuple(file.file_id for file in files)
        encoded = encode_pool(progress, store, encoder, file_ids)
        scored = score_pool(progress, store, encoder, scorers, file_ids)

        complexity, quality = scorers
        job = Job(
            run_id=run_id,
            file_ids=file_ids,
            encoder=encoder,
            complexity=complexity,
            quality=quality,
            **settings.model_dump(include={"turns", "training_tokens", "budget", "threshold"}),
        )
        with progress.step("selecting"):
            chosen = select_samples(store, job)

        report = Report(
            job=job,
            settings=settings,
            files=files,
            chosen=chosen,
            encoded=encoded,
            scored=scored,
            seconds=progress.seconds,
        )
        with progress.step("writing"):
            export_files(report, out)
            publish(report, out)
            close_run(report)
    return report
