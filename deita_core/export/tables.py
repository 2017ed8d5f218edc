"""The Pandera models of tables that are written to files, and not to the store."""

from typing import get_args

import pandera.polars as pa
import polars as pl

from deita_core.literals import PairFate
from deita_core.tables import ID, Table, TableModel


class Pairs(TableModel):
    """One row per preference pair: two answers to one instruction, by sample id."""

    instruction: str = pa.Field(str_matches=ID)
    chosen: str = pa.Field(str_matches=ID, unique=True)
    rejected: str = pa.Field(str_matches=ID, unique=True)
    chosen_score: pl.Float64 = pa.Field(ge=1, le=6)
    rejected_score: pl.Float64 = pa.Field(ge=1, le=6)
    margin: pl.Float64 = pa.Field(gt=0, le=5)
    similarity: pl.Float64 = pa.Field(ge=-1, le=1)

    @pa.dataframe_check
    @classmethod
    def the_margin_is_the_difference_of_the_scores(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """The margin is the chosen answer's score less the rejected one's."""
        difference = pl.col("chosen_score") - pl.col("rejected_score")
        return data.lazyframe.select(pl.col("margin") == difference)


class PairFates(TableModel):
    """One row per distinct sample of a pool of which pairs were made."""

    id: str = pa.Field(str_matches=ID, unique=True)
    instruction: str = pa.Field(str_matches=ID)
    score: pl.Float64 = pa.Field(ge=1, le=6, nullable=True)
    fate: str = pa.Field(isin=get_args(PairFate))
    duplicate_of: str = pa.Field(str_matches=ID, nullable=True)
    similarity: pl.Float64 = pa.Field(ge=-1, le=1, nullable=True)

    @pa.dataframe_check
    @classmethod
    def near_identical_answers_name_a_better_one(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Exactly the near-identical answers have a duplicate_of."""
        return data.lazyframe.select(pl.col("duplicate_of").is_not_null() == (pl.col("fate") == "near_identical"))


class Overlaps(TableModel):
    """One row per sample that stands in a held-out file, or nearly; `held_out` is the held-out one."""

    id: str = pa.Field(str_matches=ID, unique=True)
    reason: str = pa.Field(isin=("shared_words", "similar"))
    held_out: str = pa.Field(str_matches=ID)
    similarity: pl.Float64 = pa.Field(ge=-1, le=1)


class AnswerPairs(TableModel):
    """One row per held-out answer and weaker answer to the same instruction."""

    instruction: str = pa.Field(str_matches=ID)
    good: str = pa.Field(str_matches=ID)
    weaker: str = pa.Field(str_matches=ID)


class Subsets(TableModel):
    """One row per sample of each subset of a proof, in the order in which they were taken."""

    arm: str = pa.Field(str_length={"min_value": 1})
    seed: pl.Int64 = pa.Field(ge=0)
    rank: pl.Int32 = pa.Field(ge=1)
    id: str = pa.Field(str_matches=ID)
    tokens: pl.Int32 = pa.Field(ge=1)

    @pa.dataframe_check
    @classmethod
    def a_subset_has_a_sample_once(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """No sample twice in the subset of one arm and seed."""
        return data.lazyframe.select(pl.struct("arm", "seed", "id").is_first_distinct())


class ArmLosses(TableModel):
    """One row per measured answer and training: its negative log-likelihood in nats, summed over its tokens."""

    arm: str = pa.Field(str_length={"min_value": 1})
    seed: pl.Int64 = pa.Field(ge=0)
    id: str = pa.Field(str_matches=ID)
    held_out: pl.Boolean
    loss: pl.Float64 = pa.Field(ge=0)
    tokens: pl.Int64 = pa.Field(ge=1)

    @pa.dataframe_check
    @classmethod
    def losses_are_finite(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Neither NaN nor infinite."""
        return data.lazyframe.select(pl.col("loss").is_finite())


class Compared(TableModel):
    """One row per figure of each selection compared, by strategy (`arm`) and seed; the pool is an arm as well."""

    arm: str = pa.Field(str_length={"min_value": 1})
    seed: pl.Int64 = pa.Field(ge=0)
    figure: str = pa.Field(str_length={"min_value": 1})
    value: pl.Float64 = pa.Field(nullable=True)


PAIRS = Table("pairs", ("chosen",), Pairs)
PAIR_FATES = Table("pair_fates", ("id",), PairFates)
OVERLAPS = Table("overlaps", ("id",), Overlaps)
ANSWER_PAIRS = Table("answer_pairs", ("good", "weaker"), AnswerPairs)
SUBSETS = Table("subsets", ("arm", "seed", "id"), Subsets)
COMPARED = Table("compared", ("arm", "seed", "figure"), Compared)
ARM_LOSSES = Table("arm_losses", ("arm", "seed", "id"), ArmLosses)
