"""The Pandera models of the tables of the store. Imports only `literals` of this project."""

from dataclasses import dataclass
from functools import partial
from typing import get_args

import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaErrors

from deita_core.literals import LANGUAGES, LAYOUTS, LEFT_OUT, Fate, RemovalStatus, Side, Status, Storage

# `extra`: what else a trainer sees of a message, as JSON.
MESSAGE = pl.Struct({"role": pl.String, "content": pl.String, "extra": pl.String})
# A message without its text, for stages that need only ids. `full_id` and `full_chars`: of the text with the reasoning
# before it, null if there is none.
MESSAGE_INDEX_TYPE = pl.Struct(
    {
        "role": pl.String,
        "text_id": pl.String,
        "n_chars": pl.Int32,
        "blank": pl.Boolean,
        "trained": pl.Boolean,
        "full_id": pl.String,
        "full_chars": pl.Int32,
    }
)
ID = r"^[0-9a-f]{32}$"
KEY = r"^[0-9a-f]{32}:\d+(:rejected)?$"


class TableModel(pa.DataFrameModel):
    """The base of all tables: exactly the columns given."""

    class Config:
        """Unknown columns are an error."""

        strict = True
        ordered = True


class Samples(TableModel):
    """One row per distinct conversation."""

    id: str = pa.Field(str_matches=ID, unique=True)
    messages: pl.List = pa.Field(dtype_kwargs={"inner": MESSAGE})
    message_index: pl.List = pa.Field(dtype_kwargs={"inner": MESSAGE_INDEX_TYPE})
    extra: str = pa.Field(str_startswith="{", nullable=True)
    multimodal: pl.Boolean
    n_turns: pl.Int32 = pa.Field(ge=1)
    n_chars: pl.Int64 = pa.Field(ge=1)


class Sources(TableModel):
    """One row per input row that became a sample; exact duplicates share a sample id."""

    key: str = pa.Field(str_matches=KEY, unique=True)
    file_id: str = pa.Field(str_matches=ID)
    file: str = pa.Field(str_length={"min_value": 1})
    line: pl.Int64 = pa.Field(ge=1)
    sample_id: str = pa.Field(str_matches=ID)
    layout: str = pa.Field(isin=LAYOUTS)
    side: str = pa.Field(isin=get_args(Side), nullable=True)
    fields: str = pa.Field(str_startswith="{")


class Rejects(TableModel):
    """One row per input row that could not become a sample, with the reason."""

    key: str = pa.Field(str_matches=KEY, unique=True)
    file_id: str = pa.Field(str_matches=ID)
    file: str = pa.Field(str_length={"min_value": 1})
    line: pl.Int64 = pa.Field(ge=1)
    reason: str = pa.Field(str_matches=r"^[a-z_]+$")
    detail: str = pa.Field(str_length={"min_value": 1, "max_value": 500})


class Scores(TableModel):
    """One row per turn; an unreadable score is null, with the status unreadable."""

    id: str = pa.Field(str_matches=ID)
    turn: pl.Int32 = pa.Field(ge=0)
    score: pl.Float64 = pa.Field(ge=1, le=6, nullable=True)
    status: str = pa.Field(isin=get_args(Status))

    @pa.dataframe_check
    @classmethod
    def null_exactly_where_unreadable(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """A score is null exactly if its status is unreadable, and never NaN."""
        return data.lazyframe.select(_null_exactly_where_unreadable("score"))


class RawScores(TableModel):
    """One row per turn, of a scorer with a scale of its own; an unreadable value is null, its status unreadable."""

    id: str = pa.Field(str_matches=ID)
    turn: pl.Int32 = pa.Field(ge=0)
    raw: pl.Float64 = pa.Field(nullable=True)
    status: str = pa.Field(isin=get_args(Status))

    @pa.dataframe_check
    @classmethod
    def null_exactly_where_unreadable(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """A value is null exactly if its status is unreadable, and always finite."""
        return data.lazyframe.select(_null_exactly_where_unreadable("raw"))


class JudgedScores(Scores):
    """As `Scores`, of a judge: how many `votes` could be read, and the `spread` of their scores; null below two."""

    spread: pl.Float64 = pa.Field(ge=0, le=5, nullable=True)
    votes: pl.Int32 = pa.Field(ge=0)

    @pa.dataframe_check
    @classmethod
    def a_spread_takes_two_votes(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """A spread is null exactly for fewer than two votes, and a score has at least one."""
        spread, votes = pl.col("spread"), pl.col("votes")
        scored = pl.col("score").is_null() | (votes > 0)
        return data.lazyframe.select((spread.is_not_null() == (votes > 1)) & scored)


class TokenCounts(TableModel):
    """One row per sample: tokens of the whole conversation, and of its answers."""

    id: str = pa.Field(str_matches=ID, unique=True)
    tokens: pl.Int32 = pa.Field(ge=1)
    answer_tokens: pl.Int32 = pa.Field(ge=0)


class Languages(TableModel):
    """One row per sample: the language in which most is said, null if none is known."""

    id: str = pa.Field(str_matches=ID, unique=True)
    language: str = pa.Field(isin=LANGUAGES, nullable=True)


class BenchmarkOverlaps(TableModel):
    """One row per sample that was compared with benchmarks: the longest run of words that it shares with a question.

    `benchmark`: which of the files. `message`: the number of the message of those that are not blank, `start` the word
    of it with which the run begins, both from 0; `quote`: its first words. All null where there is none.
    """

    id: str = pa.Field(str_matches=ID, unique=True)
    benchmark: pl.Int32 = pa.Field(ge=0, nullable=True)
    line: pl.Int64 = pa.Field(ge=1, nullable=True)
    message: pl.Int32 = pa.Field(ge=0, nullable=True)
    start: pl.Int32 = pa.Field(ge=0, nullable=True)
    words: pl.Int32 = pa.Field(ge=1, nullable=True)
    quote: str = pa.Field(str_length={"min_value": 1, "max_value": 80}, nullable=True)

    @pa.dataframe_check
    @classmethod
    def all_of_a_run_is_there(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Either everything is said of a run, or nothing."""
        null = [pl.col(name).is_null() for name in ("benchmark", "line", "message", "start", "words", "quote")]
        return data.lazyframe.select(pl.all_horizontal(null) == pl.any_horizontal(null))


class BenchmarkSimilarities(TableModel):
    """One row per sample that was compared with benchmarks: the question with the highest cosine; null for none."""

    id: str = pa.Field(str_matches=ID, unique=True)
    benchmark: pl.Int32 = pa.Field(ge=0, nullable=True)
    line: pl.Int64 = pa.Field(ge=1, nullable=True)
    similarity: pl.Float64 = pa.Field(ge=-1, le=1, nullable=True)


class AnswerLosses(TableModel):
    """One row per sample: the negative log-likelihood of its answers in nats, summed over their tokens, as cut.

    Where they cannot be read, the loss is null, the tokens are 0, and there is a reason.
    """

    id: str = pa.Field(str_matches=ID)
    loss: pl.Float64 = pa.Field(ge=0, nullable=True)
    tokens: pl.Int32 = pa.Field(ge=0)
    reason: str = pa.Field(str_length={"min_value": 1}, nullable=True)

    @pa.dataframe_check
    @classmethod
    def null_exactly_where_there_is_a_reason(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """A loss is finite and of at least one token, or null with a reason."""
        read = pl.col("loss").is_finite().fill_null(False) & (pl.col("tokens") > 0)
        unread = pl.col("loss").is_null() & (pl.col("tokens") == 0)
        return data.lazyframe.select(pl.when(pl.col("reason").is_null()).then(read).otherwise(unread))


class ShownLosses(AnswerLosses):
    """As `AnswerLosses`, of the answers of a `probe` after another sample as a demonstration; `id` is of the pair."""

    id: str = pa.Field(str_matches=r"^[0-9a-f]{32}:[0-9a-f]{32}$")
    shown: str = pa.Field(str_matches=ID)
    probe: str = pa.Field(str_matches=ID)


class Chains(TableModel):
    """One row per attempt at a round of evolution; step 0 is the seed. A chain ends at a failed or the last round."""

    chain: str = pa.Field(str_matches=ID)
    axis: str = pa.Field(isin=("complexity", "quality"))
    seed_id: str = pa.Field(str_matches=ID)
    step: pl.Int32 = pa.Field(ge=0)
    attempt: pl.Int32 = pa.Field(ge=0)
    operation: str = pa.Field(str_matches=r"^[a-z_]+$")
    text: str = pa.Field(nullable=True)
    status: str = pa.Field(isin=("ok", "failed"))
    reason: str = pa.Field(str_matches=r"^[a-z_]+$", nullable=True)
    detail: str = pa.Field(str_length={"max_value": 300})

    @pa.dataframe_check
    @classmethod
    def good_has_text_and_failed_a_reason(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """A successful round has a text and no reason; a failed one has a reason."""
        good, has_reason = pl.col("status") == "ok", pl.col("reason").is_not_null()
        written = pl.col("text").str.strip_chars().str.len_chars().fill_null(0) > 0
        return data.lazyframe.select((good & written & ~has_reason) | (~good & has_reason))

    @pa.dataframe_check
    @classmethod
    def no_step_is_left_out(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """The successful steps of a chain are 0, 1, 2 and so on, each once."""
        good = pl.col("status") == "ok"
        steps = pl.col("step").filter(good).sort()
        return (
            data.lazyframe.group_by("chain")
            .agg((steps.diff().fill_null(1) == 1).all() & (steps.min() == 0))
            .select(pl.last())
        )


class Rankings(TableModel):
    """One row per variant shown to a judge; scores of an unreadable reply are null."""

    ranking: str = pa.Field(str_matches=ID)
    step: pl.Int32 = pa.Field(ge=0)
    chain: str = pa.Field(str_matches=ID)
    judge: str = pa.Field(str_matches=ID)
    repeat: pl.Int32 = pa.Field(isin=(0, 1))
    shown: pl.Int32 = pa.Field(ge=1)
    score: pl.Int32 = pa.Field(ge=1, le=6, nullable=True)
    status: str = pa.Field(isin=("ok", "unreadable"))
    reason: str = pa.Field(str_matches=r"^[a-z_]+$", nullable=True)
    detail: str = pa.Field(str_length={"max_value": 300})

    @pa.dataframe_check
    @classmethod
    def null_exactly_where_unreadable(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """A read reply has a score and no reason; an unreadable one has a reason and no score."""
        read, scored = pl.col("status") == "ok", pl.col("score").is_not_null()
        has_reason = pl.col("reason").is_not_null()
        return data.lazyframe.select((read & scored & ~has_reason) | (~read & ~scored & has_reason))


class Plans(TableModel):
    """Unfinished shards with their texts or samples, so that a resumed run has the same shards."""

    key: str = pa.Field(str_length={"min_value": 1}, unique=True)
    plan: str = pa.Field(str_length={"min_value": 1})
    shard: pl.Int32 = pa.Field(ge=0)
    ids: pl.List = pa.Field(dtype_kwargs={"inner": pl.String})
    owners: pl.List = pa.Field(dtype_kwargs={"inner": pl.String})


class Decisions(TableModel):
    """One row per distinct sample of a selection's pool: its fate, written once when decided."""

    run_id: str = pa.Field(str_length={"min_value": 1})
    id: str = pa.Field(str_matches=ID)
    fate: str = pa.Field(isin=get_args(Fate))
    reason: str = pa.Field(str_length={"min_value": 1}, nullable=True)
    rank: pl.Int64 = pa.Field(ge=1, nullable=True)
    score: pl.Float64 = pa.Field(nullable=True)
    complexity: pl.Float64 = pa.Field(nullable=True)
    quality: pl.Float64 = pa.Field(nullable=True)
    n_scored: pl.Int32 = pa.Field(ge=1, nullable=True)
    duplicate_of: str = pa.Field(str_matches=ID, nullable=True)
    similarity: pl.Float64 = pa.Field(ge=-1, le=1, nullable=True)

    @pa.dataframe_check
    @classmethod
    def every_fate_has_what_belongs_to_it(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """All but selected rows have a reason, only near-duplicates a duplicate_of, all but those left out a rank."""
        fate = pl.col("fate")
        return data.lazyframe.select(
            (pl.col("reason").is_null() == (fate == "selected"))
            & (pl.col("duplicate_of").is_not_null() == (fate == "near_duplicate"))
            & (pl.col("rank").is_null() == fate.is_in(LEFT_OUT))
        )


class Snapshots(TableModel):
    """One row per finished selection, written last; it makes the selection visible."""

    number: pl.Int32 = pa.Field(ge=1, unique=True)
    run_id: str = pa.Field(str_length={"min_value": 1}, unique=True)
    finished: str = pa.Field(str_length={"min_value": 1})
    folder: str = pa.Field(str_length={"min_value": 1})
    report: str = pa.Field(str_startswith="{")


class Removals(TableModel):
    """Two rows per permanently removed conversation, by status; it is rejected wherever it is read again."""

    id: str = pa.Field(str_matches=ID)
    status: str = pa.Field(isin=get_args(RemovalStatus))
    removed: str = pa.Field(str_length={"min_value": 1})
    reason: str = pa.Field(str_length={"max_value": 300})


@dataclass(frozen=True)
class Table:
    """A table of the store: its name, key columns, and schema."""

    name: str
    key: tuple[str, ...]
    model: type[pa.DataFrameModel] | pa.DataFrameSchema

    def empty(self) -> pl.DataFrame:
        """An empty frame with the table's columns and types."""
        schema = self.model if isinstance(self.model, pa.DataFrameSchema) else self.model.to_schema()
        return pl.DataFrame(schema={name: column.dtype.type for name, column in schema.columns.items()})

    def validate(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame, unchanged, if it is valid. Raises InvalidTableError with the first failures."""
        try:
            return self.model.validate(frame, lazy=True)
        except SchemaErrors as error:
            raise InvalidTableError(self.name, error) from None


class InvalidTableError(ValueError):
    """A frame is invalid for its table: a defect of the program that made it, not of the input."""

    def __init__(self, table: str, error: SchemaErrors) -> None:
        failures = error.failure_cases.select(pl.col("column", "check", "index").cast(pl.String)).unique().head(5)
        listed = "; ".join(f"{c or 'table'}: {str(k)[:80]} (row {i or '-'})" for c, k, i in failures.iter_rows())
        super().__init__(f"table {table} refused {len(error.failure_cases)} values: {listed}")


SAMPLES = Table("samples", ("id",), Samples)
SOURCES = Table("sources", ("key",), Sources)
REJECTS = Table("rejects", ("key",), Rejects)
PLANS = Table("plans", ("key",), Plans)
DECISIONS = Table("decisions", ("run_id", "id"), Decisions)
SNAPSHOTS = Table("snapshots", ("number",), Snapshots)
REMOVALS = Table("removals", ("id", "status"), Removals)
CHAINS = Table("chains", ("chain", "step", "attempt"), Chains)
RANKINGS = Table("rankings", ("ranking", "step"), Rankings)


def token_counts_table(tokenizer: str) -> Table:
    """The table of one tokenizer's counts; `tokenizer` is the beginning of its fingerprint."""
    return Table(f"tokens__{tokenizer}", ("id",), TokenCounts)


def overlaps_table(benchmarks: str) -> Table:
    """The table of the words that samples share with benchmarks; `benchmarks` is an id of their contents."""
    return Table(f"overlaps__{benchmarks}", ("id",), BenchmarkOverlaps)


def similarities_table(compared: str) -> Table:
    """The table of the cosines of samples and benchmarks; `compared` is an encoder's slug and an id of the contents."""
    return Table(f"similarities__{compared}", ("id",), BenchmarkSimilarities)


def scores_table(scorer: str) -> Table:
    """The table of one scorer's scores; `scorer` is its slug, which includes its fingerprint.

    A slug that begins with "raw-" is of a scorer whose values have a scale of their own, with "judged-" of a judge.
    """
    model = {"raw": RawScores, "judged": JudgedScores}.get(scorer.partition("-")[0], Scores)
    return Table(f"scores__{scorer}", ("id", "turn"), model)


def languages_table(detector: str) -> Table:
    """The table of the languages that a detector found; `detector` is its name, with its version and its settings."""
    return Table(f"languages__{detector}", ("id",), Languages)


def losses_table(given: str) -> Table:
    """The table of losses of answers under a language model.

    `given`: what the answers are given, and the model's slug: "asked-" for their instructions, "alone-" for nothing,
    "shown-" for a demonstration and their instructions.
    """
    return Table(f"losses__{given}", ("id",), ShownLosses if given.startswith("shown-") else AnswerLosses)


def vectors_table(encoder: str, dim: int, storage: Storage = "float32", zeros: bool = False) -> Table:
    """The table of one encoder's vectors: one row per distinct text, each normalized.

    A language model's table has one row per conversation, with the sample id as `text_id`. `zeros`: a text may have no
    token that the encoder knows, and then the zero vector.
    """
    unit = pa.Check(partial(_is_unit, zeros=zeros), error="not a finite vector of length 1")
    columns = {
        "text_id": pa.Column(str, pa.Check.str_matches(ID), unique=True),
        "n_tokens": pa.Column(pl.Int32, pa.Check.ge(0 if zeros else 1)),
        "vector": pa.Column(pl.Array(pl.Float16 if storage == "float16" else pl.Float32, dim), unit),
    }
    return Table(f"vectors__{encoder}", ("text_id",), pa.DataFrameSchema(columns, strict=True, ordered=True))


def _null_exactly_where_unreadable(value: str) -> pl.Expr:
    unread = pl.col("status") == "unreadable"
    finite = pl.col(value).is_finite().fill_null(False)
    return (unread & pl.col(value).is_null()) | (~unread & finite)


def _is_unit(data: pa.PolarsData, zeros: bool) -> pl.LazyFrame:
    column = data.lazyframe.select(data.key).collect().to_series().to_numpy()
    norms = (column.astype("f8") ** 2).sum(axis=1) ** 0.5
    # Comparisons with NaN are false, so a non-finite vector fails too.
    return pl.LazyFrame({data.key: (abs(norms - 1) < 1e-3) | (zeros & (norms == 0))})
