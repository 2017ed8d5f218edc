"""Pictures of a selection for its dataset card, as SVG: the histogram of its scores and the map of its rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from deita_core.report.figures import Histogram
from deita_core.report.maps import SIDE
from deita_core.report.page import HEIGHT, WIDTH, bars, number, place

# The same colours as on the page. The ground is white, since a picture cannot know how dark the page around it is.
SELECTED, OTHERS, CUT, WORDS = "#0a66c2", "#c3c8d0", "#b3123f", "#5b6370"
EDGE = 10
MAP_WIDTH, MAP_HEIGHT = 480, 360


def score_picture(scores: Histogram) -> str:
    """The histogram of the scores of selected rows and of others, with the cut line."""
    found, parts = bars(scores), []
    for colour, kind in ((SELECTED, 0), (OTHERS, 1)):
        shapes = []
        for left, wide, first, second in found:
            high, above = (first, 0.0) if kind == 0 else (second, first)
            if high:
                shapes.append(f"M{left} {round(HEIGHT - above, 2)}h{wide}v{-high}h{-wide}z")
        parts.append(f'<path fill="{colour}" d="{"".join(shapes)}"/>')
    parts.append(f'<path stroke="{WORDS}" d="M0 {HEIGHT}h{WIDTH}"/>')
    keys = [(SELECTED, "selected"), (OTHERS, "others")]
    if scores.line is not None:
        parts.append(f'<path stroke="{CUT}" stroke-width="2" d="M{place(scores.line, scores)} 0v{HEIGHT}"/>')
        keys.append((CUT, f"lowest selected: {number(scores.line)}"))
    parts.append(f'<text y="{HEIGHT + 14}">{number(scores.low)}</text>')
    parts.append(f'<text x="{WIDTH}" y="{HEIGHT + 14}" text-anchor="end">{number(scores.high)}</text>')
    return _picture("Scores of the selected rows and of the others", WIDTH, HEIGHT + 18, parts, keys)


def map_picture(points: Mapping[str, Sequence[Any]]) -> str:
    """The map, the selected rows above the others. `points`: x and y (0 to SIDE, None without a place), fate."""
    spots: dict[bool, dict[tuple[int, int], None]] = {False: {}, True: {}}
    for x, y, fate in zip(points["x"], points["y"], points["fate"], strict=True):
        if x is not None:
            across, up = round(x / SIDE * MAP_WIDTH), round((1 - y / SIDE) * MAP_HEIGHT)
            # Many rows share a pixel, and one spot shows all of them.
            spots[fate == "selected"][across, up] = None
    parts = [
        f'<path stroke="{colour}" stroke-width="2.5" stroke-linecap="round" '
        f'd="{"".join(f"M{x} {y}h0" for x, y in spots[selected])}"/>'
        for selected, colour in ((False, OTHERS), (True, SELECTED))
    ]
    keys = [(SELECTED, "selected"), (OTHERS, "others")]
    return _picture("Map of the rows; rows close together say similar things", MAP_WIDTH, MAP_HEIGHT, parts, keys)


def _picture(title: str, wide: int, high: int, parts: Sequence[str], keys: Sequence[tuple[str, str]]) -> str:
    """An SVG file: what is drawn (wide x high), and below it what the colours mean."""
    left, legend = 0, []
    for colour, name in keys:
        legend.append(f'<path fill="{colour}" d="M{left} {high + 10}h8v8h-8z"/>')
        legend.append(f'<text x="{left + 12}" y="{high + 18}">{name}</text>')
        left += 70
    frame = f"{-EDGE} {-EDGE} {wide + 2 * EDGE} {high + 24 + 2 * EDGE}"
    drawn = "\n".join([*parts, *legend])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{frame}" width="{2 * (wide + 2 * EDGE)}" role="img">\n'
        f"<title>{title}</title>\n"
        f'<rect x="{-EDGE}" y="{-EDGE}" width="100%" height="100%" fill="#fff"/>\n'
        f'<g font-family="sans-serif" font-size="10" fill="{WORDS}">\n{drawn}\n</g>\n</svg>\n'
    )
