"""The measures of `python -m benchmarks.truth`, on rows whose figures are known."""

import numpy as np
import polars as pl
import pytest

from benchmarks.truth_figures import AUC, ORDER, RANK, RANK_OVER, Question, compare

NAN = float("nan")


def question(measure, truth, chain=None, group=None):
    n = len(truth)
    columns = {"truth": truth, "chain": chain or [""] * n, "group": group or [str(i) for i in range(n)]}
    return Question("known", measure, pl.DataFrame(columns))


def figure(of, values, length=None):
    length = np.arange(len(values), dtype=float) if length is None else np.array(length, dtype=float)
    return compare(of, np.array(values, dtype=float), length)


def test_the_share_in_the_right_order_is_averaged_within_an_instruction_first():
    # Three pairs of one instruction in the wrong order, and one of another in the right order.
    truth, chain = [1, 0] * 4, ["a", "a", "b", "b", "c", "c", "d", "d"]
    pairs = question(ORDER, truth, chain, ["x"] * 6 + ["y"] * 2)
    assert figure(pairs, [0, 1, 0, 1, 0, 1, 1, 0]).figure == 0.5


def test_a_tie_counts_half():
    assert figure(question(ORDER, [1, 0], ["a", "a"], ["x", "x"]), [3, 3]).figure == 0.5
    assert figure(question(AUC, [1, 0]), [3, 3]).figure == 0.5


@pytest.mark.parametrize("measure", [ORDER, RANK, AUC])
def test_an_unreadable_row_is_below_every_number(measure):
    of = question(measure, [0, 1], ["a", "a"], ["x", "y" if measure is AUC else "x"])
    assert figure(of, [NAN, -5]).figure == 1
    assert figure(of, [-5, NAN]).figure == (-1 if measure is RANK else 0)


def test_equal_values_rank_nothing():
    assert figure(question(RANK, [1, 2, 3], ["a"] * 3, ["x"] * 3), [2, 2, 2]).figure == 0


def test_chains_of_equal_truth_do_not_count():
    of = question(RANK, [1, 2, 5, 5], ["a", "a", "b", "b"], ["x", "x", "y", "y"])
    assert figure(of, [1, 2, 2, 1]).figure == 1


def test_the_auc_counts_every_pair_of_both_kinds():
    # Of the pairs 4>1, 4>3, 2>1, 2<3 three are in order.
    assert figure(question(AUC, [True, True, False, False]), [4, 2, 1, 3]).figure == 0.75


def test_the_difference_from_length_has_an_interval_over_instructions():
    random = np.random.default_rng(1)
    n = 400
    truth = random.normal(size=n)
    of = question(RANK_OVER, truth.tolist())
    better = figure(of, truth + random.normal(size=n), truth + 3 * random.normal(size=n))
    assert better.above.mean == pytest.approx(better.figure - better.length)
    assert 0 < better.above.low < better.above.mean < better.above.high
    same = figure(of, truth, truth).above
    assert same.mean == same.low == same.high == 0


def test_rows_of_one_instruction_widen_the_interval():
    random = np.random.default_rng(2)
    signal, truth = np.repeat(random.normal(size=20), 20), np.tile([0.0, 1.0], 200)
    values, length = truth + signal * truth, random.normal(size=400)
    apart = figure(question(AUC, truth.tolist()), values, length).above
    together = figure(
        question(AUC, truth.tolist(), group=np.repeat(np.arange(20), 20).astype(str).tolist()), values, length
    )
    assert together.above.high - together.above.low > 1.2 * (apart.high - apart.low)


def test_a_sample_keeps_whole_chains_of_many_instructions():
    of = question(ORDER, [0, 1] * 30, [str(i // 2) for i in range(60)], [str(i // 6) for i in range(60)])
    rows = of.head(12).rows
    assert len(rows) == 12 and rows["group"].n_unique() == 6
    assert rows.group_by("chain").len()["len"].unique().to_list() == [2]
    assert of.head(22).rows["group"].n_unique() == 10
    assert rows.equals(of.head(12).rows) and of.head(None) is of
