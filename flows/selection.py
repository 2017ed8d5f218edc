"""The main job: read a pool, score and embed what is new in it, select, export."""

from functools import partial
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from deita_core.encoders import find_encoder
from deita_core.scorers import find_scorer
from deita_core.settings import SelectionSettings
from deita_core.stages.choosing import Job
from deita_core.stages.exporting import Report
from deita_core.store import Store
from deita_core.writers import check_folder
from flows.progress import Progress
from tasks.embed import encode_texts, plan_texts
from tasks.export import close_run, export_files
from tasks.ingest import find_files, read_files
from tasks.report import publish
from tasks.score import plan_turns, score_turns
from tasks.selection import select_samples


# Two shards at a time: one is read or written while the other is computed.
@flow(name="select", flow_run_name="select into {out}", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def select(pool: list[str], out: str, settings: SelectionSettings | None = None) -> Report:
    """Select the best and most diverse conversations of a pool into the folder `out`.

    `pool`: files, folders, globs or hf://datasets/... names. Does only what the store lacks.
    """
    settings = settings or SelectionSettings()
    check_folder(Path(out))
    encoder = find_encoder(settings.encoder, settings.precision)
    scorers = [
        find_scorer(settings.complexity_scorer, "complexity", encoder),
        find_scorer(settings.quality_scorer, "quality", encoder),
    ]
    store, run_id = settings.store, str(flow_run.id)
    with Store(store).lock(f"{flow_run.name} ({run_id})"), Progress() as progress:
        found = find_files(pool, settings.layout, [store, out])
        files = list(progress.steps("reading", read_files(store, found, settings.limit), total=len(found)))
        file_ids = tuple(file.file_id for file in files)

        shards = plan_texts(store, encoder, file_ids)
        encoded = progress.shards("encoding", shards, partial(encode_texts.submit, store, encoder))

        scored = 0
        for scorer in scorers:
            shards = plan_turns(store, scorer, file_ids)
            submit = partial(score_turns.submit, store, scorer, encoder)
            scored += progress.shards(f"scoring {scorer.axis}", shards, submit)

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
