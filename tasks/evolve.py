"""Tasks that evolve and rank shards of chains; each answer is cached as it arrives."""

from pathlib import Path
from typing import Any

from prefect import task
from prefect.blocks.system import Secret

from deita_core.config.settings import EvolutionSettings
from deita_core.errors import LLMError
from deita_core.literals import Axis
from deita_core.llm.cache import Usage
from deita_core.llm.client import LLMSettings, find_key
from deita_core.llm.traffic import Traffic
from deita_core.stages.evolution.export import EvolutionReport, evolution_report, export_chains
from deita_core.stages.evolution.run import (
    EvolutionJob,
    draw_seeds,
    evolve_shard,
    plan_evolution,
    plan_ranking,
    rank_shard,
)
from deita_core.stages.shards import Shard
from deita_core.store import Store
from tasks.runtime.policy import RETRIES


def api_key(settings: LLMSettings) -> str:
    """Read the key where it is used, so that no parameter, state or artifact contains it."""
    if settings.api_key_block is None:
        return find_key(settings)
    try:
        block: Any = Secret.load(settings.api_key_block)
    except ValueError:
        raise LLMError(
            f"There is no Prefect Secret block {settings.api_key_block!r}; make one in the UI, or unset api_key_block."
        ) from None
    return find_key(settings, str(block.get()))


@task(task_run_name="draw seeds", **RETRIES)
def draw(store: str, file_ids: tuple[str, ...], settings: EvolutionSettings) -> EvolutionJob:
    """Draw the seeds of an evolution."""
    return draw_seeds(Store(store), file_ids, settings)


@task(task_run_name="plan {axis} evolution", **RETRIES)
def plan_chains(store: str, job: EvolutionJob, axis: Axis) -> list[Shard]:
    """Return shards of the seeds without a chain."""
    return plan_evolution(Store(store), job, axis)


@task(task_run_name="evolve {shard.rows} {axis} chains", **RETRIES)
def evolve_chains(store: str, job: EvolutionJob, axis: Axis, shard: Shard) -> int:
    """Evolve a shard; returns the number of chains."""
    return evolve_shard(Store(store), job, axis, shard, api_key(job.settings.llm))


@task(task_run_name="plan {axis} ranking", **RETRIES)
def plan_rankings(store: str, job: EvolutionJob, axis: Axis) -> list[Shard]:
    """Return shards of the chains without a ranking."""
    return plan_ranking(Store(store), job, axis)


@task(task_run_name="rank {shard.rows} {axis} chains", **RETRIES)
def rank_chains(store: str, job: EvolutionJob, axis: Axis, shard: Shard) -> int:
    """Rank a shard; returns the number of rankings."""
    return rank_shard(Store(store), job, axis, shard, api_key(job.settings.llm))


@task(task_run_name="count chains", **RETRIES)
def summarise(
    job: EvolutionJob, usage: Usage, before: Usage, traffic: Traffic, seconds: dict[str, float]
) -> EvolutionReport:
    """Return the report: the fate of every seed, the judge's agreement with itself, and the usage."""
    return evolution_report(Store(job.settings.store), job, usage, before, traffic, seconds)


@task(task_run_name="write {out}", **RETRIES)
def write_chains(report: EvolutionReport, out: str) -> list[str]:
    """Write the ranked chains' files; returns their names."""
    return export_chains(Store(report.job.settings.store), report, Path(out))
