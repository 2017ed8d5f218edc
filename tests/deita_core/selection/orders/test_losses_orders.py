"""Perplexity and IFD against loops written from the formulas."""

import math

import numpy as np
import polars as pl
import pytest

from deita_core.selection import rank_candidates
from deita_core.selection.orders.ifd import ifd_order
from deita_core.selection.orders.perplexity import perplexity_order


def losses(n, seed=0):
    rng = np.random.default_rng(seed)
    # Few values, so that many rows tie.
    answer, alone = (np.round(rng.uniform(0.5, 4, n), 2) for _ in range(2))
    return pl.DataFrame({"id": [f"{i:05d}" for i in rng.permutation(n)], "answer_nll": answer, "alone_nll": alone})


def test_the_rows_chosen_by_ifd_are_those_of_the_formula():
    rows = losses(2_000)
    left = []
    for id_, answer, alone in rows.iter_rows():
        ratio = math.exp(answer) / math.exp(alone)
        # Equal losses give a ratio of 1 or just beside it.
        if answer < alone:
            left.append((-ratio, id_))
    # Ratios of equal differences differ in their last bits.
    expected = [id_ for _, id_ in sorted((round(negative, 12), id_) for negative, id_ in left)][:300]
    found = ifd_order(rows).with_columns(pl.col("score").round(12))
    assert rank_candidates(found).candidates["id"].head(300).to_list() == expected
    assert found["score"].count() == len(left)


def test_a_row_whose_instruction_does_not_help_has_no_score_and_says_why():
    rows = pl.DataFrame({"id": ["a", "b", "c"], "answer_nll": [2.0, 2.03, 1.0], "alone_nll": [2.0, 2.0, 2.0]})
    found = ifd_order(rows)
    assert found["score"].to_list() == [None, None, pytest.approx(math.exp(-1))]
    assert found["ifd"].to_list() == pytest.approx([1.0, math.exp(0.03), math.exp(-1)])
    assert found["reason"].to_list() == [
        "its answer is no likelier with the instruction: IFD 1.0",
        "its answer is no likelier with the instruction: IFD 1.03",
        None,
    ]


def test_perplexity_is_the_exponential_of_the_mean_loss_highest_first():
    rows = losses(2_000, seed=1)
    expected = sorted((-math.exp(answer), id_) for id_, answer in rows.select("id", "answer_nll").iter_rows())
    found = perplexity_order(rows)
    assert rank_candidates(found).candidates["id"].to_list() == [id_ for _, id_ in expected]
    assert found["score"].to_list() == pytest.approx([math.exp(x) for x in rows["answer_nll"]])


@pytest.mark.parametrize("order", [ifd_order, perplexity_order])
def test_a_row_without_losses_has_no_score(order):
    rows = pl.DataFrame({"id": ["a"], "answer_nll": [None], "alone_nll": [None]}, schema_overrides={
        "answer_nll": pl.Float64, "alone_nll": pl.Float64})  # fmt: skip
    found = order(rows)
    assert found["score"].to_list() == [None]
    assert found.get_column("reason", default=pl.Series([None])).to_list() == [None]
