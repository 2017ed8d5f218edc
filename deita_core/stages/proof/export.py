"""Writes what a proof found: the table and the verdict, the subsets, and the loss of every answer."""

from collections.abc import Mapping
from pathlib import Path

import orjson
import polars as pl
from pydantic import BaseModel

from deita_core.alignment.arms import ArmRun
from deita_core.config.proof import BASE, DEITA
from deita_core.evaluation.proof import ArmFigures, Difference, Mean, compare_arms, verdict
from deita_core.export.markdown import markdown_table
from deita_core.export.placing import place_files, prepare_files
from deita_core.export.tables import ARM_LOSSES
from deita_core.stages.ingest import pool_ids
from deita_core.stages.proof.job import OVERLAPS_FILE, PAIRS_FILE, SUBSETS_FILE, ProofJob
from deita_core.stages.proof.subsets import SubsetReport
from deita_core.store import Store

LOSSES_FILE, CARD, RESULTS = "losses.parquet", "README.md", "results.json"
HEADER = (
    "arm",
    "loss per token",
    "loss per row",
    "more than deita, 95% interval",
    "good likelier",
    "rows",
    "tokens",
    "steps",
    "s",
)


class ArmCost(BaseModel):
    """What one arm trained on, averaged over seeds: rows, training tokens over all epochs, steps, seconds."""

    rows: float
    tokens: float
    steps: float
    seconds: float


class ProofReport(BaseModel):
    """The results of a proof. `measured`: held-out answers that fit; `unmeasured`: those that do not."""

    job: ProofJob
    subsets: SubsetReport
    figures: list[ArmFigures]
    costs: dict[str, ArmCost]
    verdict: str
    measured: int
    unmeasured: int

    def table(self) -> list[tuple[str, ...]]:
        """Rows of the summary, as HEADER names them."""
        return [
            (
                one.arm,
                _shown(one.per_token),
                _shown(one.per_row),
                "" if one.difference is None else _interval(one.difference),
                "" if one.likelier is None else _shown(one.likelier, 3),
                *(f"{value:,.0f}" for value in self.costs[one.arm].model_dump().values()),
            )
            for one in self.figures
        ]

    def notes(self) -> list[str]:
        """What has to be known to read the table."""
        subsets, settings = self.subsets, self.job.settings
        taken = ", ".join(f"{reason} {n:,}" for reason, n in subsets.overlaps.items()) or "none"
        lines = [
            f"Each arm fine-tunes {settings.base_model} on {subsets.tokens:,} tokens an epoch or at most 1% fewer, "
            f"{settings.training.epochs} epochs, {settings.seeds} seeds. A step has about as many tokens in every arm.",
            f"Losses are negative log-likelihoods of an answer's token in nats, on {self.measured:,} held-out answers; "
            f"the second figure is the standard error over seeds.",
            f"Taken out of every arm because they stand in the held-out file, or nearly: {taken}.",
        ]
        if subsets.pairs:
            lines.append(f"Good answers were compared with {subsets.pairs:,} weaker ones to the same instruction.")
        if self.unmeasured:
            lines.append(f"{self.unmeasured:,} held-out answers do not fit into {settings.training.max_tokens} tokens.")
        lines += [f"The arm {arm} has only {tokens:,} tokens an epoch." for arm, tokens in subsets.short.items()]
        return lines


def proof_report(
    store: Store, job: ProofJob, subsets: SubsetReport, runs: Mapping[tuple[str, int], ArmRun]
) -> ProofReport:
    """Compare all arms. `runs`: by arm and seed; the base model has one run."""
    losses, folder = arm_losses(store, job, runs), job.folder(store)
    figures = compare_arms(losses, pl.read_parquet(folder / PAIRS_FILE), DEITA)
    held = losses.filter("held_out")["id"].n_unique()
    return ProofReport(
        job=job,
        subsets=subsets,
        figures=figures,
        costs=_costs(job, pl.read_parquet(folder / SUBSETS_FILE), runs),
        verdict=verdict(figures, DEITA),
        measured=held,
        unmeasured=subsets.held_out - held,
    )


def arm_losses(store: Store, job: ProofJob, runs: Mapping[tuple[str, int], ArmRun]) -> pl.DataFrame:
    """The loss of every measured answer under every run, as in ARM_LOSSES."""
    held = pool_ids(store, job.heldout)
    frames = [
        run.losses.select(
            arm=pl.lit(arm), seed=pl.lit(seed, pl.Int64), id="id", held_out=pl.col("id").is_in(held.implode()),
            loss="loss", tokens="tokens",
        )
        for (arm, seed), run in runs.items()
    ]  # fmt: skip
    return ARM_LOSSES.validate(pl.concat(frames))


def export_proof(store: Store, report: ProofReport, runs: Mapping[tuple[str, int], ArmRun], out: Path) -> list[str]:
    """Write the files of a proof, results.json last; returns their names."""
    kept = report.job.folder(store)
    losses = arm_losses(store, report.job, runs)
    record = orjson.dumps(report.model_dump(mode="json"), option=orjson.OPT_INDENT_2) + b"\n"
    files = {
        SUBSETS_FILE: pl.read_parquet(kept / SUBSETS_FILE).write_parquet,
        OVERLAPS_FILE: pl.read_parquet(kept / OVERLAPS_FILE).write_parquet,
        LOSSES_FILE: losses.write_parquet,
        CARD: lambda path: path.write_text(proof_card(report), encoding="utf-8"),
        RESULTS: lambda path: path.write_bytes(record),
    }
    names = prepare_files(out, files)
    place_files(out, names)
    return names


def proof_card(report: ProofReport) -> str:
    """The verdict, the table and its notes as Markdown."""
    notes = "".join(f"- {line}\n" for line in report.notes())
    return f"# Was selecting worth it?\n\n{report.verdict}\n\n{markdown_table(HEADER, report.table())}\n\n{notes}"


def _costs(job: ProofJob, subsets: pl.DataFrame, runs: Mapping[tuple[str, int], ArmRun]) -> dict[str, ArmCost]:
    costs = {}
    for arm in dict.fromkeys(arm for arm, _ in runs):
        of_arm = [run for (name, _), run in runs.items() if name == arm]
        seeds = subsets.filter(arm=arm).group_by("seed").agg(pl.len(), pl.col("tokens").sum()).mean()
        epochs = 1 if arm == "full" else job.settings.training.epochs
        costs[arm] = ArmCost(
            rows=0.0 if arm == BASE else seeds["len"].item(),
            tokens=0.0 if arm == BASE else seeds["tokens"].item() * epochs,
            steps=sum(run.steps for run in of_arm) / len(of_arm),
            seconds=sum(run.seconds for run in of_arm) / len(of_arm),
        )
    return costs


def _shown(mean: Mean, digits: int = 4) -> str:
    return f"{mean.mean:.{digits}f}" + ("" if mean.error is None else f" ± {mean.error:.{digits}f}")


def _interval(found: Difference) -> str:
    return f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
