"""InsTag against a loop written from the paper: by number of tags, and keep a row iff it adds a tag."""

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from deita_core.selection import rank_candidates
from deita_core.selection.diversity.tags import new_tags_rule
from deita_core.selection.limits import Groups, Limits
from deita_core.selection.orders.instag import tag_counts


def test_the_rows_chosen_of_2000_are_those_of_the_formula():
    rng = np.random.default_rng(0)
    names = [f"tag {i}" for i in range(400)]
    rows = {f"{i:04d}": rng.choice(names, rng.integers(0, 7), replace=False).tolist() for i in rng.permutation(2_000)}
    covered, expected = set(), []
    for id_ in sorted(rows, key=lambda id_: (-len(rows[id_]), id_)):
        if set(rows[id_]) - covered and len(expected) < 80:
            expected.append(id_)
            covered |= set(rows[id_])
    assert len(expected) == 80
    scored = pl.DataFrame({"id": rows.keys(), "score": tag_counts(list(rows.values()))})
    ranked = rank_candidates(scored).candidates["id"].to_list()
    limits = Limits(budget=80)
    limits.fill(2_000, new_tags_rule([rows[id_] for id_ in ranked], limits))
    assert [ranked[i] for i in limits.selected] == expected
    # All others that it came to added no tag.
    assert set(limits.refused.values()) == {"redundant"}


tag_lists = st.lists(st.lists(st.sampled_from("abcdef"), max_size=4), min_size=1, max_size=15)


@given(tag_lists, st.data())
def test_each_row_taken_adds_a_tag_and_each_redundant_one_adds_none(rows, data):
    group = data.draw(st.lists(st.integers(0, 1), min_size=len(rows), max_size=len(rows)))
    kept = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=2, unique=True))
    limits = Limits(budget=8, groups=Groups(np.array(group), np.zeros(2, np.int64), np.array([3.0, np.inf])))
    limits.fill(len(rows), new_tags_rule(rows, limits), kept)
    taken = [*sorted(kept), *(row for row in limits.selected if row not in kept)]
    assert limits.selected == taken
    for place, row in enumerate(taken):
        if row not in kept:
            assert set(rows[row]) - {tag for above in taken[:place] for tag in rows[above]}
    covered = {tag for row in taken for tag in rows[row]}
    for row in set(range(len(rows))) - set(taken):
        assert limits.full or row in limits.refused
        # What does not fit in its group leaves its tags to others.
        assert limits.refused.get(row) != "redundant" or set(rows[row]) <= covered
        assert limits.refused.get(row) != "quota" or group[row] == 0


def test_a_tag_given_twice_counts_once():
    assert tag_counts([["x", "x", "y"], []]).tolist() == [2, 0]
