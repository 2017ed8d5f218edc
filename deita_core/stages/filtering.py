"""Finds the samples that the filters of the settings leave out, each with its reason."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import polars as pl

from deita_core.selection.repetition import repetition
from deita_core.stages.conditions import rows_that_meet
from deita_core.stages.job import Job
from deita_core.stages.languages import sample_languages
from deita_core.stages.token_counts import token_counts
from deita_core.stages.turns import NEEDED, read_messages
from deita_core.store import Store
from deita_core.tables import SAMPLES

# Samples whose answers are read at a time.
BLOCK = 8_192
Reasons = pl.DataFrame


def filtered(store: Store, job: Job, scored: pl.DataFrame) -> pl.DataFrame:
    """The samples that a filter of the job's settings leaves out: id, reason. Of several reasons the first counts.

    `scored`: id, score (complexity x quality, null where unreadable) of the samples to look at. A filter looks only at
    what those before it leave; the one that reads the texts is last. A sample without a score meets `min_score`, since
    it is rejected anyway.
    """
    found = [pl.DataFrame(schema={"id": pl.String, "reason": pl.String})]
    for a_filter in _filters(store, job):
        reasons = a_filter(scored).select("id", "reason")
        scored = scored.join(reasons, on="id", how="anti", maintain_order="left")
        found.append(reasons)
    return pl.concat(found)


def _filters(store: Store, job: Job) -> Iterator[Callable[[pl.DataFrame], Reasons]]:
    settings = job.settings
    if settings.where is not None:
        yield partial(_no_row_meets, store, job, settings.where)
    if settings.min_score is not None:
        yield partial(_below, settings.min_score)
    if settings.language:
        yield partial(_in_another_language, store, settings.language)
    if settings.filters_tokens:
        yield partial(_too_short_or_long, store, job)
    if settings.max_repetition is not None:
        yield partial(_repeating, store, settings.max_repetition)


def _no_row_meets(store: Store, job: Job, where: str, scored: pl.DataFrame) -> Reasons:
    rows = rows_that_meet(store, where).filter(pl.col("file_id").is_in(list(job.file_ids)))
    met = rows.select(id="sample_id").unique()
    return scored.join(met, on="id", how="anti", maintain_order="left").with_columns(
        reason=pl.lit("no row of it meets the condition of the setting where")
    )


def _below(smallest: float, scored: pl.DataFrame) -> Reasons:
    score = pl.col("score")
    return scored.filter(score < smallest).with_columns(
        reason=pl.format("its score {} is below {}", score.round(4), pl.lit(f"{smallest:g}"))
    )


def _in_another_language(store: Store, wanted: Sequence[str], scored: pl.DataFrame) -> Reasons:
    language = pl.col("language")
    found = scored.with_columns(language=sample_languages(store, scored["id"]))
    listed = pl.lit(", ".join(wanted[:-1]) + " or " + wanted[-1] if len(wanted) > 1 else wanted[0])
    return found.filter(~language.is_in(wanted).fill_null(False)).with_columns(
        reason=pl.when(language.is_null())
        .then(pl.format("its language is not known to be {}", listed))
        .otherwise(pl.format("its language is {}, not {}", language, listed))
    )


def _too_short_or_long(store: Store, job: Job, scored: pl.DataFrame) -> Reasons:
    assert job.tokenizer is not None
    least, most = job.settings.min_answer_tokens, job.settings.max_answer_tokens
    tokens = pl.col("answer_tokens")
    counted = scored.with_columns(token_counts(store, job.tokenizer, scored["id"])["answer_tokens"])
    limit = (
        pl.when(tokens < (least or 0)).then(pl.lit(f"fewer than {least}"))
        .when((tokens > most) if most is not None else pl.lit(False)).then(pl.lit(f"more than {most}"))
    )  # fmt: skip
    found = counted.with_columns(limit=limit).drop_nulls("limit")
    return found.with_columns(reason=pl.format("its answers have {} tokens, {}", tokens, "limit"))


def _repeating(store: Store, most: float, scored: pl.DataFrame) -> Reasons:
    share = pl.col("repetition")
    return answer_repetition(store, scored["id"]).filter(share > most).with_columns(
        reason=pl.format(
            "{} of its answers' 4-grams are repeated, more than {}", share.round(4), pl.lit(f"{most:g}")
        )
    )  # fmt: skip


def answer_repetition(store: Store, ids: pl.Series) -> pl.DataFrame:
    """How much the answers of samples repeat themselves, without reasoning: id, repetition, in the order of the ids."""
    places = store.row_ids(SAMPLES, "id")
    found = [pl.DataFrame(schema={"id": pl.String, "repetition": pl.Float64})]
    for block in ids.rename("id").to_frame().iter_slices(BLOCK):
        samples = store.fetch(SAMPLES, "id", block["id"], NEEDED, places)
        answers = read_messages(samples, "ignore").filter(pl.col("role") == "assistant")
        shares = repetition(answers.select("owner", "text"))
        shares = shares.select(samples["id"].gather(shares["owner"]), "repetition")
        rows = block.join(shares, on="id", how="left", maintain_order="left")
        found.append(rows.with_columns(pl.col("repetition").fill_null(0.0)))
    return pl.concat(found)
