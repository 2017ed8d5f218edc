"""A cascade beside the slow scorer alone: the share of its selection that is recovered, and the share of its cost.

    python -m benchmarks.cascade --refine FOLDER [--rows 5000] [--budget 500] [--factors 2 4 8] [--store FOLDER]

The scorers of --preset rank rows of the planted pool, and the slow scorer reads the best `factor` times the budget. The
reference is the selection that the slow scorer makes when it reads all rows. The cost is the share of the pool's
characters that the slow scorer reads. `python -m benchmarks.reward_model FOLDER` makes a slow scorer.
"""

import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import polars as pl

from benchmarks.fast import POOL, take_groups
from deita_core.config.settings import SelectionSettings
from deita_core.export.markdown import markdown_table
from deita_core.literals import AXES
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.models.static_encoder import load_text_encoder
from deita_core.scorers import ScorerFiles, find_scorer, load_found
from deita_core.stages.encoding import encode_shard, find_pool_encoder, plan_encoding
from deita_core.stages.ingest import describe_file, ingest_file
from deita_core.stages.ranking import best_to_refine
from deita_core.stages.scoring import plan_samples, plan_scoring, score_shard
from deita_core.stages.selecting import Job, decisions_of, select
from deita_core.stages.shards import Shard
from deita_core.store import Store
from deita_core.tables import SAMPLES


@dataclass(frozen=True)
class Pool:
    """A pool in a store, scored by the fast scorers of the settings."""

    store: Store
    settings: SelectionSettings
    encoder: EncoderFiles
    fast: list[ScorerFiles]
    slow: ScorerFiles
    file_id: str

    def job(self, factor: int | None) -> Job:
        """A selection in which the slow scorer reads `factor` times the budget; None: nothing."""
        complexity, quality = self.fast
        return Job(
            run_id=f"factor {factor}",
            file_ids=(self.file_id,),
            encoder=self.encoder,
            complexity=complexity,
            quality=quality,
            refine=None if factor is None else self.slow,
            settings=self.settings.model_copy(update={"refine_factor": factor or 1}),
        )

    def score(self, scorer: ScorerFiles, shards: Sequence[Shard]) -> None:
        """Score shards that a scorer has not scored."""
        loaded = load_found(scorer, self.encoder) if shards else None
        for shard in shards:
            assert loaded is not None
            score_shard(self.store, [(loaded, scorer)], self.encoder, shard)

    def select(self, factor: int | None) -> tuple[set[str], pl.Series]:
        """The ids selected, and those that the slow scorer has read for it."""
        job = self.job(factor)
        read = pl.Series("id", [], pl.String)
        if job.refine is not None:
            read = best_to_refine(self.store, job)
            self.score(job.refine, plan_samples(self.store, [job.refine], read))
        select(self.store, job)
        return set(decisions_of(self.store, job).filter(pl.col("fate") == "selected")["id"]), read


def main() -> None:
    """Print the table."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--refine", required=True, help="the slow scorer")
    parser.add_argument("--preset", choices=["laptop", "fast"], default="laptop")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rows", type=int, default=5_000, help="of the planted pool, in whole groups of duplicates")
    parser.add_argument("--budget", type=int, default=500)
    parser.add_argument("--factors", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--store", type=Path, default=None, help="keeps the store; default: a temporary one")
    options = parser.parse_args()
    settings = SelectionSettings(preset=options.preset, budget=options.budget)
    with tempfile.TemporaryDirectory() if options.store is None else nullcontext(options.store) as folder:
        rows = take_groups(options.data, Path(folder).resolve(), options.rows)
        pool = prepare(Path(folder).resolve(), settings, options.refine)
        print(table(pool, rows, options.factors))


def prepare(folder: Path, settings: SelectionSettings, slow: str) -> Pool:
    """Read, encode and score the pool in a folder with the fast scorers."""
    store, encoder = Store(folder / "store"), find_pool_encoder(settings)
    fast = [find_scorer(name, axis, encoder) for axis in AXES for name in settings.scorers(axis)]
    file_id = ingest_file(store, describe_file(str(folder / POOL))).file_id
    model = load_text_encoder(encoder)
    for shard in plan_encoding(store, encoder, [file_id]):
        encode_shard(store, model, shard)
    pool = Pool(store, settings, encoder, fast, find_scorer(slow, "quality", encoder), file_id)
    for scorer in fast:
        pool.score(scorer, plan_scoring(store, [scorer], [file_id]))
    return pool


def table(pool: Pool, rows: pl.DataFrame, factors: Sequence[int]) -> str:
    """The Markdown table: recovered selection and cost, by factor."""
    budget = pool.settings.budget or 1
    started = perf_counter()
    wanted, everything = pool.select(-(-len(rows) // budget))
    print(f"{len(everything):,} of {len(rows):,} rows read in {perf_counter() - started:.0f} s", flush=True)
    size_of = dict(pool.store.fetch(SAMPLES, "id", everything, ["id", "n_chars"]).iter_rows())
    lines = []
    for factor in (None, *factors):
        found, read = pool.select(factor)
        cost = sum(size_of[id_] for id_ in read) / sum(size_of.values())
        lines.append((factor or "fast scorers alone", f"{len(found & wanted) / len(wanted):.3f}", f"{cost:.3f}"))
    return markdown_table(("factor", "of the slow scorer's selection", "of its cost"), lines)


if __name__ == "__main__":
    main()
