"""Preference pairs from several answers to one instruction: the best against the worst, by their scores."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from deita_core.selection.selector import DiversitySelector
from deita_core.selection.vectors import check_shape, cosines, normalize

SCANNED = {"id": pl.String, "selected": pl.Boolean, "duplicate_of": pl.String, "similarity": pl.Float64}
# Answers to one instruction, the best first.
COUNT, PLACE = pl.len().over("instruction").cast(pl.Int64), pl.int_range(pl.len()).over("instruction")


class PairRules(BaseModel):
    """Which answers to one instruction make a pair."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    margin: float = Field(0.5, gt=0, le=5, description="Least difference of the two scores, on the scale of 1 to 6.")
    similarity: float = Field(
        0.95, ge=-1, le=1, description="Largest cosine similarity to a better answer; one above it is skipped."
    )
    per_instruction: int = Field(
        1, ge=1, description="Pairs of an instruction: the best and the worst answer, the second best and worst, ..."
    )


@dataclass(frozen=True)
class Paired:
    """Pairs, ordered by instruction, and the fate of every answer, in their order.

    `pairs`: instruction, chosen and rejected (ids), chosen_score, rejected_score, margin, similarity (their cosine).
    `fates`: id, fate, and of a near-identical answer `duplicate_of` (a better answer) and their similarity.
    """

    pairs: pl.DataFrame
    fates: pl.DataFrame


def make_pairs(answers: pl.DataFrame, vectors: np.ndarray, rules: PairRules | None = None) -> Paired:
    """Pair the best answer to each instruction with the worst, the second best with the second worst, and so on.

    `answers`: id (unique), instruction, text (equal texts are the same answer) and score (1 to 6, null if unread);
    vectors (n, d) of the answers. An answer that is near-identical to a better one is skipped before the pairs are
    made, so no two answers of a pair are near-identical. Among equal scores the smaller id is the better one.
    """
    rules = rules or PairRules()
    check_shape(vectors, len(answers), vectors.shape[-1])
    scored = answers.with_row_index("row").filter(pl.col("score").is_finite().fill_null(False))
    ranked = scored.sort("instruction", "score", "id", descending=[False, True, False])
    compared = _compared(ranked, vectors, rules.similarity)
    matched = _matched(compared.filter(pl.col("fate").is_null()), rules)
    decided = pl.concat([matched, compared.filter(pl.col("fate").is_not_null())], how="diagonal")
    fates = answers.select("id").join(
        decided.select("id", "fate", "duplicate_of", "similarity"), on="id", how="left", maintain_order="left"
    )
    return Paired(_pairs(matched, vectors), fates.with_columns(pl.col("fate").fill_null("no_score")))


def _compared(ranked: pl.DataFrame, vectors: np.ndarray, similarity: float) -> pl.DataFrame:
    """Answers with fate, duplicate_of and similarity of those that cannot be in a pair; the fate of others is null."""
    scanned = ranked.join(_scan(ranked, vectors, similarity), on="id", how="left", maintain_order="left")
    usable = pl.col("selected").fill_null(COUNT == 1)
    # Texts also differ in what no encoder sees, such as code in its white space, and vectors of unknown words are zero.
    first = pl.col("id").filter(usable).first().over("instruction", "text")
    copied = usable & (first != pl.col("id"))
    fate = (
        pl.when(copied | ~pl.col("selected")).then(pl.lit("near_identical"))
        .when(~usable).then(pl.lit("no_vector"))
    )  # fmt: skip
    return scanned.with_columns(fate=fate, duplicate_of=pl.coalesce("duplicate_of", pl.when(copied).then(first)))


def _scan(ranked: pl.DataFrame, vectors: np.ndarray, similarity: float) -> pl.DataFrame:
    """The greedy scan of each instruction with several answers; an answer without a valid vector has no row."""
    frames = [pl.DataFrame(schema=SCANNED)]
    for _, group in ranked.filter(COUNT > 1).group_by("instruction", maintain_order=True):
        selector = DiversitySelector(None, similarity, vectors.shape[1])
        frames.append(selector.add_block(group["id"].to_list(), vectors[group["row"].to_numpy()]).drop("rank"))
    return pl.concat(frames)


def _matched(distinct: pl.DataFrame, rules: PairRules) -> pl.DataFrame:
    """Answers with their fates, and what they are matched with: the i-th best of an instruction with its i-th worst.

    Adds place (0 is the best) and mirror (that of the other answer); other, other_row and other_score.
    """
    placed = distinct.with_columns(place=PLACE, mirror=COUNT - 1 - PLACE)
    others = placed.select("instruction", mirror="place", other="id", other_row="row", other_score="score")
    matched = placed.join(others, on=["instruction", "mirror"], how="left", maintain_order="left")
    outer = pl.min_horizontal("place", "mirror") < rules.per_instruction
    high, low = pl.max_horizontal("score", "other_score"), pl.min_horizontal("score", "other_score")
    fate = (
        pl.when(COUNT == 1).then(pl.lit("no_other_answer"))
        .when(~outer | (pl.col("place") == pl.col("mirror"))).then(pl.lit("in_between"))
        .when(high < low + rules.margin).then(pl.lit("margin_too_small"))
        .otherwise(pl.lit("paired"))
    )  # fmt: skip
    return matched.with_columns(fate=fate)


def _pairs(matched: pl.DataFrame, vectors: np.ndarray) -> pl.DataFrame:
    chosen = matched.filter((pl.col("fate") == "paired") & (pl.col("place") < pl.col("mirror")))
    better, worse = (normalize(vectors[chosen[rows].to_numpy()]) for rows in ("row", "other_row"))
    pairs = np.arange(len(chosen))
    return chosen.select(
        "instruction",
        chosen="id",
        rejected="other",
        chosen_score="score",
        rejected_score="other_score",
        margin=pl.col("score") - pl.col("other_score"),
        similarity=pl.Series(cosines(better, pairs, worse, pairs), dtype=pl.Float64),
    )
