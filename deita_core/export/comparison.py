"""Writes a comparison of strategies as Markdown and Parquet."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from deita_core.evaluation.comparison import by_strategy, overlaps, sentences
from deita_core.export.files import REPORT
from deita_core.export.markdown import markdown_table
from deita_core.export.placing import place_files, prepare_files

CARD, FIGURES, SUBSETS = "README.md", "figures.parquet", "subsets.parquet"
WHOLE = ("rows", "tokens")


def write_comparison(
    out: Path, figures: pl.DataFrame, subsets: pl.DataFrame, folders: Mapping[str, str], notes: Sequence[str]
) -> str:
    """Write README.md, figures.parquet and subsets.parquet; returns the text of the first.

    `folders`: the folder of each strategy's first selection, relative to `out`.
    """
    card = comparison_card(figures, subsets, folders, notes)
    files = {
        FIGURES: figures.write_parquet,
        SUBSETS: subsets.write_parquet,
        CARD: lambda path: path.write_text(card, encoding="utf-8"),
    }
    place_files(out, prepare_files(out, files))
    return card


def comparison_card(
    figures: pl.DataFrame, subsets: pl.DataFrame, folders: Mapping[str, str], notes: Sequence[str]
) -> str:
    """The figures side by side, what they show of Deita, the overlaps, and where each selection is."""
    means = by_strategy(figures)
    strategies = means["arm"].unique(maintain_order=True).to_list()
    names = means["figure"].unique(maintain_order=True).to_list()
    cells = {(strategy, figure): (mean, sd) for strategy, figure, mean, sd in means.iter_rows()}
    rows = [[name, *(_cell(name, cells.get((one, name))) for one in strategies)] for name in names]
    shown = "".join(f"- {sentence}\n" for sentence in sentences(means))
    shared = {(one, other): share for one, other, share in overlaps(subsets).iter_rows()}
    chosen = [one for one in strategies if one in folders]
    common = [[one, *(_share(shared.get((one, other))) for other in chosen)] for one in chosen]
    pages = "".join(f"- {one}: [{folder}/{REPORT}]({folder}/{REPORT})\n" for one, folder in folders.items())
    said = "".join(f"- {note}\n" for note in notes)
    return (
        f"# Strategies side by side\n\n{markdown_table(['figure', *strategies], rows)}\n\n{said}\n"
        f"## Where Deita stands\n\n{shown or 'Deita is not among the strategies.'}\n"
        f"## Rows in common\n\nThe share of the smaller selection's rows that the other has as well; of a strategy "
        f"with itself over different seeds.\n\n{markdown_table(['', *chosen], common)}\n\n## The selections\n\n{pages}"
    )


def _cell(name: str, found: tuple[float, float | None] | None) -> str:
    if found is None or math.isnan(found[0]):
        return ""
    mean, sd = found
    digits = 0 if name in WHOLE or abs(mean) >= 1_000 else 3
    # Without the sign of a zero.
    return f"{round(mean, digits) + 0.0:,.{digits}f}" + ("" if sd is None else f" ± {sd:,.{digits}f}")


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
