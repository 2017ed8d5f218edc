"""Finding the threshold: the most diversity that still fills a budget."""

from collections.abc import Callable

STEPS = 1_000


def smallest_filling(fills: Callable[[float], bool]) -> float:
    """The smallest threshold, in steps of 0.001 from 0 to 1, at which `fills` is true and one step below it is not.

    Found by bisection, in 10 walks; 1.0 if nothing below fills the budget either. More similarity allowed keeps more,
    by and large: a greedy walk is not strictly monotone, so a smaller threshold may fill the budget by chance.
    """
    low, high = 0, STEPS
    if fills(low / STEPS):
        return 0.0
    while high - low > 1:
        middle = (low + high) // 2
        if fills(middle / STEPS):
            high = middle
        else:
            low = middle
    return high / STEPS
