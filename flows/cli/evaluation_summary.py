"""Prints the results of evaluations."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from deita_core.evaluation.figures import PairFigures
from deita_core.stages.benchmarks import BenchmarkReport
from deita_core.stages.evaluation.export import JudgeReport
from deita_core.stages.proof.export import HEADER, ProofReport


def print_judgement(report: JudgeReport, out: Path) -> None:
    """Print the figures, what was left out of them, and the usage."""
    console, figures = Console(highlight=False, soft_wrap=True), report.figures
    print_table(("figure", "mean", "error", "values"), report.table())
    if isinstance(figures, PairFigures):
        console.print(
            f"{figures.wins:,} won, {figures.ties:,} tied and {figures.losses:,} lost in both orders; on "
            f"{figures.split:,} the orders disagree."
        )
        if figures.length_controlled is None:
            console.print("[yellow]There is no length-controlled win rate: one side wins everywhere, or nearly so.[/]")
    console.print(
        f"{report.questions:,} questions, {report.answers:,} answers, {report.verdicts:,} verdicts read, "
        f"{sum(report.quarantined.values()):,} quarantined{_listed(report.quarantined)}."
    )
    if report.of_answers:
        console.print(
            f"[yellow]{sum(report.of_answers.values()):,} questions lack answers{_listed(report.of_answers)}.[/]"
        )
    if report.cut_off:
        console.print(f"[yellow]{report.cut_off:,} answers were cut off at --max-tokens, and judged as they are.[/]")
    for name, used in report.usage.items():
        tokens = used.prompt_tokens + used.completion_tokens
        spent = f", {used.cost:.4g} spent" if used.cost else ""
        console.print(f"{name}: {report.asked[name]:,} of {used.requests:,} asked now, {tokens:,} tokens{spent}.")
    console.print(f"Look at [bold]{escape(str(out))}/README.md[/]; judgements.jsonl has every verdict and reply.")


def print_benchmarks(report: BenchmarkReport, out: Path) -> None:
    """Print the figures of tasks, and where the harness's results are."""
    print_table(("task", "figure", "value", "error"), report.table())
    Console(highlight=False, soft_wrap=True).print(f"Everything is in [bold]{escape(str(out))}/results.json[/].")


def print_proof(report: ProofReport, out: Path) -> None:
    """Print the table of a proof, its notes, and the verdict."""
    print_table(HEADER, report.table())
    console = Console(highlight=False, soft_wrap=True)
    for line in report.notes():
        console.print(escape(line))
    console.print(f"[bold]{escape(report.verdict)}[/]")
    console.print(f"Look at [bold]{escape(str(out))}/README.md[/]; losses.parquet has every answer's loss.")


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table in columns."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        # Names of categories and tasks are data: their control characters must not reach the terminal.
        shown = ["".join(c for c in cell if c.isprintable()) for cell in line]
        print("  ".join(cell.ljust(width) for cell, width in zip(shown, widths, strict=True)).rstrip())


def _listed(reasons: dict[str, int]) -> str:
    return f" ({', '.join(f'{reason} {n:,}' for reason, n in reasons.items())})" if reasons else ""
