"""The pictures of a dataset card: what is drawn is what was counted, and it is XML that fetches and runs nothing."""

import re
from xml.etree import ElementTree

import pytest

from deita_core.report.figures import Histogram
from deita_core.report.pictures import map_picture, score_picture

SCORES = Histogram("score", 0.0, 10.0, [0, 0, 3, 5], [8, 4, 1, 0], 5.0)
POINTS = {
    "x": [0, 4095, 4095, 0, None, 0],
    "y": [0, 4095, 4095, 0, None, 4095],
    "fate": ["selected", "over_budget", "near_duplicate", "over_budget", "selected", "rejected"],
}


def parts(picture, tag):
    return [element for element in ElementTree.fromstring(picture).iter() if element.tag.endswith(f"}}{tag}")]


def path(picture, colour):
    """What is drawn in a colour, the keys below it apart."""
    [first, *_] = [e for e in parts(picture, "path") if colour in (e.get("fill"), e.get("stroke"))]
    return first.get("d")


def bars(picture, colour):
    """The bars in a colour: left, bottom, height."""
    return [tuple(map(float, bar)) for bar in re.findall(r"M([\d.]+) ([\d.]+)h[\d.]+v-([\d.]+)", path(picture, colour))]


def test_bars_are_as_high_as_the_counts_and_stand_on_each_other():
    picture = score_picture(SCORES)
    # The highest bar, of 8 rows, takes all 120 pixels; 4 bins share 320.
    assert bars(picture, "#0a66c2") == [(160, 120, 45), (240, 120, 75)]
    assert bars(picture, "#c3c8d0") == [(0, 120, 120), (80, 120, 60), (160, 75, 15)]
    assert path(picture, "#b3123f").startswith("M160.0 0v")
    assert [text.text for text in parts(picture, "text")] == ["0", "10", "selected", "others", "lowest selected: 5"]


def test_without_a_selected_row_there_is_no_cut():
    picture = score_picture(Histogram("score", 0.0, 1.0, [0] * 4, [0] * 4, None))
    assert "lowest" not in picture and bars(picture, "#c3c8d0") == []


def test_a_map_has_a_spot_where_rows_are_and_the_selected_are_on_top():
    picture = map_picture(POINTS)
    assert path(picture, "#c3c8d0") == "M480 0h0M0 360h0M0 0h0"
    assert path(picture, "#0a66c2") == "M0 360h0"
    assert picture.index("#c3c8d0") < picture.index("#0a66c2")


EMPTY = {"x": [], "y": [], "fate": []}


@pytest.mark.parametrize("picture", [score_picture(SCORES), map_picture(POINTS), map_picture(EMPTY)])
def test_a_picture_is_drawn_of_shapes_and_words_alone(picture):
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(picture).iter()}
    assert tags <= {"svg", "title", "rect", "g", "path", "text"}
    assert not re.search(r"href|url\(|style=|\son\w+=", picture)
