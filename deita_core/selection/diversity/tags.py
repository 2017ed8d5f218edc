"""Keeps each row that adds a tag which no row taken before it has (InsTag, 2308.07074)."""

from collections.abc import Collection, Sequence

import numpy as np

from deita_core.selection.limits import Limits, Rule


def new_tags_rule(tags: Sequence[Collection[str]], limits: Limits) -> Rule:
    """A rule that takes candidates in rank order, each that adds a tag to those of the rows taken before.

    tags: of each candidate in rank order, which may be none. Those that add none are refused as redundant. The tags of
    one that does not fit in the limits stay uncovered.
    """
    covered = set[str]()

    def take(rows: np.ndarray, forced: bool) -> None:
        for row in rows.tolist():
            if forced:
                limits.force(row)
            elif limits.full:
                return
            elif covered.issuperset(tags[row]):
                limits.refused[row] = "redundant"
                continue
            elif not limits.admit(row):
                continue
            covered.update(tags[row])

    return take
