"""Says what a comparison of strategies shows: means over seeds, overlaps, and where Deita stands."""

import polars as pl

# Figures of which more is better, or less: the others only describe.
MORE, LESS = ("score above its length", "clusters covered", "NovelSum"), ("nearest similarity",)
OURS, CHANCE = "deita", "random"


def by_strategy(figures: pl.DataFrame) -> pl.DataFrame:
    """Means over seeds, and their standard deviations (null for one seed): arm, figure, mean, sd, in order."""
    return figures.group_by("arm", "figure", maintain_order=True).agg(
        mean=pl.col("value").mean(), sd=pl.col("value").std(ddof=1)
    )


def overlaps(subsets: pl.DataFrame) -> pl.DataFrame:
    """The share of the smaller subset's rows that the other has as well, averaged over seeds: one, other, share.

    `subsets`: arm, seed, id. A strategy is compared with itself over different seeds, so that a share below 1 shows how
    much it depends on its draws.
    """
    sets = {key: set(part["id"]) for key, part in subsets.group_by("arm", "seed", maintain_order=True)}
    found = []
    for one, seed in sets:
        for other, other_seed in sets:
            if one != other or seed != other_seed:
                small = min(len(sets[one, seed]), len(sets[other, other_seed]))
                found.append((one, other, len(sets[one, seed] & sets[other, other_seed]) / small if small else 0.0))
    frame = pl.DataFrame(found, schema={"one": pl.String, "other": pl.String, "share": pl.Float64}, orient="row")
    return frame.group_by("one", "other", maintain_order=True).agg(pl.col("share").mean())


def sentences(means: pl.DataFrame) -> list[str]:
    """What the table shows of Deita beside random rows and the best strategy, figure by figure.

    A difference from random within two standard deviations over its seeds is none.
    """
    values = {(strategy, figure): (mean, sd) for strategy, figure, mean, sd in means.iter_rows()}
    strategies = [name for name in means["arm"].unique(maintain_order=True) if name != "pool"]
    found = []
    for figure in (*MORE, *LESS):
        sign = -1 if figure in LESS else 1
        ranked = sorted((s for s in strategies if (s, figure) in values), key=lambda s: -sign * values[s, figure][0])
        if OURS not in ranked:
            continue
        ours = values[OURS, figure][0]
        parts = [f"{figure}: deita {ours:.3f}"]
        if CHANCE in ranked:
            chance, sd = values[CHANCE, figure]
            parts.append(f"random {chance:.3f} ({_beside(sign * (ours - chance), sd)})")
        if ranked[0] not in (OURS, CHANCE):
            parts.append(f"best {ranked[0]} {values[ranked[0], figure][0]:.3f}")
        found.append(", ".join(parts))
    return found


def _beside(difference: float, sd: float | None) -> str:
    if sd is not None and abs(difference) <= 2 * sd:
        return "deita is level"
    return "deita is better" if difference > 0 else "deita loses"
