"""Tasks of a proof: the subsets, one training for each arm and seed, and the files."""

from collections.abc import Callable, Mapping
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from deita_core.alignment.arms import ArmRun
from deita_core.stages.proof.export import ProofReport, export_proof, proof_card, proof_report
from deita_core.stages.proof.job import ProofJob
from deita_core.stages.proof.subsets import SubsetReport, make_subsets
from deita_core.stages.proof.training import fine_tune_arm
from deita_core.store import Store
from tasks.artifacts import shown_if_possible
from tasks.runtime.policy import RETRIES
from tasks.train import step_reporter

Runs = Mapping[tuple[str, int], ArmRun]


@task(task_run_name="make subsets", cache_policy=NO_CACHE, **RETRIES)
def choose_subsets(job: ProofJob) -> SubsetReport:
    """Choose the rows of every arm."""
    return make_subsets(Store(job.selection.settings.store), job)


# The store's folder says which trainings are finished, so nothing is cached by Prefect.
@task(task_run_name="fine-tune on {arm}, seed {seed}", cache_policy=NO_CACHE, **RETRIES)
def train_arm(job: ProofJob, arm: str, seed: int, watch: Callable[[float, str], None]) -> ArmRun:
    """Fine-tune on one subset and measure; `watch` gets the percentage done and a note."""
    reporter = step_reporter(f"{arm} {seed}", watch)
    return fine_tune_arm(Store(job.selection.settings.store), job, arm, seed, reporter)


def write_proof(job: ProofJob, subsets: SubsetReport, runs: Runs, out: str) -> ProofReport:
    """Compare the arms, write the files, and show the table as an artifact."""
    store = Store(job.selection.settings.store)
    report = proof_report(store, job, subsets, runs)
    export_proof(store, report, runs, Path(out))
    with shown_if_possible(f"in {out}"):
        create_markdown_artifact(key="proof", markdown=proof_card(report), description=report.verdict)
    return report
