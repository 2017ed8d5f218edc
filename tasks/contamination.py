"""Tasks that compare the pool with the questions of benchmarks."""

from functools import partial

from prefect import task

from deita_core.stages.contamination import find_overlaps_of, find_similarities
from deita_core.stages.job import Job
from deita_core.store import Store
from tasks.embed import loaded_any
from tasks.runtime.policy import RETRIES


@task(task_run_name="compare words with benchmarks", **RETRIES)
def compare_words(store: str, job: Job) -> int:
    """Look for the questions' words in the samples that were not compared; returns their number."""
    return find_overlaps_of(Store(store), job.exclude, job.file_ids) if job.exclude else 0


@task(task_run_name="compare vectors with benchmarks", **RETRIES)
def compare_vectors(store: str, job: Job) -> int:
    """Compare the vectors of the samples that were not compared with those of the questions; returns their number."""
    if job.exclude is None or job.exclude.similarity is None:
        return 0
    return find_similarities(Store(store), job.exclude, job.encoder, partial(loaded_any, job.encoder), job.file_ids)
