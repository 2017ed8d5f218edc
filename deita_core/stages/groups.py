"""Finds the group of each candidate: where it comes from, what it is like, or what a field of its row says."""

import numpy as np
import orjson
import polars as pl

from deita_core.errors import InputError
from deita_core.selection.diversity.clusters import Clusters, spherical_kmeans
from deita_core.selection.limits import Groups
from deita_core.selection.vectors import normalize
from deita_core.stages.candidates import BLOCK, all_vectors
from deita_core.stages.job import Job
from deita_core.stages.languages import sample_languages
from deita_core.store import Store
from deita_core.tables import SAMPLES, SOURCES

# Rows of which a cluster is made, if the number of clusters is not given, and most rows that clusters are found on.
PER_CLUSTER = 10
FITTED = 100_000
# Characters of a group's name that are shown.
SHOWN = 80
NO_VALUE = "none"


def group_names(store: Store, job: Job, ids: pl.Series) -> pl.Series:
    """The group of each sample by the setting `per` or `quotas.by`; NO_VALUE where a row has no such field."""
    match job.settings.grouped_by:
        case "turns":
            turns = store.fetch(SAMPLES, "id", ids, ["id", "n_turns"])
            return _in_order(ids, turns.select("id", group=pl.col("n_turns").cast(pl.String)))
        case "cluster":
            return pl.Series(find_clusters(store, job, ids).labels).cast(pl.String)
        case "source" | "file":
            return first_sources(store, job, ids, pl.col("file"))
        case "language":
            return sample_languages(store, ids).fill_null(NO_VALUE).rename("group")
        case "layout":
            return first_sources(store, job, ids, pl.col("layout"))
        case str(name):
            return field_values(store, job, ids, name)
        case None:
            raise ValueError("the job has no groups")


def field_values(store: Store, job: Job, ids: pl.Series, field: str) -> pl.Series:
    """A field of each sample's first row as text. Raises InputError if no row has it."""
    path = f"$[{orjson.dumps(field).decode()}]"
    found = first_sources(store, job, ids, pl.col("fields").str.json_path_match(path))
    if len(found) and (found == NO_VALUE).all():
        raise InputError(f"No row of the pool has a field {field!r}; name one that the rows have.")
    return found


def first_sources(store: Store, job: Job, ids: pl.Series, value: pl.Expr) -> pl.Series:
    """A value of each sample's first row in the pool, in the order of the files and their lines."""
    columns = ["sample_id", "key", "file_id", "file", "line", "side", "layout", *value.meta.root_names()]
    rows = store.fetch(SOURCES, "file_id", list(job.file_ids), list(dict.fromkeys(columns)))
    position = pl.DataFrame({"file_id": job.file_ids}).with_row_index("nth")
    rows = rows.join(position, on="file_id").sort("nth", "line", "side", "key").unique("sample_id", keep="first")
    return _in_order(ids, rows.select(id="sample_id", group=value))


def _in_order(ids: pl.Series, found: pl.DataFrame) -> pl.Series:
    rows = ids.rename("id").to_frame().join(found, on="id", how="left", maintain_order="left")
    return rows["group"].fill_null(NO_VALUE)


def find_clusters(store: Store, job: Job, ids: pl.Series) -> Clusters:
    """Clusters of the candidates' vectors, none of them zero, found on at most FITTED of them that are drawn by id."""
    vectors = all_vectors(store, job.encoder, ids.rename("id").to_frame())
    if not len(vectors):
        return Clusters(np.zeros(0, np.int64), np.zeros((0, job.encoder.dim), np.float32), 0.0)
    # In the order of ids, so that the clusters do not depend on the scores.
    fitted = np.argsort(ids.to_numpy(), kind="stable")
    if len(fitted) > FITTED:
        drawn = np.random.default_rng(job.settings.seed).choice(len(fitted), FITTED, replace=False)
        fitted = fitted[np.sort(drawn)]
    count = min(job.settings.clusters or _usual_clusters(job, len(ids)), len(fitted))
    found = spherical_kmeans(vectors[fitted], count, seed=job.settings.seed)
    labels = nearest_centroids(normalize(vectors).unit, found.centroids, 1)[:, 0]
    return Clusters(labels, found.centroids, found.cohesion)


def _usual_clusters(job: Job, candidates: int) -> int:
    return max(1, (job.settings.budget or candidates) // PER_CLUSTER)


def nearest_centroids(unit: np.ndarray, centroids: np.ndarray, count: int) -> np.ndarray:
    """The numbers (n, count) of the centroids nearest to each normalized vector (n, d), the nearest first."""
    count = min(count, len(centroids))
    found = [np.zeros((0, count), np.int64)]
    for start in range(0, len(unit), BLOCK):
        products = unit[start : start + BLOCK] @ centroids.T
        found.append(
            np.argsort(-products, axis=1, kind="stable")[:, :count] if count > 1 else products.argmax(1)[:, None]
        )
    return np.concatenate(found)


def split_tags(values: pl.Series) -> list[list[str]]:
    """The distinct tags of each value of a field, in order: a JSON list, or words separated by commas."""
    found = []
    for value in values:
        parts = _json_list(value) if value.startswith("[") else value.split(",")
        tags = dict.fromkeys(part.strip() for part in parts)
        found.append([tag for tag in tags if tag and tag != NO_VALUE])
    return found


def _json_list(value: str) -> list[str]:
    try:
        return [str(part) for part in orjson.loads(value)]
    except ValueError:
        return value.split(",")


def make_groups(job: Job, names: pl.Series) -> tuple[Groups, list[str]]:
    """The groups of the candidates with their limits, and their names. Raises InputError for an unknown group."""
    settings = job.settings
    found = sorted(names.unique())
    number = {name: i for i, name in enumerate(found)}
    of = names.replace_strict(number, return_dtype=pl.Int64).to_numpy()
    whole = settings.budget or settings.token_budget
    floors, caps = np.zeros(len(found), np.int64), np.full(len(found), np.inf)
    if settings.quotas is not None:
        assert whole is not None
        if unknown := [name for name in settings.quotas.shares if name not in number]:
            raise InputError(
                f"No row has the {settings.quotas.by} {unknown[0]!r} of the quotas; there are "
                f"{', '.join(name[:SHOWN] for name in found[:10])}{', ...' if len(found) > 10 else ''}."
            )
        shares = settings.quotas.shares
        amounts = _exact(np.array(list(shares.values())), whole)
        for name, amount in zip(shares, amounts.tolist(), strict=True):
            caps[number[name]] = amount
            if settings.budget is not None:
                floors[number[name]] = amount
    if settings.floor is not None:
        floors[:] = settings.floor
    if settings.cap is not None:
        assert whole is not None
        caps[:] = np.floor(settings.cap * whole + 1e-9)
    return Groups(of, floors, caps), found


def _exact(shares: np.ndarray, whole: int) -> np.ndarray:
    """Shares of a whole number by largest remainder; they add up to the rounded sum."""
    amounts = shares * whole
    floors = np.floor(amounts + 1e-9).astype(np.int64)
    left = round(float(amounts.sum())) - int(floors.sum())
    floors[np.argsort(-(amounts - floors), kind="stable")[: max(left, 0)]] += 1
    return floors
