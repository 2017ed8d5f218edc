"""Exports ranked chains: the fate of each, and files for training."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl
from pydantic import BaseModel

from deita_core.evolution.agreement import Audit, audit
from deita_core.evolution.ranking import ranking_id
from deita_core.export.files import MANIFEST
from deita_core.export.layouts import SHAREGPT_ROLES
from deita_core.export.placing import Write, place_files, prepare_files
from deita_core.literals import Axis
from deita_core.llm.cache import Usage
from deita_core.llm.traffic import Traffic
from deita_core.scorers.prompts import scoring_prompt
from deita_core.stages.evolution.run import EvolutionJob, chain_texts, read_seeds
from deita_core.store import Store
from deita_core.tables import CHAINS, RANKINGS


class AxisCounts(BaseModel):
    """Counts of an axis' seeds by fate: seeds = complete + short + quarantined.

    `reasons` counts why chains are short or quarantined, `failed_attempts` why rounds had to be tried again.
    """

    seeds: int
    complete: int
    short: int
    quarantined: int
    reasons: dict[str, int]
    failed_attempts: dict[str, int]

    @property
    def usable(self) -> int:
        """Number of chains a scorer can be trained on."""
        return self.complete + self.short

    @property
    def cut_off(self) -> int:
        """Lower bound of the answers truncated at the token limit."""
        return max(found.get("cut_off", 0) for found in (self.reasons, self.failed_attempts))

    @property
    def commonest_reason(self) -> str:
        """The most frequent reason for failed chains."""
        return next(iter(self.reasons), "unknown")


class EvolutionReport(BaseModel):
    """The report of a run, for the manifest."""

    job: EvolutionJob
    counts: dict[Axis, AxisCounts]
    audits: dict[Axis, Audit | None]
    usage: Usage
    asked: int
    traffic: Traffic
    seconds: dict[str, float]

    def failure(self, out: Path) -> str | None:
        """A sentence if the run gave no chain a scorer can be trained on, else None."""
        if any(counts.usable for counts in self.counts.values()):
            return None
        seeds = sum(counts.seeds for counts in self.counts.values())
        if not seeds:
            return "There are no seeds to evolve; check the pool and --limit."
        most = max(self.counts.values(), key=lambda counts: counts.quarantined)
        n = most.reasons.get(most.commonest_reason, 0)
        longer = ""
        if cut_off := sum(counts.cut_off for counts in self.counts.values()):
            longer = (
                f"; {cut_off:,} answers were cut off at max_tokens ({self.job.settings.llm.max_tokens:,}), raise it "
                f"(DEITA_LLM__MAX_TOKENS)"
            )
        return (
            f"All {seeds:,} seeds failed, most often for the reason {most.commonest_reason} ({n:,} of {most.seeds:,})"
            f"{longer}; {out}/quarantined.jsonl has every reason."
        )


def evolution_report(
    store: Store, job: EvolutionJob, usage: Usage, before: Usage, traffic: Traffic, seconds: dict[str, float]
) -> EvolutionReport:
    """The report of a run, from usage before (`before`) and after it (`usage`), and its own traffic."""
    return EvolutionReport(
        job=job,
        counts={axis: axis_counts(store, job, axis) for axis in job.seeds},
        audits={axis: audit_axis(store, job, axis) for axis in job.seeds},
        usage=usage,
        asked=usage.requests - before.requests,
        traffic=traffic,
        seconds=seconds,
    )


def chain_fates(store: Store, job: EvolutionJob, axis: Axis) -> pl.DataFrame:
    """One row per seed: chain, seed_id, rounds, fate, reason, detail.

    complete: all rounds succeeded; short: some did, and their variants were ranked; quarantined: not usable.
    """
    chains = job.chains(axis)
    rows = store.fetch(CHAINS, "chain", list(chains), ["chain", "step", "attempt", "status", "reason", "detail"])
    good = pl.col("status") == "ok"
    evolved = rows.sort("chain", "step", "attempt").group_by("chain", maintain_order=True).agg(
        rounds=pl.col("step").filter(good).max(),
        ended=pl.col("reason").last(),
        ended_detail=pl.col("detail").last(),
    )  # fmt: skip
    first = first_rankings(store, job, axis).group_by("chain").agg(
        unread=pl.col("reason").first(), unread_detail=pl.col("detail").first()
    )  # fmt: skip
    seeds = pl.DataFrame(
        {"chain": list(chains), "seed_id": list(chains.values())}, schema={"chain": pl.String, "seed_id": pl.String}
    )
    found = seeds.join(evolved, on="chain", how="left").join(first, on="chain", how="left").sort("chain")
    barren, unread = pl.col("rounds").fill_null(0) == 0, pl.col("unread").is_not_null()
    is_short = pl.col("rounds") < job.settings.rounds
    fate = (
        pl.when(barren | unread).then(pl.lit("quarantined")).when(is_short).then(pl.lit("short"))
        .otherwise(pl.lit("complete"))
    )  # fmt: skip
    return found.select(
        "chain",
        "seed_id",
        pl.col("rounds").fill_null(0),
        fate=fate,
        reason=pl.coalesce("unread", "ended"),
        detail=pl.when(unread).then("unread_detail").otherwise("ended_detail").fill_null(""),
    )


def first_rankings(store: Store, job: EvolutionJob, axis: Axis, repeat: int = 0) -> pl.DataFrame:
    """The rankings of an axis' chains; with `repeat` 1, those of the audit."""
    judge = job.judge(axis)
    ids = [ranking_id(judge, chain, repeat) for chain in job.chains(axis)]
    return store.fetch(RANKINGS, "ranking", ids)


def axis_counts(store: Store, job: EvolutionJob, axis: Axis) -> AxisCounts:
    """Counts of an axis' seeds by fate, and of the reasons for failed attempts."""
    fates = chain_fates(store, job, axis)
    by_fate = dict(fates.group_by("fate").len().iter_rows())
    numbers = {fate: by_fate.get(fate, 0) for fate in ("complete", "short", "quarantined")}
    reasons, failed = _counted(fates["reason"].drop_nulls()), _counted(failed_attempts(store, job, axis))
    return AxisCounts(seeds=len(fates), reasons=reasons, failed_attempts=failed, **numbers)


def failed_attempts(store: Store, job: EvolutionJob, axis: Axis) -> pl.Series:
    """The reason of each failed attempt at a round."""
    rows = store.fetch(CHAINS, "chain", list(job.chains(axis)), ["status", "reason"])
    return rows.filter(pl.col("status") == "failed")["reason"]


def _counted(reasons: pl.Series) -> dict[str, int]:
    """The count of each reason, most frequent first."""
    counted = pl.DataFrame({"reason": reasons}, schema={"reason": pl.String}).group_by("reason").len()
    return dict(counted.sort("len", "reason", descending=[True, False]).iter_rows())


def audit_axis(store: Store, job: EvolutionJob, axis: Axis) -> Audit | None:
    """The judge's agreement with itself on the chains it ranked twice."""
    return audit(first_rankings(store, job, axis), first_rankings(store, job, axis, repeat=1))


def ranked_chains(store: Store, job: EvolutionJob, axis: Axis, chains: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Chains with a score for each variant, in the layout of `deita train`."""
    seed_of = job.chains(axis)
    texts = chain_texts(store, chains)
    seeds = {seed.id: seed for seed in read_seeds(store, sorted({seed_of[chain] for chain in chains}))}
    operations = _by_chain(store.fetch(CHAINS, "chain", list(chains)).filter(pl.col("status") == "ok"), "operation")
    scores = _by_chain(first_rankings(store, job, axis), "score")
    for chain in chains:
        seed = seeds[seed_of[chain]]
        steps = zip(texts[chain], operations[chain], scores[chain], strict=True)
        variants = [
            {"step": step, "operation": operation, "text": text, "score": score}
            for step, (text, operation, score) in enumerate(steps)
        ]
        asked = {"instruction": seed.instruction} if axis == "quality" else {}
        yield {"id": chain, "seed": seed.id, "axis": axis, **asked, "variants": variants}


def _by_chain(rows: pl.DataFrame, column: str) -> dict[str, list[Any]]:
    return dict(rows.sort("chain", "step").group_by("chain", maintain_order=True).agg(column).iter_rows())


def scoring_examples(axis: Axis, chain: dict[str, Any]) -> Iterator[list[tuple[str, str]]]:
    """A chain as (role, content) pairs: the scoring prompt of each variant, and its digit."""
    for variant in chain["variants"]:
        instruction, response = chain.get("instruction"), variant["text"]
        pair = (response, None) if axis == "complexity" else (instruction, response)
        yield [("user", scoring_prompt(axis, *pair)), ("assistant", str(variant["score"]))]


def export_chains(store: Store, report: EvolutionReport, folder: Path) -> list[str]:
    """Write the files of a run, all or none, the manifest last; returns their names.

    For each axis AXIS.jsonl (chains, for `deita train`), AXIS_scorer.jsonl (ShareGPT conversations of scoring prompt
    and digit, like the released scorers' data) and AXIS_messages.jsonl; quarantined.jsonl; manifest.json.
    """
    lost: list[dict[str, Any]] = []
    files: dict[str, Write] = {}
    for axis in report.job.seeds:
        fates = chain_fates(store, report.job, axis)
        usable = fates.filter(pl.col("fate") != "quarantined")["chain"].to_list()
        chains = list(ranked_chains(store, report.job, axis, usable))
        examples = [example for chain in chains for example in scoring_examples(axis, chain)]
        files |= {
            f"{axis}.jsonl": _writes(chains),
            f"{axis}_scorer.jsonl": _writes(
                {"conversations": [{"from": SHAREGPT_ROLES[role], "value": text} for role, text in example]}
                for example in examples
            ),
            f"{axis}_messages.jsonl": _writes(
                {"messages": [{"role": role, "content": text} for role, text in example]} for example in examples
            ),
        }
        lost += [{"axis": axis, **row} for row in fates.filter(pl.col("fate") == "quarantined").to_dicts()]
    files["quarantined.jsonl"] = _writes(lost)
    contents = {**evolution_manifest(report), "files": list(files)}
    manifest = orjson.dumps(contents, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n"
    files[MANIFEST] = lambda path: path.write_bytes(manifest)
    names = prepare_files(folder, files)
    place_files(folder, names)
    return names


def _writes(rows: Iterable[dict[str, Any]]) -> Write:
    lines = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    return lambda path: path.write_bytes(lines)


def evolution_manifest(report: EvolutionReport) -> dict[str, Any]:
    """The manifest: everything needed to repeat and to judge the evolution."""
    return {
        "job": report.job.id,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": report.job.settings.model_dump(),
        "counts": {axis: counts.model_dump() for axis, counts in report.counts.items()},
        "audits": {axis: found and found.model_dump() for axis, found in report.audits.items()},
        "usage": {name: getattr(report.usage, name) for name in Usage.__slots__},
        "requests_of_this_run": report.asked,
        "requests_sent": report.traffic.sent,
        "requests_timed_out": report.traffic.timed_out,
        "seconds": report.seconds,
    }
