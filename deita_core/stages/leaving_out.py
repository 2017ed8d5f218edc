"""Finds the samples that are left out before the ranking, each with its fate and the reason."""

import polars as pl

from deita_core.stages.contamination import contaminated
from deita_core.stages.filtering import filtered
from deita_core.stages.job import Job
from deita_core.store import Store


def left_out(store: Store, job: Job, scored: pl.DataFrame) -> pl.DataFrame:
    """The samples to leave out of a pool: id, fate, reason. Of several reasons the first counts.

    `scored`: id, score (complexity x quality), complexity, quality of all samples, null where unreadable.
    """
    named = _dropped(job, scored["id"])
    others = scored["id"].filter(~scored["id"].is_in(named["id"].implode()))
    out = pl.concat([named, contaminated(store, job.exclude, job.encoder, others)])
    rest = scored.join(out, on="id", how="anti", maintain_order="left")
    filters = filtered(store, job, rest).select("id", pl.lit("filtered").alias("fate"), "reason")
    return pl.concat([out, filters])


def _dropped(job: Job, ids: pl.Series) -> pl.DataFrame:
    named = ids.filter(ids.is_in(pl.Series(job.drop, dtype=pl.String).implode()))
    return pl.DataFrame({"id": named}, schema={"id": pl.String}).select(
        "id", fate=pl.lit("filtered"), reason=pl.lit("it is named by the setting drop")
    )
