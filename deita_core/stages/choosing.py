"""Chooses from ranked candidates by a rule of diversity, within the budgets and the quotas."""

from functools import partial
from typing import NamedTuple

import numpy as np
import polars as pl

from deita_core.errors import InputError
from deita_core.selection import DiversitySelector
from deita_core.selection.diversity.clusters import cluster_rule, draws
from deita_core.selection.diversity.coverage import coverage_rule, label_shares
from deita_core.selection.diversity.tags import new_tags_rule
from deita_core.selection.limits import Limits, Rule, take_in_order
from deita_core.selection.results import places_by_id
from deita_core.selection.selector import DECISION_SCHEMA, REJECT_SCHEMA, Asked
from deita_core.selection.threshold import smallest_filling
from deita_core.selection.vectors import normalize, reject, valid
from deita_core.stages.candidates import all_vectors, candidate_vectors
from deita_core.stages.groups import (
    SHOWN,
    field_values,
    find_clusters,
    group_names,
    make_groups,
    nearest_centroids,
    split_tags,
)
from deita_core.stages.job import Job
from deita_core.stages.token_counts import token_counts
from deita_core.store import Store

# Clusters that a candidate is labelled with, for coverage.
LABELS = 3
# Why a candidate was not selected although there was room.
NOT_TAKEN = {
    "clusters": "others fill its cluster's share of the budget",
    "coverage": "others add more information about the labels",
}


class Choice(NamedTuple):
    """What became of candidates.

    `scanned`: those selected and the near-duplicates, id, selected, duplicate_of, similarity; `rejected`: id, reason;
    `refused`: those that did not fit, id, fate, reason; `not_taken`: why the others were not taken; `lacking`: rows
    that a group has less than its floor, by name; `tokens`: of those selected, if they were counted.
    """

    threshold: float
    scanned: pl.DataFrame
    rejected: pl.DataFrame
    refused: pl.DataFrame
    not_taken: str
    lacking: dict[str, int]
    tokens: int | None


def choose(store: Store, job: Job, ranked: pl.DataFrame) -> Choice:
    """Choose from candidates (id, score) in rank order. Raises InputError for settings that the pool does not fit."""
    settings = job.settings
    candidates, rejected = _with_vectors(store, job, ranked)
    threshold = find_threshold(store, job, candidates)
    limits, names = _limits(store, job, candidates["id"])
    kept = _kept(job, candidates["id"])
    if settings.diversity == "threshold":
        # Only a budget in rows: the scan keeps it by itself, faster.
        is_plain = limits.tokens is None and limits.groups is None and not kept
        scan = _Scan(store, job, candidates, threshold, None if is_plain else limits)
        if is_plain:
            scan.take(np.arange(len(candidates)), False)
        else:
            limits.fill(len(candidates), scan.take, kept)
        scanned, rejected = pl.concat(scan.frames), pl.concat([rejected, scan.selector.rejected])
    else:
        limits.fill(len(candidates), _rule(store, job, candidates, limits), kept)
        scanned = _taken(candidates["id"], limits)
    lacking = zip(names, limits.lacking.tolist(), strict=True)
    return Choice(
        threshold=threshold,
        scanned=scanned.select("id", "selected", "duplicate_of", "similarity"),
        rejected=rejected,
        refused=_refused(job, candidates["id"], limits, names),
        not_taken=NOT_TAKEN.get(settings.diversity, "the budget was full before its turn"),
        lacking={name: count for name, count in lacking if count},
        tokens=limits.used if limits.tokens is not None else None,
    )


def find_threshold(store: Store, job: Job, candidates: pl.DataFrame) -> float:
    """The threshold of the settings; for auto, the smallest that fills the budget."""
    budget, threshold = job.settings.budget, job.settings.threshold
    if threshold != "auto":
        return threshold
    if budget is None or budget >= len(candidates):
        # Only all candidates together can fill it.
        return 1.0
    blocks = partial(candidate_vectors, store, job.encoder, candidates)
    return smallest_filling(blocks, budget, job.encoder.dim, len(candidates)).threshold


def _with_vectors(store: Store, job: Job, candidates: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The candidates that have a cluster, and the others: id, reason; all of them if no rule asks for clusters."""
    settings = job.settings
    by_cluster = settings.diversity == "clusters" or (settings.diversity == "coverage" and not settings.tags_field)
    if not by_cluster and settings.grouped_by != "cluster":
        return candidates, pl.DataFrame(schema=REJECT_SCHEMA)
    bad: list[tuple[str, str]] = []
    for ids, vectors in candidate_vectors(store, job.encoder, candidates):
        rows = normalize(vectors)
        place = np.flatnonzero(~valid(rows))
        bad += reject([ids[i] for i in place], rows.lengths[place])
    rejected = pl.DataFrame(bad, schema=REJECT_SCHEMA, orient="row")
    return candidates.join(rejected, on="id", how="anti", maintain_order="left"), rejected


def _limits(store: Store, job: Job, ids: pl.Series) -> tuple[Limits, list[str]]:
    """The limits of the settings, and the names of their groups."""
    settings = job.settings
    tokens, groups, names = None, None, list[str]()
    if settings.token_budget is not None:
        assert job.tokenizer is not None
        counts = token_counts(store, job.tokenizer, ids)["tokens"]
        tokens = counts.clip(upper_bound=settings.training_tokens).cast(pl.Int64).to_numpy()
    if settings.grouped_by is not None:
        groups, names = make_groups(job, group_names(store, job, ids))
    return Limits(settings.budget, settings.token_budget, tokens, groups), names


def _kept(job: Job, ids: pl.Series) -> list[int]:
    """The positions of the candidates to keep. Raises InputError if one is no candidate."""
    if not job.keep:
        return []
    kept = pl.Series(job.keep, dtype=pl.String)
    if len(lost := kept.filter(~kept.is_in(ids.implode()))):
        raise InputError(
            f"The row {lost[0]} of the setting keep cannot be selected: it is dropped, filtered, contaminated or has "
            f"no score; leave it out of keep, or change these settings."
        )
    return ids.is_in(kept.implode()).arg_true().to_list()


def _rule(store: Store, job: Job, candidates: pl.DataFrame, limits: Limits) -> Rule:
    """The rule of a diversity other than the threshold."""
    settings, ids = job.settings, candidates["id"]
    match settings.diversity:
        case "clusters":
            priority = None
            if settings.cluster_draw == "score":
                priority = draws(candidates["score"].to_numpy(), places_by_id(ids), settings.seed)
            return cluster_rule(find_clusters(store, job, ids).labels, priority, limits)
        case "coverage":
            labels, similarity = _labels(store, job, ids)
            shares = label_shares(labels, candidates["score"].to_numpy(), similarity)
            return coverage_rule(shares, places_by_id(ids), limits)
        case "tags":
            assert settings.tags_field is not None
            return new_tags_rule(split_tags(field_values(store, job, ids, settings.tags_field)), limits)
        case _:
            return partial(take_in_order, limits)


def _labels(store: Store, job: Job, ids: pl.Series) -> tuple[list[list[int]], np.ndarray | None]:
    """Labels of samples, and the cosines between labels: their tags, or the clusters nearest to them."""
    if job.settings.tags_field:
        tags = split_tags(field_values(store, job, ids, job.settings.tags_field))
        number = {tag: i for i, tag in enumerate(sorted({tag for of_row in tags for tag in of_row}))}
        return [[number[tag] for tag in of_row] for of_row in tags], None
    clusters = find_clusters(store, job, ids)
    vectors = normalize(all_vectors(store, job.encoder, ids.rename("id").to_frame())).unit
    labels = nearest_centroids(vectors, clusters.centroids, LABELS)
    return labels.tolist(), clusters.centroids @ clusters.centroids.T


class _Scan:
    """The greedy scan, in several passes if there are limits; `frames` holds the rows decided."""

    def __init__(
        self, store: Store, job: Job, candidates: pl.DataFrame, threshold: float, limits: Limits | None
    ) -> None:
        self.selector = DiversitySelector(None if limits else job.settings.budget, threshold, job.encoder.dim)
        self.frames = [pl.DataFrame(schema=DECISION_SCHEMA)]
        self._read = partial(candidate_vectors, store, job.encoder)
        self._candidates, self._limits = candidates, limits
        self._decided = np.zeros(len(candidates), dtype=bool)

    def take(self, rows: np.ndarray, forced: bool) -> None:
        """Scan candidates in the order given."""
        rows = rows[~self._decided[rows]]
        start = 0
        for ids, vectors in self._read(self._candidates.select("id")[rows]):
            part = rows[start : start + len(ids)]
            start += len(ids)
            asked = Asked(self._limits, part, forced) if self._limits else None
            found = self.selector.add_block(ids, vectors, asked)
            found = found.filter(pl.col("selected") | pl.col("duplicate_of").is_not_null())
            self.frames.append(found)
            if asked is None:
                if self.selector.full:
                    return
                continue
            done = pl.concat([found["id"], self.selector.rejected["id"]])
            self._decided[part] |= pl.Series(ids).is_in(done.implode()).to_numpy()
            if asked.full:
                return


def _taken(ids: pl.Series, limits: Limits) -> pl.DataFrame:
    """The selected candidates as a scan returns them."""
    taken = ids.gather(np.sort(np.array(limits.selected, np.int64)))
    return pl.DataFrame(
        {"id": taken, "selected": [True] * len(taken)}, schema_overrides={"id": pl.String}
    ).with_columns(duplicate_of=pl.lit(None, pl.String), similarity=pl.lit(None, pl.Float64))


def _refused(job: Job, ids: pl.Series, limits: Limits, names: list[str]) -> pl.DataFrame:
    """The candidates that did not fit: id, fate, reason."""
    settings, found = job.settings, []
    unit = "rows" if settings.budget is not None else "tokens"
    for row, why in sorted(limits.refused.items()):
        if why == "tokens":
            assert limits.tokens is not None
            size = int(limits.tokens[row])
            found.append((row, "over_budget", f"its {size:,} tokens do not fit in what is left of the token budget"))
        elif why == "redundant":
            found.append((row, "redundant", "rows that were taken before it have all its tags"))
        else:
            assert limits.groups is not None
            group = int(limits.groups.of[row])
            most = f"{limits.groups.caps[group]:,.0f} {unit}"
            name = names[group][:SHOWN]
            reason = f"the {settings.grouped_by} {name} has its share of the budget, {most}, from rows taken before it"
            found.append((row, "over_quota", reason))
    frame = pl.DataFrame(found, schema={"row": pl.Int64, "fate": pl.String, "reason": pl.String}, orient="row")
    return frame.select(ids.gather(frame["row"]).alias("id"), "fate", "reason")
