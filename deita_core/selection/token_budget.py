"""Takes rows in rank order up to a number of training tokens, so that subsets are compared at equal cost."""

from collections.abc import Sequence

import numpy as np

from deita_core.errors import InputError

# A subset is full once it has this share of its budget, so that few low-ranked short rows are taken to fill it up.
FULL = 0.99


def take_tokens(order: Sequence[int] | np.ndarray, tokens: np.ndarray, budget: int) -> np.ndarray:
    """Positions (m,) int64 of the rows taken, in rank order; their tokens are at most `budget`.

    `order`: positions of rows, best first; `tokens` (n,): training tokens of every row, at least 1. A row that does not
    fit in what is left is skipped, and the next is tried, until the rows taken have 99% of the budget. Only a pool
    without rows that fit gives fewer. Raises InputError for a budget below 1 and for a row without tokens.
    """
    order, tokens = np.asarray(order, dtype=np.int64), np.asarray(tokens)
    if budget < 1:
        raise InputError(f"The budget is {budget} tokens; give at least 1.")
    if len(order) and tokens[order].min() < 1:
        raise InputError("A row without training tokens cannot be taken; leave out rows that training drops.")
    taken, left = [], budget
    for position, size in zip(order.tolist(), tokens[order].tolist(), strict=True):
        if budget - left >= FULL * budget:
            break
        if size <= left:
            taken.append(position)
            left -= size
    return np.array(taken, dtype=np.int64)
