"""The evaluate flows: a language model as a judge sees it, and on benchmarks."""

from functools import partial
from pathlib import Path

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from deita_core.config.evaluation import BenchmarkSettings, JudgeSettings
from deita_core.errors import LLMError
from deita_core.export.placing import check_folder
from deita_core.llm.cache import Usage, usage_of
from deita_core.stages.benchmarks import BenchmarkReport
from deita_core.stages.evaluation.export import JudgeReport
from flows.steps.store import holding
from tasks.evaluate import (
    answer,
    answering_key,
    compute_figures,
    find_job,
    judge_shard,
    plan_answering,
    plan_judging,
    publish_benchmarks,
    publish_judgement,
    run_benchmarks,
    write_evaluation,
)
from tasks.evolve import api_key
from tasks.runtime.llm_shards import ask_shards
from tasks.runtime.progress import Progress


@flow(name="evaluate-judge", flow_run_name="judge into {out}", task_runner=ThreadPoolTaskRunner(max_workers=1))  # type: ignore[arg-type]
def judge(questions: str, out: str, settings: JudgeSettings, reference: str | None = None) -> JudgeReport:
    """Have a model answer questions and a judge judge the answers; what was answered before is not asked again.

    Raises LLMError, after the files are written, if no verdict could be read.

    Args:
        questions: A file of questions.
        out: The folder for answers, judgements and figures.
        settings: The model, the judge, and how both are asked.
        reference: A file with the answers of another model, to compare with; without it each answer gets a score.
    """
    check_folder(Path(out))
    api_key(settings.llm), answering_key(settings)
    with holding(settings.store) as store, Progress() as progress:
        job = find_job(settings, questions, reference)
        ids = {"answers": job.answers_id, "judge": job.id}

        def usage() -> dict[str, Usage]:
            return {name: usage_of(store.side, id_) for name, id_ in ids.items()}

        before, failures = usage(), []
        stages = (
            ("answering", plan_answering, answer, "answers", settings.answering.timeout),
            ("judging", plan_judging, judge_shard, "judge", settings.llm.timeout),
        )
        for name, plan, ask, kept, timeout in stages:
            submit, used = partial(ask.submit, job), partial(usage_of, store.side, ids[kept])
            for failed in ask_shards(progress, name, plan(job), 1, submit, used, timeout):
                failures += failed

        with progress.step("writing"):
            report = compute_figures(job, failures, usage(), before, progress.seconds)
            write_evaluation(report, failures, out)
            publish_judgement(report, out)
    # Raised last, so that all answers and results are stored.
    if failure := report.failure():
        raise LLMError(failure)
    return report


@flow(name="evaluate-benchmarks", flow_run_name="benchmarks into {out}")
def benchmarks(out: str, settings: BenchmarkSettings) -> BenchmarkReport:
    """Evaluate a model on tasks of lm-evaluation-harness.

    Args:
        out: The folder for the figures.
        settings: The model, the tasks, and how they are run.
    """
    check_folder(Path(out))
    with holding(settings.store), Progress() as progress, progress.step("benchmarks"):
        report = run_benchmarks(settings, out)
        publish_benchmarks(report, out)
    return report
