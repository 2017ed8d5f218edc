"""Options shared by several commands; separate from the settings, which are slow to import."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from deita_core.literals import Layout, Modality, Preference, PresetName, Reasoning

Files = Annotated[list[str], typer.Argument(help="Files, folders, globs, or hf://datasets/ORG/NAME.")]
StoreOption = Annotated[
    str | None, typer.Option(help="Folder or URI of the store (vectors, scores, snapshots). Default .deita")
]
PresetOption = Annotated[
    PresetName | None,
    typer.Option(
        help="Set of defaults: laptop; fast, whose encoder is a hundred times faster on a CPU; or paper, for a GPU. "
        "Default laptop."
    ),
]
EncoderOption = Annotated[
    str | None, typer.Option(help="A sentence-transformers model or a language model: fast, hub name or folder.")
]
ScorerOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="laptop, fast, a folder, a hub name, URL#MODEL, or judge+URL#MODEL; repeat it to combine several.",
    ),
]
RefineOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="A slow quality scorer that scores the best ones again.")
]
RefineFactorOption = Annotated[int | None, typer.Option(help="How many times the budget it scores again. Default 4.")]
JudgeVotesOption = Annotated[
    int | None, typer.Option(help="How often a judge is asked about each text, 1 to 5. Default 1.")
]
LayoutOption = Annotated[Layout | None, typer.Option(help="Layout of the files. Default: detected for each.")]
MapOption = Annotated[
    str | None, typer.Option(help="Your own names: messages=dialog,role=from,content=value. Default: the usual ones.")
]
PreferenceOption = Annotated[
    Preference | None, typer.Option(help="Of a preferred and a rejected answer, read one or both. Default chosen.")
]
ModalityOption = Annotated[
    Modality | None, typer.Option(help="text rejects rows with images, audio or files. Default any.")
]
ReasoningOption = Annotated[
    Reasoning | None, typer.Option(help="Whether the reasoning before an answer is scored with it. Default ignore.")
]
LimitOption = Annotated[int | None, typer.Option(help="Read only the first rows of the files.")]
ConfigOption = Annotated[Path | None, typer.Option(help="YAML file of settings; flags override it.")]
RunnerOption = Annotated[
    str | None, typer.Option(help="threads, processes, dask://HOST:PORT or ray://HOST:PORT. Default threads.")
]
ReportOption = Annotated[
    bool | None, typer.Option(" /--no-report", help="Do not write report.html and the pictures of the card.")
]
LeaveOutOption = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Files or folders of the pool that are not read; repeat it."),
]

# Parameters of commands that are no settings: files, folders, and what a command does beside them.
OTHERS = frozenset((
    "pool", "data", "chains", "questions", "reference", "out", "config", "dry_run", "prove",
    "share", "samples", "margin", "similarity", "per_instruction", "decisions",
))  # fmt: skip


def given_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among a command's parameters, each by its name: all but OTHERS; None is not given.

    `options`: the command's `locals()` before any statement. A list option that was not given is empty, here None.
    """
    return {name: None if value == [] else value for name, value in options.items() if name not in OTHERS}


def taken(flags: dict[str, Any], *names: str) -> dict[str, Any]:
    """Some flags, taken out of the others, for settings that stand within a setting."""
    return {name: flags.pop(name) for name in names}


def names_in(text: str | None) -> list[str] | None:
    """Names that are separated by commas; None if not given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
