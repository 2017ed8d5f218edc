"""Keeps each row that adds a tag which no row above it has (InsTag, 2308.07074)."""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np


class Covering(NamedTuple):
    """`kept` (n,) and `redundant` (n,) bool: rows that are kept, and rows that add no tag. Other rows do not fit."""

    kept: np.ndarray
    redundant: np.ndarray


def keep_new_tags(tags: Sequence[Collection[str]], admit: Callable[[int], bool]) -> Covering:
    """Go through rows in rank order and keep each that adds a tag to those of the rows kept above it.

    tags: the tags of each row, which may be none. `admit` gets the position of a row that adds a tag and says whether
    the row fits in the budget and the quotas; the tags of one that does not fit stay uncovered.
    """
    covered = set[str]()
    kept, redundant = np.zeros(len(tags), dtype=bool), np.zeros(len(tags), dtype=bool)
    for position, of_row in enumerate(tags):
        if covered.issuperset(of_row):
            redundant[position] = True
        elif admit(position):
            kept[position] = True
            covered.update(of_row)
    return Covering(kept, redundant)
