"""Renders the report: one HTML file that fetches nothing, in which a text of the pool is never markup."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from deita_core.report.content import packed
from deita_core.report.figures import ACROSS, STEP, UP, Composition, Histogram, Reason, Rewards, Step, Threshold

HERE = Path(__file__).parent
# Pixels of the charts, before they are scaled to the page.
WIDTH, HEIGHT = 320, 120


@dataclass(frozen=True)
class Scorer:
    """A scorer of the selection, its figures on held-out rows if they are known, and counts of turns by status."""

    axis: str
    name: str
    held_out: Mapping[str, Any] | None
    statuses: Mapping[str, int]


@dataclass(frozen=True)
class Page:
    """Everything on the page: figures by section, facts as (name, value), and what its script reads."""

    title: str
    facts: list[tuple[str, str]]
    changes: str
    steps: list[Step]
    composition: Composition
    rewards: Rewards
    threshold: Threshold
    rank: str
    diversity: str
    scorers: list[Scorer]
    reasons: list[Reason]
    drawn: int
    with_text: int
    content: dict[str, Any]

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each step of the funnel."""
        return {step.name: step.rows for step in self.steps}


def render(page: Page) -> str:
    """The page as HTML. Its Content-Security-Policy allows its own script and style by their hashes, and no request."""
    script, style = _asset("page.js"), _asset("page.css")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        f"base-uri 'none'; form-action 'none'"
    )
    return _environment().get_template("page.html").render(
        page=page, script=script, style=style, policy=policy, data=packed(page.content), step=STEP
    )  # fmt: skip


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters |= {"number": number, "percent": percent, "breakable": breakable, "bars": bars, "place": place}
    found.globals |= {"width": WIDTH, "height": HEIGHT, "across": ACROSS, "up": UP}
    return found


def number(value: float | None) -> str:
    """A number as people read it; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:.2f}"


def percent(value: float | None) -> str:
    """A share in percent; a dash where there is none."""
    if value is None:
        return "–"
    return "< 0.1%" if 0 < value < 0.0005 else f"{100 * value:.1f}%"


def breakable(text: str) -> Markup:
    """A text, escaped, in which a line may break after each slash: a path is broken between its parts first."""
    return Markup("/<wbr>").join(text.split("/"))


def place(value: float, chart: Histogram) -> float:
    """Where a value stands on a histogram, in pixels from the left."""
    return round((value - chart.low) / (chart.high - chart.low) * WIDTH, 1)


def bars(chart: Histogram) -> list[tuple[float, float, float, float]]:
    """The bars of a histogram: left and width, height of the first series, and of the second on top of it."""
    wide = WIDTH / len(chart.first)
    scale = HEIGHT / chart.top
    return [
        (round(i * wide, 2), round(wide - 0.5, 2), round(a * scale, 2), round(b * scale, 2))
        for i, (a, b) in enumerate(zip(chart.first, chart.second, strict=True))
    ]
