"""The evolve flow: evolve seeds on each axis, rank every chain with a model, export."""

from functools import partial
from pathlib import Path

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from deita_core.config.settings import EvolutionSettings
from deita_core.errors import LLMError
from deita_core.export.placing import check_folder
from deita_core.literals import Axis
from deita_core.llm.cache import usage_of
from deita_core.llm.traffic import TRAFFIC
from deita_core.stages.evolution.export import EvolutionReport
from deita_core.store import Store
from flows.steps.reading import read_found
from flows.steps.store import holding
from tasks.artifacts import publish_evolution
from tasks.evolve import api_key, draw, evolve_chains, plan_chains, plan_rankings, rank_chains, summarise, write_chains
from tasks.ingest import find_files
from tasks.runtime.llm_shards import ask_shards
from tasks.runtime.progress import Progress


# One shard at a time, because all shards share the endpoint's limits.
@flow(name="evolve", flow_run_name="evolve into {out}", task_runner=ThreadPoolTaskRunner(max_workers=1))  # type: ignore[arg-type]
def evolve(seeds: list[str], out: str, settings: EvolutionSettings) -> EvolutionReport:
    """Evolve the first turns of `seeds` and rank the chains; requests answered before are not sent again.

    Raises LLMError, after the files are written, if no seed gave a usable chain.

    Args:
        seeds: Files, folders, globs or hf://datasets/... names.
        out: The folder for the ranked chains.
        settings: The model that evolves and ranks, the axes, and the number of seeds and rounds.
    """
    check_folder(Path(out))
    api_key(settings.llm)
    store = settings.store
    with holding(store), Progress() as progress:
        found = find_files(seeds, settings.reading, [store, out])
        files = read_found(progress, store, found, settings.limit)
        job = draw(store, tuple(file.file_id for file in files), settings)
        usage = partial(usage_of, Store(store).side, job.id)
        before, traffic = usage(), TRAFFIC.copy()

        axis: Axis
        for axis in settings.axes:
            shards = plan_chains(store, job, axis)
            submit = partial(evolve_chains.submit, store, job, axis)
            ask_shards(progress, f"evolving {axis}", shards, settings.rounds, submit, usage, settings.llm.timeout)

            shards = plan_rankings(store, job, axis)
            submit = partial(rank_chains.submit, store, job, axis)
            ask_shards(progress, f"ranking {axis}", shards, 1, submit, usage, settings.llm.timeout)

        with progress.step("writing"):
            report = summarise(job, usage(), before, TRAFFIC.since(traffic), progress.seconds)
            write_chains(report, out)
            publish_evolution(report, out)
    # Raised last, so that all answers and results are stored.
    if failure := report.failure(Path(out)):
        raise LLMError(failure)
    return report
