"""The order by likeness to examples of the tasks one wants (RDS+, 2503.01807)."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from deita_core.errors import InputError
from deita_core.selection.quantiles import quantile_scores
from deita_core.selection.vectors import normalize, valid

# Rows whose products with the examples are computed at a time.
BLOCK = 8_192


def task_likeness(vectors: np.ndarray, examples: np.ndarray, task: np.ndarray) -> np.ndarray:
    """The highest cosine of each row to the examples of each task: (n, tasks) float32.

    vectors (n, d) and examples (m, d), float32, of any length; task (m,) int64, the number of each example's task, from
    0 on without a gap. A row without a valid vector has NaN. Raises InputError if an example has none.
    """
    wanted = normalize(examples)
    if not valid(wanted).all():
        raise InputError(f"{int((~valid(wanted)).sum())} examples have no valid vector; leave them out.")
    likeness = np.empty((len(vectors), int(task.max(initial=-1)) + 1), np.float32)
    for start in range(0, len(vectors), BLOCK):
        rows = normalize(vectors[start : start + BLOCK])
        products = rows.unit @ wanted.unit.T
        for number in range(likeness.shape[1]):
            likeness[start : start + BLOCK, number] = products[:, task == number].max(axis=1)
        likeness[start : start + BLOCK][~valid(rows)] = np.nan
    return likeness


def target_order(
    ids: Sequence[str], likeness: np.ndarray, evol: np.ndarray | None = None, weight: float = 1.0
) -> pl.DataFrame:
    """The order in which tasks, taking turns, take the best row that is not yet taken: id, score, likeness, task.

    likeness (n, tasks), as `task_likeness` returns it; evol (n,): scores, used if the weight w is below 1. The best row
    of a task has the highest (1 - w) e + w l, where e and l are quantiles among all rows of the evol score and of the
    likeness to this task; ties by id. The scores fall evenly from 6 for the row taken first to 1 for the last.
    `task`: the number of the task that took the row, `likeness` the row's to it. A row without a likeness, or
    without an evol score that is used, has nulls.
    """
    usable = np.isfinite(likeness).all(axis=1)
    if weight < 1:
        if evol is None:
            raise InputError("A weight below 1 needs evol scores; give one for each row.")
        usable &= np.isfinite(evol)
    rows = np.flatnonzero(usable)
    names = np.array(ids, dtype=object)[rows]
    value = weight * _quantiles(likeness[rows])
    if weight < 1 and evol is not None:
        value += (1 - weight) * _quantiles(evol[rows, None])
    # Sums that are equal but for rounding are ties.
    order, taker = _take_turns(value.round(12), np.argsort(names, kind="stable"))
    taken = pl.DataFrame(
        {
            "id": names[order].tolist(),
            "score": np.linspace(6, 1, len(order)),
            "likeness": likeness[rows[order], taker].astype(np.float64),
            "task": taker,
        },
        schema={"id": pl.String, "score": pl.Float64, "likeness": pl.Float64, "task": pl.Int64},
    )
    everyone = pl.DataFrame({"id": list(ids)}, schema={"id": pl.String})
    return everyone.join(taken, on="id", how="left", maintain_order="left")


def _quantiles(values: np.ndarray) -> np.ndarray:
    """The quantile of each value (n, k) among its column, from 1 to 6 as in `quantile_scores`."""
    frame = pl.DataFrame(values, schema=[str(i) for i in range(values.shape[1])])
    return frame.select(quantile_scores(name).alias(name) for name in frame.columns).to_numpy()


def _take_turns(value: np.ndarray, by_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows in the order taken, and the task that took each; `by_id` breaks ties."""
    n, tasks = value.shape
    wishes = [by_id[np.argsort(-value[by_id, task], kind="stable")].tolist() for task in range(tasks)]
    left = [iter(wish) for wish in wishes]
    taken = np.zeros(n, dtype=bool)
    order, taker = np.empty(n, np.int64), np.empty(n, np.int64)
    for place in range(n):
        task = place % tasks
        row = next(row for row in left[task] if not taken[row])
        taken[row] = True
        order[place], taker[place] = row, task
    return order, taker
