"""Writes a selection as files: the selected rows, all decisions, the dataset card, and last the manifest."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from deita_core.conversation import stored_conversation
from deita_core.export.layouts import in_layout
from deita_core.export.placing import place_files, prepare_files
from deita_core.literals import Format
from deita_core.tables import MESSAGE

MANIFEST = "manifest.json"
OF_CHANGES = ("added.jsonl", "dropped.jsonl", "CHANGES.md")
CARD = "README.md"
# Written when all others are in place.
REPORT = "report.html"
PICTURES = ("scores.svg", "map.svg")
SELECTION_FILES = (
    "selected.jsonl",
    "selected.parquet",
    "decisions.parquet",
    CARD,
    *OF_CHANGES,
    MANIFEST,
    *PICTURES,
    REPORT,
)

SELECTED_SCHEMA: dict[str, Any] = {
    "id": pl.String,
    "rank": pl.Int64,
    "score": pl.Float64,
    "complexity": pl.Float64,
    "quality": pl.Float64,
    "n_scored": pl.Int32,
    "nearest": pl.String,
    "similarity": pl.Float64,
    "copies": pl.Int32,
    "file": pl.String,
    "line": pl.Int64,
    "side": pl.String,
    "multimodal": pl.Boolean,
    "messages": pl.List(MESSAGE),
    "extra": pl.String,
    "fields": pl.String,
}

# Facts that are given only for the rows that have them.
RARE = ("side", "multimodal")


def selected_row(row: dict[str, Any], format_: Format) -> dict[str, Any]:
    """One line of selected.jsonl: the row in its layout, with rank, scores and source under `deita`."""
    sample = stored_conversation(row["messages"], row["extra"])
    facts = {name: row[name] for name in SELECTED_SCHEMA if name not in ("messages", "extra", "fields", *RARE)}
    facts |= {name: row[name] for name in RARE if row[name]}
    # The standard library's parser keeps integers of any size as they are.
    return {**in_layout(sample, format_, json.loads(row["fields"])), "deita": facts}


@dataclass(frozen=True)
class Changed:
    """Changes since the previous selection: `added` (id, reason), `dropped` (id, rank, score, reason), text."""

    added: pl.DataFrame
    dropped: pl.DataFrame
    text: str


def prepare_selection(
    folder: Path,
    selected: pl.DataFrame,
    decisions: pl.DataFrame,
    manifest: dict[str, Any],
    card: str,
    format_: Format,
    changed: Changed | None = None,
) -> list[str]:
    """Write a selection's files under hidden names beside those of an earlier one; returns names, the manifest last.

    `selected` has the columns of SELECTED_SCHEMA, in rank order.
    """
    rows = [selected_row(row, format_) for row in selected.iter_rows(named=True)]
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS
    files: dict[str, Callable[[Path], Any]] = {
        "selected.jsonl": partial(_write_lines, rows),
        "selected.parquet": selected.write_parquet,
        "decisions.parquet": decisions.write_parquet,
        CARD: partial(_write_text, card),
    }
    if changed:
        reasons = dict(changed.added.select("id", "reason").iter_rows())
        # Under `deita`, because the row may have a field of its own called reason.
        added = [_with_reason(row, reasons[row["deita"]["id"]]) for row in rows if row["deita"]["id"] in reasons]
        files |= {
            "added.jsonl": partial(_write_lines, added),
            "dropped.jsonl": partial(_write_lines, changed.dropped.to_dicts()),
            "CHANGES.md": partial(_write_text, changed.text),
        }
    files[MANIFEST] = lambda path: path.write_bytes(orjson.dumps(manifest, option=options) + b"\n")
    return prepare_files(folder, files)


def place_selection(folder: Path, names: Sequence[str]) -> None:
    """Replace the files of an earlier selection with the prepared ones; an earlier report and its pictures go too."""
    place_files(folder, names, obsolete=[name for name in (*OF_CHANGES, *PICTURES, REPORT) if name not in names])


def _with_reason(row: dict[str, Any], reason: str) -> dict[str, Any]:
    return {**row, "deita": {**row["deita"], "reason": reason}}


def _write_lines(rows: list[dict[str, Any]], path: Path) -> None:
    # Line by line: the standard library keeps integers of any size as they are.
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
