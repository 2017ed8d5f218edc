"""The pairs flow: preference pairs from a pool with several answers to one instruction."""

from pathlib import Path

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from deita_core.config.settings import SelectionSettings
from deita_core.selection.pairs import PairRules
from deita_core.stages.pairs import PairReport, check_pairs_files
from flows.steps.computing import encode_pool, score_pool
from flows.steps.finding import find_models
from flows.steps.reading import read_pool
from flows.steps.store import holding
from tasks.pairs import write_pairs
from tasks.runtime.progress import Progress
from tasks.runtime.runners import check_runner, open_runner


@flow(name="pairs", flow_run_name="pairs into {out}", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def pairs(
    pool: list[str],
    out: str,
    settings: SelectionSettings | None = None,
    rules: PairRules | None = None,
    decisions: str | None = None,
) -> PairReport:
    """Pair the best answer to each instruction with the worst, by their quality scores; does only what the store lacks.

    Args:
        pool: Files, folders, globs or hf://datasets/... names.
        out: The file of pairs, .jsonl or .parquet.
        settings: How to encode and score, and the store; none: the laptop preset.
        rules: Which answers make a pair.
        decisions: A .parquet file for what came of each row.
    """
    settings = settings or SelectionSettings()
    check_pairs_files(Path(out), None if decisions is None else Path(decisions))
    check_runner(settings.runner)
    encoder, scorers = find_models(settings, ["quality"])
    with holding(settings.store), Progress() as progress:
        file_ids = tuple(file.file_id for file in read_pool(progress, pool, settings, own=[]))
        with open_runner(settings.runner) as submit:
            encode_pool(progress, submit, settings.store, encoder, file_ids)
            score_pool(progress, submit, settings.store, encoder, scorers, file_ids)
        with progress.step("pairing"):
            return write_pairs(settings.store, file_ids, encoder, scorers, rules or PairRules(), out, decisions)
