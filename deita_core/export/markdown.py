"""Markdown tables."""

from collections.abc import Iterable, Sequence
from typing import Any


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table of a header and rows of values, without a final line break; every value stays in its cell."""
    lines = [header, ["---"] * len(header)]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in [*lines, *rows])


def _cell(value: Any) -> str:
    """A value as text on one line in which nothing is markup."""
    text = " ".join(str(value).split())
    return "".join(f"\\{c}" if c in "\\|`<>[]*#" else c for c in text)
