"""The order by in-context influence: how much a row helps with its hard neighbours (wICI, 2604.25132)."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from deita_core.selection.orders.ifd import ifd
from deita_core.selection.vectors import normalize, valid

NEIGHBOURS = 8
# Rows whose products with all hard rows are computed at a time.
BLOCK = 1_024


def hard_rows(losses: pl.DataFrame) -> pl.Series:
    """The ids of the harder half of the rows by IFD: the highest below 1, and one more of an odd number; ties by id.

    losses: id, answer_nll and alone_nll, as `ifd_order` reads them.
    """
    known = losses.select("id", ifd=ifd()).filter(pl.col("ifd") < 1)
    ranked = known.sort("ifd", "id", descending=[True, False])
    return ranked["id"].head(-(-len(ranked) // 2))


def nearest_hard(ids: Sequence[str], vectors: np.ndarray, hard: pl.Series, count: int = NEIGHBOURS) -> pl.DataFrame:
    """The probes of each row: of the hard rows the `count` nearest other ones, of a cosine above 0: id, probe, cosine.

    vectors (n, d) float32, of any length; rows without a valid vector have no probes and are none. Ties by id.
    """
    names = pl.Series(ids, dtype=pl.String)
    rows = normalize(vectors)
    sound = valid(rows)
    unit = np.where(sound[:, None], rows.unit, 0)
    probes = np.flatnonzero(names.is_in(hard.implode()).to_numpy() & sound)
    # In the order of ids, so that a stable sort breaks ties by id.
    probes = probes[np.argsort(np.array(ids, dtype=object)[probes], kind="stable")]
    found = [pl.DataFrame(schema={"id": pl.String, "probe": pl.String, "cosine": pl.Float64})]
    for start in range(0, len(unit), BLOCK):
        products = unit[start : start + BLOCK] @ unit[probes].T
        products[np.arange(start, start + len(products))[:, None] == probes] = -np.inf
        row, place = _highest(products, count)
        near = {"id": names.gather(start + row), "probe": names.gather(probes[place])}
        found.append(pl.DataFrame({**near, "cosine": products[row, place].astype(np.float64)}))
    return pl.concat(found).filter(pl.col("cosine") > 0)


def _highest(products: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the `count` highest of each row, the highest first; of equal ones the first."""
    width = products.shape[1]
    if width > count:
        # All that may be among them: those at least as high as the last one.
        least = np.partition(products, width - count, axis=1)[:, width - count, None]
        row, place = np.nonzero(products >= least)
    else:
        row, place = np.nonzero(np.ones(products.shape, dtype=bool))
    order = np.lexsort((place, -products[row, place], row))
    row, place = row[order], place[order]
    nth = np.arange(len(row)) - np.searchsorted(row, row)
    return row[nth < count], place[nth < count]


def influence_order(pairs: pl.DataFrame, losses: pl.DataFrame) -> pl.DataFrame:
    """The influence of each row on its probes: id, score, influence (the same number).

    It is the mean, weighted by cosine, of IFD(probe) - IFD(probe with the row as a demonstration before it). pairs: id,
    probe, cosine (above 0) and shown_nll, the mean negative log-likelihood of the probe's answers after the
    demonstration, null where unknown, and then the pair does not count. losses: id, answer_nll and alone_nll. A row
    without a pair that counts is not in the result.
    """
    alone = losses.select("alone_nll", probe="id", of_probe=ifd())
    counted = pairs.join(alone, on="probe", how="left", maintain_order="left").drop_nulls(["shown_nll", "of_probe"])
    gain = pl.col("of_probe") - (pl.col("shown_nll") - pl.col("alone_nll")).exp()
    influence = (pl.col("cosine") * gain).sum() / pl.col("cosine").sum()
    # The order of its terms changes the last bit of a sum.
    grouped = counted.sort("id", "probe").group_by("id", maintain_order=True)
    return grouped.agg(influence.alias("score"), influence.alias("influence"))
