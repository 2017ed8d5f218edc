"""Prints the results of commands."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.markup import escape

from deita_core.config.settings import EvolutionSettings
from deita_core.diagnosis import diagnose
from deita_core.evolution.agreement import Audit
from deita_core.export.files import REPORT
from deita_core.export.layouts import fields_left_out
from deita_core.stages.estimate import Estimate
from deita_core.stages.evolution.estimate import EvolutionEstimate
from deita_core.stages.evolution.export import EvolutionReport
from deita_core.stages.pairs import PairReport
from deita_core.stages.report import Counts, Report
from deita_core.stages.snapshots import read_snapshot, snapshots
from deita_core.stages.training import Trained
from deita_core.store import Store
from tasks.artifacts import top_rows

SHOWN = 5
SKIPPED = {
    "redundant": "that add nothing new",
    "over_quota": "over the quota of their group",
    "filtered": "filtered",
    "contaminated": "contaminated by a benchmark",
}
_REASONS = {"rounds tried again": "failed_attempts", "why chains ended early or were set aside": "reasons"}
_FIGURES = {
    "rank correlation within a chain": "spearman",
    "pairs of a chain in order": "pair_accuracy",
    "the same, of like length": "like_accuracy",
    "mean absolute error": "error",
}


def print_report(report: Report, out: Path) -> None:
    """Print the counts, the best rows, and the output files."""
    console, counts = Console(highlight=False, soft_wrap=True), report.counts
    console.print(
        f"\n[bold]{counts.selected:,} selected[/] of {counts.read:,} read: {counts.skipped:,} skipped "
        f"({', '.join(_skipped(counts))}), {counts.rejected:,} rejected, {counts.merged:,} merged as exact duplicates."
    )
    if report.chosen.tokens is not None:
        console.print(f"They have {report.chosen.tokens:,} training tokens, as {_tokenizer(report)} counts them.")
    console.print(f"{counts.encoded:,} texts encoded, {counts.scored:,} turns scored; the rest was known.")
    _print_changes(console, report, out)
    _warn_of_shortfall(console, report)
    _warn_of_media(console, out)
    _name_layouts(console, report)
    _warn_of_fields(console, report, out)
    print(f"{'rank':>5}{'score':>8}{'complexity':>12}{'quality':>9}  begins")
    for row in top_rows(str(out))[:SHOWN]:
        # Pool rows are data: their control characters must not reach the terminal.
        begins = "".join(c for c in " ".join(str(row["begins"]).split()) if c.isprintable())
        begins = begins[: max(20, console.width - 37)]
        numbers = f"{row['score']:>8.2f}{_or_none(row['complexity']):>12}{_or_none(row['quality']):>9}"
        print(f"{row['rank']:>5}{numbers}  {begins}")
    _show_rejects(console, out)
    page = REPORT if (out / REPORT).is_file() else "README.md"
    console.print(
        f"Look at [bold]{escape(str(out))}/{page}[/] and selected.jsonl; decisions.parquet has every row's fate."
    )


def _skipped(counts: Counts) -> Iterator[str]:
    """Counts of the rows skipped, by why; the two usual ones also if there are none."""
    yield f"{counts.near_duplicate:,} near-duplicate{'' if counts.near_duplicate == 1 else 's'} of a better one"
    for name, words in SKIPPED.items():
        if count := getattr(counts, name):
            yield f"{count:,} {words}"
    yield f"{counts.over_budget:,} after the budget was full"


def _tokenizer(report: Report) -> str:
    found = report.job.tokenizer
    return escape(found.name) if found else "none"


def print_snapshots(store: Store) -> None:
    """Print one line per snapshot."""
    made = snapshots(store)
    if made.is_empty():
        print(f"The store {store.uri} has no snapshot yet.")
        return
    print(f"{'snapshot':>7}  {'finished':<25}  {'selected':>9}  {'of':>9}  {'budget':>7}  {'threshold':>9}  folder")
    for number in made["number"]:
        report = read_snapshot(store, number).report
        counts, budget = report.counts, report.job.settings.budget or "none"
        print(
            f"{number:>7}  {made.filter(pl.col('number') == number).item(0, 'finished'):<25}  {counts.selected:>9,}  "
            f"{counts.read:>9,}  {budget:>7}  {report.chosen.threshold:>9}  {report.folder}"
        )


def _print_changes(console: Console, report: Report, out: Path) -> None:
    """Print the changes since the previous snapshot."""
    if report.previous is None:
        return
    added, dropped = ((out / name).read_bytes().count(b"\n") for name in ("added.jsonl", "dropped.jsonl"))
    console.print(
        f"Snapshot {report.snapshot}, after {report.previous}: {added:,} added, {dropped:,} dropped; see CHANGES.md."
    )


def _warn_of_shortfall(console: Console, report: Report) -> None:
    budget = report.job.settings.budget
    for name, count in list(report.chosen.lacking.items())[:SHOWN]:
        by = report.job.settings.grouped_by
        console.print(f"[yellow]The {by} {escape(name[:80])} has {count:,} rows less than its floor.[/]")
    if budget and report.counts.selected < budget:
        why = "there are no more to choose from."
        if report.counts.over_quota:
            why = "all others are over the quota of their group."
        if report.counts.near_duplicate:
            others = "or over their quota" if report.counts.over_quota else "of one of these"
            why = f"at threshold {report.chosen.threshold} all others are near-duplicates {others}."
            why += " A higher threshold selects more." if report.chosen.threshold < 1 else ""
        console.print(f"[yellow]The pool gave {report.counts.selected:,} of the {budget:,} asked for: {why}[/]")
    elif report.job.settings.threshold == "auto":
        console.print(f"auto chose the threshold {report.chosen.threshold}.")


def _name_layouts(console: Console, report: Report) -> None:
    """Print the counts of files that hold rows of several layouts."""
    mixed = [file for file in report.files if len(file.layouts) > 1]
    for file in mixed[:SHOWN]:
        counts = ", ".join(f"{count:,} {layout}" for layout, count in file.layouts.items())
        console.print(f"{escape(file.file)} holds rows of several layouts: {counts}.")
    if len(mixed) > SHOWN:
        console.print(f"and {len(mixed) - SHOWN:,} more files of several layouts, see manifest.json")


def _warn_of_fields(console: Console, report: Report, out: Path) -> None:
    """Print how many rows have fields that the format leaves out."""
    if (format_ := report.job.settings.format) == "same":
        return
    rows = pl.read_parquet(out / "selected.parquet", columns=["fields"])["fields"]
    count, names = fields_left_out(rows)
    if count:
        shown = escape(", ".join(name[:40] for name in names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")
        console.print(
            f"[yellow]The format {format_} has no place for other fields, so they are left out of {count:,} rows "
            f"({shown}); selected.parquet has them under fields, and --format same keeps them.[/]"
        )


def _warn_of_media(console: Console, out: Path) -> None:
    media = pl.read_parquet(out / "decisions.parquet", columns=["multimodal"])["multimodal"].sum()
    if media:
        console.print(f"[yellow]{media:,} conversations hold images, audio, video or files; only text is scored.[/]")


def _show_rejects(console: Console, out: Path) -> None:
    rejected = pl.read_parquet(out / "decisions.parquet").filter(pl.col("fate") == "rejected")
    for file, line, reason in rejected.select("file", "line", "reason").head(SHOWN).iter_rows():
        console.print(f"[dim]rejected {escape(str(file))}:{line}  {escape(str(reason)[:100])}[/]")
    if len(rejected) > SHOWN:
        console.print(f"[dim]and {len(rejected) - SHOWN:,} more rejected, see decisions.parquet[/]")


def print_estimate(found: Estimate) -> None:
    """Print what a run would do."""
    console = Console(highlight=False, soft_wrap=True)
    for line in found.warnings:
        console.print(line, style="yellow", markup=False)
    console.print(
        f"Would read {found.rows:,} rows of {found.files} files: {found.samples:,} distinct conversations, "
        f"{found.rejects:,} rejects."
    )
    console.print(
        f"Would encode {found.to_encode:,} of {found.texts:,} distinct texts, score {found.to_score:,} conversations."
    )
    if found.to_refine:
        console.print(f"Would score at most {found.to_refine:,} of them again, the best, to refine their ranking.")
    if found.to_detect:
        console.print(f"Would find the language of {found.to_detect:,} conversations.")
    if found.to_read:
        console.print(f"Would read at most {found.to_read:,} texts with the language model of the order.")
    for judge in found.judging:
        console.print(
            f"Would send about {judge.requests:,} requests to {escape(judge.model)} for {judge.axis}: "
            f"{judge.prompt_tokens:,} prompt tokens and {judge.completion_tokens:,} answer tokens, guessed from "
            f"characters (a reasoning model writes many more); {_cost(judge.cost)}."
        )
    if found.chars_per_second:
        console.print(
            f"About {_duration(found.seconds)} of encoding, at {found.chars_per_second:,.0f} characters a second "
            f"as just measured. Scoring by heads is quick, by language models it takes about as long again for each."
        )
    else:
        console.print("Everything is encoded already.")
    for preset, seconds in found.others.items():
        console.print(f"With --preset {preset} it would be about {_duration(seconds)} of encoding.")
    if not found.fast_is_made:
        console.print("The models of --preset fast are made at first use, which takes about a minute once.")
    console.print("Nothing was written.")


def _cost(cost: float | None) -> str:
    prices = "set DEITA_LLM__INPUT_PRICE and DEITA_LLM__OUTPUT_PRICE for the cost"
    return prices if cost is None else f"about {cost:.4g} at the prices given"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 100 else f"{seconds:.1f} seconds"


def print_evolution(report: EvolutionReport, out: Path) -> None:
    """Print the fate of every seed, the judge's agreement with itself, and the usage."""
    console, usage = Console(highlight=False, soft_wrap=True), report.usage
    for axis, counts in report.counts.items():
        console.print(
            f"[bold]{axis}[/]: {counts.seeds:,} seeds, {counts.complete:,} chains complete, {counts.short:,} ended "
            f"early, {counts.quarantined:,} quarantined."
        )
        for what, reasons in _REASONS.items():
            if found := getattr(counts, reasons):
                console.print(f"  {what}: {', '.join(f'{reason} {n:,}' for reason, n in found.items())}")
        if agreement := report.audits[axis]:
            _print_audit(console, agreement)
        if counts.cut_off:
            console.print(
                f"  [yellow]{counts.cut_off:,} answers were cut off at max_tokens "
                f"({report.job.settings.llm.max_tokens:,}); raise it (DEITA_LLM__MAX_TOKENS).[/]"
            )
    tokens = usage.prompt_tokens + usage.completion_tokens
    spent = f", {usage.cost:.4g} spent" if report.job.settings.llm.input_price is not None else ""
    console.print(
        f"{report.asked:,} requests answered in this run, {usage.requests:,} in all: {tokens:,} tokens{spent}."
    )
    if report.traffic.sent > report.asked:
        console.print(f"{report.traffic.sent:,} were sent for that, of which {report.traffic.timed_out:,} timed out.")
    first = next(axis for axis, counts in report.counts.items() if counts.usable)
    console.print(f"Next: deita train {escape(str(out))}/{first}.jsonl --axis {first} --out {escape(str(out))}/scorer")


def _print_audit(console: Console, found: Audit) -> None:
    console.print(
        f"  the judge ranked {found.chains} chains twice: rank correlation {_or_none(found.spearman)}, "
        f"{_or_none(found.pairs_alike)} of pairs alike, scores {_or_none(found.difference)} apart, "
        f"correlation with the place shown {_or_none(found.place)}"
    )
    if found.is_noisy:
        console.print("  [yellow]A noisy judge: its scores say little more than chance. Try another model.[/]")


def _or_none(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else "none"


def print_statuses(statuses: dict[str, int], out: Path) -> None:
    """Print the number of scores per status, and the output file."""
    console = Console(highlight=False, soft_wrap=True)
    counted = ", ".join(f"{n:,} {status}" for status, n in statuses.items())
    console.print(f"{sum(statuses.values()):,} scores ({counted}) in [bold]{escape(str(out))}[/].")


def print_pairs(report: PairReport, out: Path) -> None:
    """Print the number of pairs, and what came of each row."""
    console = Console(highlight=False, soft_wrap=True)
    fates = ", ".join(f"{count:,} {fate.replace('_', ' ')}" for fate, count in report.fates.items())
    console.print(f"[bold]{report.pairs:,} pairs[/] in {escape(str(out))}, of {report.read:,} rows read: {fates}.")
    if not report.pairs:
        console.print(
            "[yellow]A pair takes two answers to one instruction that differ by --margin; rows with a preferred and a "
            "rejected answer give both with --preference both.[/]"
        )


def print_trained(trained: Trained, axis: str) -> None:
    """Print the held-out figures, and how to use the scorer."""
    console, figures = Console(highlight=False, soft_wrap=True), trained.figures
    print(f"{'held out':<34}{'this scorer':>12}{'length alone':>14}")
    for name, field in _FIGURES.items():
        ours, length = getattr(figures.scorer, field), getattr(figures.length, field)
        print(f"{name:<34}{_or_none(ours):>12}{_or_none(length):>14}")
    print(f"{figures.rows:,} rows of {figures.chains:,} chains, {figures.pairs:,} pairs of unlike score")
    for level in figures.calibration:
        print(f"{'given ' + str(level.score):<34}{level.mean:>12.2f}{level.rows:>14,} rows")
    console.print(f"Use it: deita select POOL --{axis}-scorer {escape(trained.folder)} --out DIR")


def print_evolution_estimate(found: EvolutionEstimate, settings: EvolutionSettings) -> None:
    """Print the requests that a run would send."""
    console = Console(highlight=False, soft_wrap=True)
    for line in found.warnings:
        console.print(line, style="yellow", markup=False)
    for axis, seeds in found.seeds.items():
        console.print(f"{axis}: {seeds:,} seeds, of which {found.known[axis]:,} have their chains already.")
    price = "give --input-price and --output-price for the cost"
    cost = price if found.cost is None else f"about {found.cost:.4g} at the prices given"
    console.print(
        f"Would send about {found.requests:,} requests to {escape(settings.llm.model)}: {found.prompt_tokens:,} prompt "
        f"tokens and {found.completion_tokens:,} answer tokens; {cost}."
    )
    console.print(
        "That is if every round works at once; tokens are guessed from characters. Nothing was sent or written."
    )


def print_doctor() -> None:
    """Print versions, machine and presets."""
    console, found = Console(highlight=False, soft_wrap=True), diagnose()
    for name, installed in found.versions.items():
        console.print(f"{name:<24}{installed or 'not installed'}")
    for name, fact in found.machine.items():
        console.print(f"{name:<24}{escape(fact)}")
    for preset, reason in found.presets.items():
        console.print(f"preset {preset:<17}{'can run' if reason is None else 'cannot run yet: ' + escape(reason)}")
