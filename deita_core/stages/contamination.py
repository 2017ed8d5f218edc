"""Finds the samples that hold a question of a benchmark: by the words in common, and by the cosine of vectors."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

from deita_core.conversation import content_id, conversation, text_id
from deita_core.errors import InputError
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.models.lm_encoder import LanguageModelEncoder, render
from deita_core.reading.benchmarks import benchmark_files, read_benchmark
from deita_core.reading.pool import content_hash
from deita_core.selection.nearest import nearest_of
from deita_core.selection.overlap import SHORTEST, WORDS, RunIndex, normalized_words, runs_of, telling_runs
from deita_core.selection.vectors import Vectors, normalize, valid
from deita_core.selection.words import text_blocks
from deita_core.stages.encoding import Encoder, encoder_table, vector_frame
from deita_core.stages.ingest import pool_ids
from deita_core.stages.turns import NEEDED, as_read, indexed_messages, read_messages
from deita_core.store import Store
from deita_core.tables import SAMPLES, Table, overlaps_table, similarities_table

# Increased whenever the same files would give other overlaps.
VERSION = 1
# Samples whose texts or vectors are compared, and questions that are encoded, before they are written.
BLOCK = 8_192
ENCODED = 256
# Of the rows of a file: what more of them have in common is no question. At least so many rows.
COMMON, FEW = 0.01, 10
LEAKS = pl.Schema(
    {
        "id": pl.String,
        "contaminated_by": pl.String,
        "shared_words": pl.Int32,
        "shared_span": pl.String,
        "shared_quote": pl.String,
        "benchmark_similarity": pl.Float64,
    }
)


class Benchmark(BaseModel):
    """A file of questions that a selection must not hold, and the hash of its content."""

    model_config = ConfigDict(frozen=True)

    file: str
    content: str


class Excluded(BaseModel):
    """Benchmarks, and the least cosine of a question's vector that counts; none: only words count."""

    model_config = ConfigDict(frozen=True)

    benchmarks: tuple[Benchmark, ...]
    similarity: float | None = None

    @property
    def key(self) -> str:
        """An id of the contents, in their order."""
        return content_id(repr((VERSION, [each.content for each in self.benchmarks])).encode())[:16]

    @property
    def overlaps(self) -> Table:
        """The table of the samples and the words that they share with a question."""
        return overlaps_table(self.key)

    def similarities(self, encoder: EncoderFiles) -> Table:
        """The table of the samples and the question that each is most like."""
        return similarities_table(f"{encoder.slug}-{self.key}")

    def questions(self) -> pl.DataFrame:
        """The texts that are looked for: benchmark (position), line, text.

        Raises InputError for a file that has changed or has no such text.
        """
        found = list[tuple[int, int, str]]()
        for position, (file, content) in enumerate((each.file, each.content) for each in self.benchmarks):
            texts = [(position, row.line, text) for row in read_benchmark(file) for text in _telling(row.texts)]
            if content_hash(file) != content:
                raise InputError(f"{file} has changed meanwhile; run again once nothing writes to it.")
            if not texts:
                raise InputError(f"{file} has only turns of few words, which stand anywhere; leave it out of exclude.")
            found += texts
        return pl.DataFrame(found, {"benchmark": pl.Int32, "line": pl.Int64, "text": pl.String}, orient="row")


def _telling(texts: Sequence[str]) -> Sequence[str]:
    """The texts of a row that are looked for: of several turns only longer ones, because "Go on" stands anywhere."""
    if len(texts) == 1:
        return texts
    counts = [len(normalized_words(text)) for text in texts]
    return [text for place, text in enumerate(texts) if counts[place] >= (WORDS if place else SHORTEST)]


def find_excluded(names: Sequence[str], similarity: float | None) -> Excluded | None:
    """The benchmarks that settings name, None without any. Raises InputError for a file that cannot be read."""
    if not names:
        return None
    files = benchmark_files(names)
    excluded = Excluded(benchmarks=tuple(Benchmark(file=file, content=content_hash(file)) for file in files))
    excluded.questions()
    return excluded.model_copy(update={"similarity": similarity})


def find_overlaps_of(store: Store, excluded: Excluded, file_ids: Sequence[str]) -> int:
    """Look for the questions' words in the samples where this was not done before; returns the number of samples."""
    ids = store.missing(excluded.overlaps, pool_ids(store, file_ids))
    if ids.is_empty():
        return 0
    questions = excluded.questions()
    index, places = RunIndex(_runs(questions)), store.row_ids(SAMPLES, "id")
    for block in ids.to_frame("id").iter_slices(BLOCK):
        samples = store.fetch(SAMPLES, "id", block["id"], NEEDED, places)
        found = _overlapping(index, read_messages(samples, "score"))
        named = found.select(
            samples["id"].gather(found["owner"]),
            questions["benchmark"].gather(found["row"]),
            questions["line"].gather(found["row"]),
            *("message", "start", "words", "quote"),
        )
        rows = samples.select("id").join(named, on="id", how="left")
        store.write(excluded.overlaps, rows.cast(excluded.overlaps.empty().schema))
    return len(ids)


def _runs(questions: pl.DataFrame) -> pl.DataFrame:
    """The runs of all questions, each with the number of its row of the frame; without what a file's rows share."""
    frames = []
    for [_], rows in questions.with_row_index("row").group_by("benchmark", maintain_order=True):
        runs = runs_of(rows["text"].to_list(), rows["row"].to_list())
        frames.append(telling_runs(runs, max(FEW, int(COMMON * len(rows)))))
    return pl.concat(frames)


def _overlapping(index: RunIndex, messages: pl.DataFrame) -> pl.DataFrame:
    """Of each sample the longest run of words: owner, message (from 0, of those that are not blank), and as `find`."""
    texts, frames = messages["text"].to_list(), []
    before = 0
    for block in text_blocks(texts):
        frames.append(index.find(block).with_columns(pl.col("text") + before))
        before += len(block)
    found = pl.concat(frames)
    numbers = messages.select("owner", message=pl.int_range(pl.len()).over("owner"))[found["text"]]
    found = pl.concat([found, numbers], how="horizontal")
    return found.sort("owner", -pl.col("words"), "message").unique("owner", keep="first", maintain_order=True)


def find_similarities(
    store: Store, excluded: Excluded, encoder: EncoderFiles, load: Callable[[], Encoder], file_ids: Sequence[str]
) -> int:
    """Compare the vectors of samples with those of the questions where this was not done; returns how many samples.

    Of a sample, the vector of each message of the user is compared; with a language model, that of the conversation.
    """
    table = excluded.similarities(encoder)
    ids = store.missing(table, pool_ids(store, file_ids))
    if ids.is_empty():
        return 0
    questions = excluded.questions().unique("text", keep="first", maintain_order=True)
    asked = normalize(_question_vectors(store, encoder, load, questions["text"].to_list()))
    known = np.flatnonzero(valid(asked))
    rows, places = store.row_ids(encoder_table(encoder), "text_id"), store.row_ids(SAMPLES, "id")
    for block in ids.to_frame("id").iter_slices(BLOCK):
        said = _said(store, encoder, block, places)
        vectors = normalize(store.vectors(encoder_table(encoder), said["text_id"].unique(maintain_order=True), rows))
        found = _nearest(said, vectors, asked.take(known))
        nearest = known[found["place"].to_numpy()]
        named = found.select(
            "id", questions["benchmark"].gather(nearest), questions["line"].gather(nearest), "similarity"
        )
        filled = block.join(named, on="id", how="left")
        store.write(table, filled.cast(table.empty().schema))
    return len(ids)


def _question_vectors(
    store: Store, encoder: EncoderFiles, load: Callable[[], Encoder], texts: Sequence[str]
) -> np.ndarray:
    """Vectors (n, d) of the questions. Those that the store lacks are encoded and kept there."""
    table, causal = encoder_table(encoder), encoder.kind == "causal"
    ids = [conversation([("user", text)]).id if causal else text_id(text) for text in texts]
    given = dict(zip(ids, texts, strict=True))
    missing = store.missing(table, pl.Series(ids, dtype=pl.String))
    for block in missing.to_frame("id").iter_slices(ENCODED):
        model, asked = load(), [given[id_] for id_ in block["id"]]
        if isinstance(model, LanguageModelEncoder):
            asked = [render(conversation([("user", text)]), model.tokenizer) for text in asked]
        encoded = model.encode(asked)
        store.write(table, vector_frame(table, block["id"], encoded.n_tokens, encoded.vectors))
    return store.vectors(table, ids)


def _said(store: Store, encoder: EncoderFiles, block: pl.DataFrame, places: pl.DataFrame) -> pl.DataFrame:
    """What of the samples is compared: id, text_id, the key of a vector."""
    if encoder.kind == "causal":
        return block.select("id", text_id="id")
    samples = store.fetch(SAMPLES, "id", block["id"], ["id", "message_index"], places)
    messages = indexed_messages(as_read(samples, encoder.reasoning)).filter(pl.col("role") == "user")
    return messages.select(samples["id"].gather(messages["owner"]), "text_id")


def _nearest(said: pl.DataFrame, vectors: Vectors, asked: Vectors) -> pl.DataFrame:
    """The most similar question of each sample: id, place, similarity; none for a sample without a valid vector."""
    place, similarity = nearest_of(vectors, asked)
    texts = said["text_id"].unique(maintain_order=True)
    found = pl.DataFrame({"text_id": texts, "place": place, "similarity": similarity}).filter(pl.col("place") >= 0)
    found = said.join(found, on="text_id").sort("id", -pl.col("similarity"), "place")
    return found.unique("id", keep="first", maintain_order=True)


def leaks(store: Store, excluded: Excluded, encoder: EncoderFiles) -> pl.DataFrame:
    """The contaminated samples of the store: id, contaminated_by (file:line), shared_words, shared_quote (its first).

    `shared_span`: where the words stand, counted from 1; blank messages do not count. `benchmark_similarity`: the
    cosine to the nearest question, if the settings ask for it and it is high enough. If the words are in another
    question, that one is named.
    """
    columns = ["id", "benchmark", "line"]
    found = store.read(excluded.overlaps, [*columns, "message", "start", "words", "quote"], "line IS NOT NULL")
    first = pl.col("start") + 1
    span = pl.format("message {}, words {} to {}", pl.col("message") + 1, first, pl.col("start") + pl.col("words"))
    found = found.select(*columns, shared_words="words", shared_span=span, shared_quote="quote")
    near = pl.DataFrame(schema={**found.select(columns).schema, "similarity": pl.Float64})
    if excluded.similarity is not None:
        table, least = excluded.similarities(encoder), f"similarity >= {excluded.similarity}"
        near = store.read(table, near.columns, least)
    found = found.join(near.rename({"similarity": "benchmark_similarity"}), on="id", how="full", coalesce=True)
    found = found.with_columns(pl.coalesce(name, f"{name}_right") for name in ("benchmark", "line"))
    files = [Path(each.file).name for each in excluded.benchmarks]
    named = found["benchmark"].replace_strict(range(len(files)), files, return_dtype=pl.String)
    return found.with_columns(contaminated_by=pl.format("{}:{}", named, "line")).select(list(LEAKS)).cast(LEAKS)


def contaminated(store: Store, excluded: Excluded | None, encoder: EncoderFiles, ids: pl.Series) -> pl.DataFrame:
    """Those of the samples that hold a question of a benchmark: id, fate, reason."""
    if excluded is None:
        return pl.DataFrame(schema={"id": pl.String, "fate": pl.String, "reason": pl.String})
    found = ids.rename("id").to_frame().join(leaks(store, excluded, encoder), on="id", maintain_order="left")
    # Without the words: decisions outlive the removal of a conversation.
    words = pl.format("it shares {} words in a row with {}", "shared_words", "contaminated_by")
    cosine = pl.col("benchmark_similarity").round(4)
    near = pl.format("a question of its user is near {} (cosine {})", "contaminated_by", cosine)
    return found.select("id", fate=pl.lit("contaminated"), reason=pl.coalesce(words, near))
