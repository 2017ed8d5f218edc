"""Budgets and quotas, held against a plain reading of the rules."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.errors import InputError
from deita_core.selection.limits import Groups, Limits, take_in_order


@st.composite
def cases(draw):
    """Groups and tokens of candidates, and limits that fit together."""
    n, k = draw(st.integers(0, 25)), draw(st.integers(1, 4))
    of = np.array(draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n)), np.int64)
    caps = np.array(draw(st.lists(st.sampled_from([0, 1, 3, 6, math.inf]), min_size=k, max_size=k)), float)
    floors = np.array([draw(st.integers(0, int(min(cap, 4)))) for cap in caps], np.int64)
    return {
        "of": of,
        "groups": Groups(of, floors, caps),
        "budget": draw(st.integers(1, 30)),
        "kept": sorted(draw(st.sets(st.integers(0, n - 1), max_size=3))) if n else [],
    }


def filled(limits, count, kept=()):
    limits.fill(count, lambda rows, forced: take_in_order(limits, rows, forced), kept)
    return limits.selected


@given(cases())
def test_floors_come_before_caps_and_nothing_passes_a_limit(case):
    of, groups, kept = case["of"], case["groups"], case["kept"]
    limits = Limits(case["budget"], groups=groups)
    if len(kept) > case["budget"]:
        with pytest.raises(InputError, match="rows to keep"):
            filled(limits, len(of), kept)
        return
    selected = filled(limits, len(of), kept)
    assert len(set(selected)) == len(selected) <= case["budget"]
    assert set(kept) <= set(selected)
    counts = np.bincount([of[row] for row in selected], minlength=len(groups.caps))
    forced = np.bincount([of[row] for row in kept], minlength=len(groups.caps))
    assert (counts <= np.maximum(groups.caps, forced)).all()
    # Inside a group the best are taken, besides those kept.
    for group in range(len(groups.caps)):
        free = [row for row in range(len(of)) if of[row] == group and row not in kept]
        taken = [row for row in free if row in set(selected)]
        assert taken == free[: len(taken)]
    # A floor lacks rows only if the group has no more, or the budget is used up by floors and kept rows.
    lacking = np.flatnonzero(limits.lacking)
    for group in lacking:
        all_of_it = counts[group] == (of == group).sum()
        no_room = len(selected) == case["budget"] and (counts <= np.maximum(groups.floors, forced)).all()
        assert all_of_it or no_room
    # Every row left out has a reason: a full budget, or a group that has its share.
    for row in set(range(len(of))) - set(selected):
        assert len(selected) == case["budget"] or counts[of[row]] >= groups.caps[of[row]]
        if len(selected) < case["budget"]:
            assert limits.refused[row] == "quota"


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 300))
def test_tokens_never_pass_their_budget_and_the_last_row_that_fits_fills_it(sizes, budget):
    limits = Limits(token_budget=budget, tokens=np.array(sizes, np.int64))
    selected = filled(limits, len(sizes))
    assert sum(sizes[row] for row in selected) == limits.used <= budget
    # Taken in order, each row unless it does not fit, until 99% are used.
    expected, used = [], 0
    for row, size in enumerate(sizes):
        if used >= 0.99 * budget:
            break
        if used + size <= budget:
            expected.append(row)
            used += size
    assert selected == expected


def test_with_both_budgets_the_first_that_is_full_ends_the_selection():
    tokens = np.array([5, 5, 5, 5])
    assert filled(Limits(2, 100, tokens), 4) == [0, 1]
    assert filled(Limits(4, 10, tokens), 4) == [0, 1]


def test_with_a_budget_in_tokens_alone_caps_are_in_tokens():
    groups = Groups(np.array([0, 0, 0, 1]), np.zeros(2, np.int64), np.array([10.0, math.inf]))
    limits = Limits(token_budget=100, tokens=np.array([6, 6, 4, 50]), groups=groups)
    assert filled(limits, 4) == [0, 2, 3]
    assert limits.refused == {1: "quota"}


def test_a_group_cannot_need_more_than_it_may_have():
    with pytest.raises(InputError, match="more rows than it may have"):
        Groups(np.zeros(1, np.int64), np.array([3]), np.array([2.0]))
    with pytest.raises(InputError, match="at least 1"):
        Limits(0)
