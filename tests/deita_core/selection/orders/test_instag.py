"""InsTag against a loop written from the paper: by number of tags, and keep a row iff it adds a tag."""

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from deita_core.selection import rank_candidates
from deita_core.selection.diversity.tags import keep_new_tags
from deita_core.selection.orders.instag import instag_order


def test_the_rows_chosen_of_2000_are_those_of_the_formula():
    rng = np.random.default_rng(0)
    names = [f"tag {i}" for i in range(400)]
    rows = {f"{i:04d}": rng.choice(names, rng.integers(0, 7), replace=False).tolist() for i in rng.permutation(2_000)}
    covered, expected = set(), []
    for id_ in sorted(rows, key=lambda id_: (-len(rows[id_]), id_)):
        if set(rows[id_]) - covered and len(expected) < 100:
            expected.append(id_)
            covered |= set(rows[id_])
    frame = pl.DataFrame({"id": rows.keys(), "tags": rows.values()})
    ranked = rank_candidates(instag_order(frame)).candidates["id"].to_list()
    admitted = []

    def admit(position):
        admitted.append(position)
        return len(admitted) <= 100

    kept, redundant = keep_new_tags([rows[id_] for id_ in ranked], admit)
    assert [ranked[i] for i in np.flatnonzero(kept)] == expected
    # Only rows that add a tag ask for a place.
    assert not redundant[admitted].any() and len(admitted) + redundant.sum() == 2_000


tag_lists = st.lists(st.lists(st.sampled_from("abcdef"), max_size=4), max_size=15)


@given(tag_lists, st.data())
def test_what_is_kept_covers_each_tag_of_a_redundant_row(rows, data):
    admit = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    kept, redundant = keep_new_tags(rows, lambda position: admit[position])
    for position, of_row in enumerate(rows):
        above = {tag for i in np.flatnonzero(kept[:position]) for tag in rows[i]}
        adds = bool(set(of_row) - above)
        assert (kept[position], redundant[position]) == (adds and admit[position], not adds)


def test_a_tag_given_twice_counts_once_and_a_row_without_tags_has_no_score():
    frame = pl.DataFrame({"id": ["a", "b", "c"], "tags": [["x", "x", "y"], [], None]})
    assert instag_order(frame)["score"].to_list() == [2, 0, None]
