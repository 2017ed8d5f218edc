"""The order by number of tags, most first (InsTag, 2308.07074)."""

from collections.abc import Collection, Sequence

import numpy as np


def tag_counts(tags: Sequence[Collection[str]]) -> np.ndarray:
    """The number (n,) float64 of distinct tags of each row."""
    return np.array([len(set(of_row)) for of_row in tags], dtype=np.float64)
