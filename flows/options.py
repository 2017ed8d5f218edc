"""The choices that options of the `deita` command offer; kept apart from the settings, which take longer to import."""

from enum import StrEnum


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
