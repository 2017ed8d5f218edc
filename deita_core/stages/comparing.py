"""Compares selections of one pool side by side: their tokens, scores, mix, diversity and overlap."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from deita_core.export.tables import COMPARED, SUBSETS
from deita_core.selection import set_figures
from deita_core.stages.candidates import all_vectors
from deita_core.stages.groups import NO_VALUE, field_values, find_clusters, first_sources
from deita_core.stages.ingest import pool_ids
from deita_core.stages.job import Job
from deita_core.stages.languages import known_languages
from deita_core.stages.ranking import rank_pool
from deita_core.stages.selecting import decisions_of
from deita_core.stages.token_counts import token_counts
from deita_core.store import Store
from deita_core.tables import SAMPLES

POOL = "pool"
# Bins of the pool by length, within which scores are compared at equal length.
LENGTHS = 20
# Rows of the pool in which densities are measured.
MEASURED = 50_000
# Values of a truth that get a line each, the most frequent first.
VALUES = 8
# The seed of the clusters of which the share covered is measured; no strategy draws with it.
CLUSTERS_SEED = 1_000_003


class Run(NamedTuple):
    """One selection: its strategy, its seed, and its job."""

    strategy: str
    seed: int
    job: Job


class Comparison(NamedTuple):
    """The figures of every run and of the pool as in COMPARED, and the rows of every run as in SUBSETS."""

    figures: pl.DataFrame
    subsets: pl.DataFrame


def check_field(store: Store, job: Job, truth: str) -> None:
    """Raise InputError if no row of a pool has a field."""
    field_values(store, job, pool_ids(store, job.file_ids), truth)


def compare_runs(store: Store, runs: Sequence[Run], truth: str | None) -> Comparison:
    """Measure selections of the same pool. Every job has a tokenizer."""
    rows = _pool_rows(store, runs[0].job, truth)
    subsets = pl.concat([_subset(store, run, rows) for run in runs])
    chosen = rows.filter(pl.col("id").is_in(subsets["id"].unique().implode()))
    space = _Space(store, runs[0].job, rows, chosen["id"])
    frames = [_figures(POOL, 0, rows, rows, None, truth)]
    for run in runs:
        ids = subsets.filter(arm=run.strategy, seed=run.seed)["id"]
        mine = ids.to_frame().join(rows, on="id", how="left", maintain_order="left")
        frames.append(_figures(run.strategy, run.seed, mine, rows, space, truth))
    return Comparison(COMPARED.validate(pl.concat(frames)), SUBSETS.validate(subsets))


def _pool_rows(store: Store, job: Job, truth: str | None) -> pl.DataFrame:
    """All samples that are not left out by the settings, and what is measured of each; unread scores are null."""
    assert job.tokenizer is not None
    plain = job.settings.model_copy(update={"rank": "evol"})
    ranked = rank_pool(store, job.model_copy(update={"settings": plain, "refine": None}))
    unread = ranked.unranked.filter(pl.col("fate") == "rejected").select("id")
    scored = ranked.candidates.select("id", "score", "complexity", "quality")
    rows = pl.concat([scored, unread], how="diagonal").sort("id")
    sizes = store.fetch(SAMPLES, "id", rows["id"], ["id", "n_turns"])
    counts = token_counts(store, job.tokenizer, rows["id"])
    read = counts["tokens"].clip(upper_bound=job.settings.training_tokens)
    rows = rows.join(sizes, on="id", how="left", maintain_order="left").with_columns(
        tokens=read, source=first_sources(store, job, rows["id"], pl.col("file"))
    )
    if (languages := known_languages(store, rows["id"])) is not None:
        rows = rows.with_columns(language=languages.fill_null(NO_VALUE))
    if truth is not None:
        rows = rows.with_columns(truth=field_values(store, job, rows["id"], truth))
    length = pl.col("tokens").rank("ordinal") * LENGTHS // (pl.len() + 1)
    return rows.with_columns(above_its_length=pl.col("score") - pl.col("score").mean().over(length))


def _subset(store: Store, run: Run, rows: pl.DataFrame) -> pl.DataFrame:
    decided = decisions_of(store, run.job, ["id", "fate"]).filter(pl.col("fate") == "selected")
    found = decided.select("id").join(rows.select("id", "tokens"), on="id", how="inner", maintain_order="left")
    return found.select(
        arm=pl.lit(run.strategy),
        seed=pl.lit(run.seed, pl.Int64),
        rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32),
        id="id",
        tokens=pl.col("tokens").cast(pl.Int32),
    )


class _Space:
    """Vectors of the chosen rows, their density in the pool, and the clusters of the pool."""

    def __init__(self, store: Store, job: Job, rows: pl.DataFrame, chosen: pl.Series) -> None:
        # Ids are hashes, so that their order draws a sample.
        others = rows.filter(~pl.col("id").is_in(chosen.implode()))["id"].head(max(0, MEASURED - len(chosen)))
        ids = pl.concat([chosen, others])
        vectors = all_vectors(store, job.encoder, ids.to_frame())
        good = np.linalg.norm(vectors, axis=1) > 0
        place = np.flatnonzero(good[: len(chosen)])
        density = set_figures.density(vectors[good], np.arange(len(place))) if good.sum() > 1 else np.ones(len(place))
        self._vectors, self._density = vectors[place], density
        self._position = {id_: i for i, id_ in enumerate(chosen.gather(place))}
        clustered = ids.gather(np.flatnonzero(good))
        settings = job.settings.model_copy(update={"seed": CLUSTERS_SEED})
        labels = find_clusters(store, job.model_copy(update={"settings": settings}), clustered).labels
        self._labels, self._label_of = labels, dict(zip(clustered, labels.tolist(), strict=True))

    def figures(self, ids: pl.Series) -> dict[str, float]:
        """Figures of how different the rows of a set are."""
        places = np.array([self._position[id_] for id_ in ids if id_ in self._position], np.int64)
        if len(places) < 2:
            return {}
        vectors, labels = self._vectors[places], [self._label_of[id_] for id_ in ids if id_ in self._position]
        return {
            "clusters covered": set_figures.coverage(self._labels, np.array(labels)),
            "NovelSum": set_figures.novel_sum(vectors, self._density[places]),
            "nearest similarity": set_figures.nearest_similarity(vectors),
        }


def _figures(
    strategy: str, seed: int, rows: pl.DataFrame, pool: pl.DataFrame, space: _Space | None, truth: str | None
) -> pl.DataFrame:
    """The figures of one set of rows, in the order of the table."""
    found = {
        "rows": float(len(rows)),
        "tokens": float(rows["tokens"].sum()),
        "tokens a row": _mean(rows["tokens"]),
        "turns a row": _mean(rows["n_turns"]),
        "complexity": _mean(rows["complexity"]),
        "quality": _mean(rows["quality"]),
        "score": _mean(rows["score"]),
        "score above its length": _mean(rows["above_its_length"]),
        "sources unlike the pool": _unlike(rows["source"], pool["source"]),
    }
    if "language" in rows.columns:
        found["languages unlike the pool"] = _unlike(rows["language"], pool["language"])
    if space is not None:
        found |= space.figures(rows["id"])
    if truth is not None:
        found |= _truths(truth, rows["truth"], pool["truth"])
    return pl.DataFrame(
        {"arm": strategy, "seed": seed, "figure": list(found), "value": list(found.values())},
        schema=COMPARED.empty().schema,
    )


def _mean(values: pl.Series) -> float:
    mean = values.cast(pl.Float64).mean()
    return float("nan") if mean is None else float(mean)  # type: ignore[arg-type]


def _unlike(rows: pl.Series, pool: pl.Series) -> float:
    """The total variation distance of two distributions: 0 for the same shares, 1 for none in common."""
    parts = [values.value_counts(normalize=True, name=name) for values, name in ((rows, "a"), (pool, "b"))]
    both = parts[0].join(parts[1], on=rows.name, how="full", coalesce=True).fill_null(0.0)
    return float((both["a"] - both["b"]).abs().sum()) / 2


def _truths(name: str, rows: pl.Series, pool: pl.Series) -> dict[str, float]:
    """The mean of a truth in numbers, over the rows that have it, and the shares of values if they are few or words."""
    known = pool.filter(pool != NO_VALUE)
    is_number = known.cast(pl.Float64, strict=False).is_not_null().all()
    found = {f"{name} (mean)": _mean(rows.cast(pl.Float64, strict=False))} if is_number else {}
    if is_number and known.n_unique() > VALUES:
        return found
    values = pool.value_counts().sort("count", pool.name, descending=[True, False])[pool.name].head(VALUES).sort()
    return found | {f"{name} {str(value)[:40]}": _mean((rows == value).cast(pl.Float64)) for value in values}
