"""Tasks that evaluate a language model: by a judge, and on benchmarks."""

import os
from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from deita_core.config.evaluation import ANSWERING_KEY, BenchmarkSettings, JudgeSettings, answering_llm, is_endpoint
from deita_core.export.markdown import markdown_table
from deita_core.llm.cache import Usage
from deita_core.llm.settings import check_key
from deita_core.stages.benchmarks import BenchmarkReport, benchmark
from deita_core.stages.evaluation.export import JudgeReport, export_evaluation, judge_report
from deita_core.stages.evaluation.job import Failure, JudgeJob, prepare_job
from deita_core.stages.evaluation.run import answer_questions, judge_answers, plan_answers, plan_judgements
from deita_core.stages.shards import Shard
from deita_core.store import Store
from tasks.artifacts import shown_if_possible
from tasks.evolve import api_key
from tasks.runtime.policy import RETRIES


def answering_key(settings: JudgeSettings) -> str:
    """Read the key of the evaluated model: its own, else the judge's if both are at the same address."""
    if own := os.environ.get(ANSWERING_KEY, "").strip():
        return check_key(own)
    if not is_endpoint(settings.model):
        return "none"
    same = answering_llm(settings).base_url == settings.llm.base_url
    return api_key(settings.llm) if same else "none"


@task(task_run_name="find the model and the questions", **RETRIES)
def find_job(settings: JudgeSettings, questions: str, reference: str | None) -> JudgeJob:
    """Read the questions and find the model."""
    return prepare_job(settings, questions, reference)


@task(task_run_name="plan answers", **RETRIES)
def plan_answering(job: JudgeJob) -> list[Shard]:
    """Return a shard of the answers that are not kept."""
    return plan_answers(Store(job.settings.store), job)


@task(task_run_name="answer {shard.rows} turns", **RETRIES)
def answer(job: JudgeJob, shard: Shard) -> list[Failure]:
    """Answer the questions; returns the requests without an answer."""
    return answer_questions(Store(job.settings.store), job, answering_key(job.settings))


@task(task_run_name="plan judgements", **RETRIES)
def plan_judging(job: JudgeJob) -> list[Shard]:
    """Return a shard of the judge's replies that are not kept."""
    return plan_judgements(Store(job.settings.store), job)


@task(task_run_name="judge {shard.rows} answers", **RETRIES)
def judge_shard(job: JudgeJob, shard: Shard) -> list[Failure]:
    """Judge the answers; returns the requests without a reply."""
    return judge_answers(Store(job.settings.store), job, api_key(job.settings.llm))


@task(task_run_name="compute figures", **RETRIES)
def compute_figures(
    job: JudgeJob,
    failures: Sequence[Failure],
    usage: dict[str, Usage],
    before: dict[str, Usage],
    seconds: dict[str, float],
) -> JudgeReport:
    """Read the judge's replies and compute figures."""
    return judge_report(Store(job.settings.store), job, failures, usage, before, seconds)


@task(task_run_name="write {out}", **RETRIES)
def write_evaluation(report: JudgeReport, failures: Sequence[Failure], out: str) -> list[str]:
    """Write the files of an evaluation; returns their names."""
    return export_evaluation(Store(report.job.settings.store), report, failures, Path(out))


@task(task_run_name="run {settings.tasks}", **RETRIES)
def run_benchmarks(settings: BenchmarkSettings, out: str) -> BenchmarkReport:
    """Run benchmarks and write their figures."""
    return benchmark(settings, Path(out))


def publish_judgement(report: JudgeReport, out: str) -> None:
    """Publish the figures; no text of a question or an answer."""
    header = ("figure", "mean", "standard error", "values")
    with shown_if_possible(f"in {out}"):
        create_markdown_artifact(
            key="evaluation-figures",
            markdown=f"{markdown_table(header, report.table())}\n\nFiles: `{out}`",
            description=f"{report.job.settings.model} as {report.job.settings.llm.model} judges it",
        )


def publish_benchmarks(report: BenchmarkReport, out: str) -> None:
    """Publish the figures of tasks."""
    rows = [dict(zip(("task", "figure", "value", "standard error"), row, strict=True)) for row in report.table()]
    with shown_if_possible(f"in {out}"):
        create_table_artifact(key="evaluation-benchmarks", table=rows, description=f"Benchmarks. Files: `{out}`")
