"""Takes rows in rank order up to a number of training tokens, so that subsets are compared at equal cost."""

from collections.abc import Iterable

from deita_core.errors import InputError

# A subset is full once it has this share of its budget, so that few low-ranked short rows are taken to fill it up.
FULL = 0.99


def take_tokens(sizes: Iterable[int], budget: int) -> list[int]:
    """Positions of the rows taken, in rank order; their tokens are at most `budget`.

    `sizes`: training tokens of each row, at least 1, best row first; read only until the budget is full. A row that
    does not fit in what is left is skipped, and the next is tried, until the rows taken have 99% of the budget. Only a
    pool without rows that fit gives fewer. Raises InputError for a budget below 1 and for a row without tokens.
    """
    if budget < 1:
        raise InputError(f"The budget is {budget} tokens; give at least 1.")
    taken, left = [], budget
    for position, size in enumerate(sizes):
        if size < 1:
            raise InputError("A row without training tokens cannot be taken; leave out rows that training drops.")
        if size <= left:
            taken.append(position)
            left -= size
        if budget - left >= FULL * budget:
            break
    return taken
