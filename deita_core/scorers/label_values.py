"""What the outputs of a sequence classifier mean: one value, or labels that are numbers or have an order."""

from pathlib import Path
from typing import Any

import numpy as np
import orjson

from deita_core.errors import ModelError

# The list in config.json of labels that are not numbers, the lowest first.
ORDERED = "ordered_labels"
# What transformers takes for granted where config.json names no labels.
DEFAULT_LABELS = 2


def label_values(folder: Path) -> np.ndarray | None:
    """Return the value of each label (n,) float64 of the classifier in a folder, or None if it has one output.

    A label that is a number has this value. Others are listed as `ordered_labels` in config.json, the lowest first, and
    their values are 0, 1, 2 and so on. Raises ModelError if the outputs cannot be read as one value.
    """
    config = orjson.loads((folder / "config.json").read_bytes())
    labels = _labels(config)
    if len(labels) == 1:
        return None
    if (problem := config.get("problem_type")) in ("regression", "multi_label_classification"):
        raise ModelError(
            f"The classifier in {folder} gives {len(labels)} independent values ({problem}); give one with one output, "
            f"or with labels of which one is true."
        )
    if ORDERED in config:
        return _places(labels, config[ORDERED], folder)
    try:
        values = np.array([float(label) for label in labels])
    except ValueError:
        values = np.array([np.nan])
    if not np.isfinite(values).all():
        raise ModelError(
            f"The labels of the classifier in {folder} are not numbers ({_listed(labels)}); list them in its "
            f"config.json as {ORDERED}, the lowest first."
        )
    return values


def are_scores(values: np.ndarray | None) -> bool:
    """Whether a classifier's values are scores already: its labels are the numbers 1 to 6."""
    return values is not None and sorted(values.tolist()) == [1, 2, 3, 4, 5, 6]


def _labels(config: dict[str, Any]) -> list[str]:
    """The labels in the order of the outputs."""
    named = config.get("id2label")
    if named is None:
        return [f"LABEL_{i}" for i in range(config.get("num_labels", DEFAULT_LABELS))]
    return [str(named[key]) for key in sorted(named, key=int)]


def _places(labels: list[str], ordered: Any, folder: Path) -> np.ndarray:
    if not isinstance(ordered, list) or sorted(map(str, ordered)) != sorted(set(labels)) or len(ordered) < len(labels):
        raise ModelError(
            f"The list {ORDERED} in the config.json of {folder} does not have each of its labels once "
            f"({_listed(labels)}); correct it."
        )
    return np.array([float(list(map(str, ordered)).index(label)) for label in labels])


def _listed(labels: list[str]) -> str:
    return ", ".join(labels)[:200]
