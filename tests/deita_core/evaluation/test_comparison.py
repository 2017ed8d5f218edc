"""What a comparison says: means over seeds, rows in common, and where Deita stands."""

import polars as pl
import pytest

from deita_core.evaluation.comparison import by_strategy, overlaps, sentences
from deita_core.export.tables import COMPARED


def figures(**values):
    """Figures of one name by strategy: a list has a value for each seed."""
    rows = [
        {"arm": arm, "seed": seed, "figure": name, "value": float(value)}
        for name, arms in values.items()
        for arm, of_arm in arms.items()
        for seed, value in enumerate(of_arm)
    ]
    return COMPARED.validate(pl.DataFrame(rows, schema=COMPARED.empty().schema))


def test_means_have_a_deviation_only_if_there_are_several_seeds():
    means = by_strategy(figures(NovelSum={"deita": [2], "random": [1, 3]}))
    assert means.rows() == [("deita", "NovelSum", 2.0, None), ("random", "NovelSum", 2.0, pytest.approx(2**0.5))]


def test_a_difference_within_the_noise_of_random_rows_is_none_and_less_similarity_is_better():
    values = {
        "NovelSum": {"deita": [2.0], "random": [1.0, 1.1, 0.9], "kmq": [3.0]},
        "clusters covered": {"deita": [0.8], "random": [0.7, 0.9, 0.8]},
        "nearest similarity": {"deita": [0.5], "random": [0.3, 0.31, 0.29]},
    }
    assert sentences(by_strategy(figures(**values))) == [
        "clusters covered: deita 0.800, random 0.800 (deita is level)",
        "NovelSum: deita 2.000, random 1.000 (deita is better), best kmq 3.000",
        "nearest similarity: deita 0.500, random 0.300 (deita loses)",
    ]
    assert sentences(by_strategy(figures(NovelSum={"kmq": [1]}))) == []


def test_rows_in_common_are_counted_on_the_smaller_selection():
    rows = {("deita", 0): "abcd", ("random", 0): "ab", ("random", 1): "bc"}
    subsets = pl.DataFrame([{"arm": arm, "seed": seed, "id": id_} for (arm, seed), ids in rows.items() for id_ in ids])
    assert {(one, other): share for one, other, share in overlaps(subsets).iter_rows()} == {
        ("deita", "random"): 1.0,
        ("random", "deita"): 1.0,
        ("random", "random"): 0.5,
    }
