"""Options that several commands have, and the choices they offer; apart from the settings, which import slowly."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Preset(StrEnum):
    """Named sets of defaults."""

    laptop = "laptop"
    paper = "paper"


class Turns(StrEnum):
    """How the scores of turns make a sample's."""

    fit = "fit"
    sum = "sum"
    mean = "mean"
    max = "max"


class Layout(StrEnum):
    """Layouts of input files."""

    alpaca = "alpaca"
    sharegpt = "sharegpt"
    messages = "messages"
    prompt_response = "prompt-response"


class Format(StrEnum):
    """Layouts of selected.jsonl."""

    same = "same"
    messages = "messages"
    sharegpt = "sharegpt"
    alpaca = "alpaca"


class Axes(StrEnum):
    """What to evolve."""

    complexity = "complexity"
    quality = "quality"
    both = "both"


class Axis(StrEnum):
    """What a scorer scores."""

    complexity = "complexity"
    quality = "quality"


class Kind(StrEnum):
    """Kinds of scorers."""

    head = "head"
    causal = "causal"


class Method(StrEnum):
    """Ways to train a language model."""

    lora = "lora"
    full = "full"


Files = Annotated[list[str], typer.Argument(help="Files, folders, globs, or hf://datasets/ORG/NAME.")]
StoreOption = Annotated[
    str | None, typer.Option(help="Folder or URI of the store (vectors, scores, snapshots). Default .deita")
]
PresetOption = Annotated[Preset | None, typer.Option(help="Set of defaults. Default laptop.")]
EncoderOption = Annotated[
    str | None, typer.Option(help="A sentence-transformers model or a language model: hub name or folder.")
]
ScorerOption = Annotated[str | None, typer.Option(help="laptop, a folder, a hub name, or URL#MODEL.")]
LayoutOption = Annotated[Layout | None, typer.Option(help="Layout of the files. Default: detected for each.")]
LimitOption = Annotated[int | None, typer.Option(help="Read only the first rows of the files.")]
ConfigOption = Annotated[Path | None, typer.Option(help="YAML file of settings; flags override it.")]
RunnerOption = Annotated[
    str | None, typer.Option(help="threads, processes, dask://HOST:PORT or ray://HOST:PORT. Default threads.")
]
