"""Makes the subsets of a proof: rows near held-out ones are taken out, and each arm gets the same training tokens."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel

from deita_core.alignment.chat import UnusableRowError, load_chat_tokenizer, sequences
from deita_core.alignment.rows import TrainingRow
from deita_core.config.proof import DEITA
from deita_core.conversation import Conversation
from deita_core.errors import InputError
from deita_core.export.placing import place_file
from deita_core.export.tables import ANSWER_PAIRS, OVERLAPS, SUBSETS
from deita_core.selection import DiversitySelector
from deita_core.selection.nearest import nearest_of
from deita_core.selection.overlap import find_overlaps
from deita_core.selection.token_budget import FULL, take_tokens
from deita_core.selection.vectors import NOBODY, normalize, valid
from deita_core.stages.candidates import all_vectors, candidate_vectors
from deita_core.stages.choosing import find_threshold
from deita_core.stages.ingest import pool_ids
from deita_core.stages.pairs import instruction_of
from deita_core.stages.proof.job import BLOCK, OVERLAPS_FILE, PAIRS_FILE, SUBSETS_FILE, ProofJob, conversations
from deita_core.stages.ranking import rank_pool
from deita_core.store import Store
from deita_core.tables import SAMPLES, SOURCES

# Cosine similarity above which a row counts as nearly a held-out one, if the selection's threshold is auto.
NEAR = 0.9
Sized = list[tuple[str, int]]


class SubsetReport(BaseModel):
    """How the subsets were made.

    `tokens`: training tokens of each subset in one epoch; `rows`: rows of the selection; `overlaps`: rows of the pool
    and of other arms taken out, by reason; `unusable`: rows read that have no answer within the limit of tokens;
    `short`: tokens of an arm that has less than 99% of them, of the seed with the fewest.
    """

    tokens: int
    rows: int
    held_out: int
    pairs: int
    overlaps: dict[str, int]
    unusable: int
    short: dict[str, int]


def make_subsets(store: Store, job: ProofJob) -> SubsetReport:
    """Choose the rows of every arm and seed, and write them to the job's folder. Raises InputError for an empty arm."""
    overlaps = find_held_out(store, job)
    reader = TokenReader(store, job)
    orders = _Orders(store, job, overlaps["id"], reader)
    selected = reader.sized(orders.selected())
    budget = job.settings.token_budget
    chosen = _fill(selected, budget) if budget else list(selected)
    tokens = sum(size for _, size in chosen)
    frames, short = [], dict[str, int]()
    for seed in job.settings.all_seeds:
        for arm in job.settings.names:
            wanted = tokens * job.settings.training.epochs if arm == "full" else tokens
            rows = chosen if arm == DEITA or not tokens else _fill(reader.sized(orders.of(arm, seed)), wanted)
            if not rows:
                limit = job.settings.training.max_tokens
                raise InputError(f"The arm {arm} has no row with an answer within {limit} tokens; give other data.")
            if (found := sum(size for _, size in rows)) < FULL * wanted:
                short[arm] = min(found, short.get(arm, found))
            frames.append(_subset(arm, seed, rows))
    pairs = _answer_pairs(store, job)
    folder = job.folder(store)
    for name, table, frame in (
        (OVERLAPS_FILE, OVERLAPS, overlaps),
        (PAIRS_FILE, ANSWER_PAIRS, pairs),
        (SUBSETS_FILE, SUBSETS, pl.concat(frames)),
    ):
        place_file(folder / name, table.validate(frame).write_parquet)
    return SubsetReport(
        tokens=tokens,
        rows=len(chosen),
        held_out=len(pool_ids(store, job.heldout)),
        pairs=len(pairs),
        overlaps=dict(overlaps.group_by("reason").len().sort("reason").iter_rows()),
        unusable=len(reader.unusable),
        short=short,
    )


class TokenReader:
    """Reads conversations of the store as training sequences; `unusable` holds the ids of those without an answer."""

    def __init__(self, store: Store, job: ProofJob) -> None:
        self.tokenizer: Any = load_chat_tokenizer(job.settings.base_model, job.settings.chat_template)
        self.unusable = set[str]()
        self._store, self._max_tokens = store, job.settings.training.max_tokens
        self._places = store.row_ids(SAMPLES, "id")

    def rows(self, ids: pl.Series) -> Iterator[tuple[str, list[TrainingRow]]]:
        """The sequences of each usable conversation, in order, read block by block."""
        for id_, sample in conversations(self._store, ids, self._places):
            try:
                found = list(sequences(self.tokenizer, sample, self._max_tokens))
            except UnusableRowError:
                self.unusable.add(id_)
            else:
                yield id_, [TrainingRow(id_, tokens.ids, tokens.labels) for tokens, _ in found]

    def sized(self, blocks: Iterator[pl.Series]) -> Iterator[tuple[str, int]]:
        """The id and training tokens of each usable conversation, in order; a block is read when it is needed."""
        for ids in blocks:
            for id_, rows in self.rows(ids):
                yield id_, sum(len(row.ids) for row in rows)

    def answer_tokens(self, ids: pl.Series) -> pl.DataFrame:
        """The tokens of all answers of each conversation, without a limit: id, tokens."""
        sizes = []
        for _, sample in conversations(self._store, ids, self._places):
            answers = [message.text for message in sample.messages if message.role == "assistant"]
            sizes.append(sum(map(len, self.tokenizer(answers, add_special_tokens=False)["input_ids"])))
        return pl.DataFrame({"id": ids, "tokens": sizes}, schema={"id": pl.String, "tokens": pl.Int64})


class _Orders:
    """The order in which the rows of each arm are taken, in blocks of ids, without those taken out."""

    def __init__(self, store: Store, job: ProofJob, taken_out: pl.Series, reader: TokenReader) -> None:
        self._store, self._job, self._reader = store, job, reader
        self._taken_out = taken_out.implode()
        self._pool = self._left(pool_ids(store, job.selection.file_ids))
        self._longest: pl.Series | None = None

    def selected(self) -> Iterator[pl.Series]:
        """The rows that the greedy scan selects, best first, up to the budget of rows."""
        job = self._job.selection
        candidates = rank_pool(self._store, job).candidates
        candidates = candidates.filter(~candidates["id"].is_in(self._taken_out))
        threshold = find_threshold(self._store, job, candidates)
        selector = DiversitySelector(job.settings.budget, threshold, job.encoder.dim)
        for ids, vectors in candidate_vectors(self._store, job.encoder, candidates):
            yield selector.add_block(ids, vectors).filter("selected")["id"]
            if selector.full:
                return

    def of(self, arm: str, seed: int) -> Iterator[pl.Series]:
        """The rows of a rival or of a file."""
        if arm in self._job.arms:
            ids = self._left(_file_order(self._store, self._job.arms[arm]))
        elif arm == "longest":
            if self._longest is None:
                sized = self._reader.answer_tokens(self._pool)
                self._longest = sized.sort("tokens", "id", descending=[True, False])["id"]
            ids = self._longest
        else:
            shuffled = self._pool.to_list()
            random.Random(f"{arm} {seed}").shuffle(shuffled)  # noqa: S311
            ids = pl.Series(shuffled, dtype=pl.String)
        return (ids.slice(start, BLOCK) for start in range(0, len(ids), BLOCK))

    def _left(self, ids: pl.Series) -> pl.Series:
        return ids.filter(~ids.is_in(self._taken_out))


def find_held_out(store: Store, job: ProofJob) -> pl.DataFrame:
    """The rows of all arms that stand in the held-out file, or nearly: id, reason, held_out, similarity.

    `shared_words`: 13 consecutive words of what is said are the same; `similar`: the cosine of the vectors is above
    the selection's threshold. `similarity` is that of the most similar held-out row.
    """
    places = store.row_ids(SAMPLES, "id")
    held, ids = pool_ids(store, job.heldout), pool_ids(store, job.trained_files)
    held_texts = [_said(sample) for _, sample in conversations(store, held, places)]
    shared = find_overlaps((_said(sample) for _, sample in conversations(store, ids, places)), held_texts)
    similarity, nearest = _most_similar(store, job, ids, held)
    threshold = job.selection.settings.threshold
    frame = pl.DataFrame(
        {"id": ids, "shared": shared, "nearest": nearest, "similarity": similarity},
        schema={"id": pl.String, "shared": pl.Int64, "nearest": pl.Int64, "similarity": pl.Float64},
    )
    is_shared, near = (
        pl.col("shared").is_not_null(),
        pl.col("similarity") > (NEAR if threshold == "auto" else threshold),
    )
    found = frame.filter(is_shared | near).with_columns(
        reason=pl.when(is_shared).then(pl.lit("shared_words")).otherwise(pl.lit("similar")),
        place=pl.coalesce("shared", "nearest"),
    )
    return found.select("id", "reason", held_out=held.gather(found["place"]), similarity="similarity")


def _most_similar(store: Store, job: ProofJob, ids: pl.Series, held: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Of each row the cosine (n,) to the most similar held-out row, and its position; -1 for an invalid vector."""
    encoder = job.selection.encoder
    others = normalize(all_vectors(store, encoder, held.to_frame("id")))
    known = np.flatnonzero(valid(others))
    similarity, nearest = [np.zeros(0)], [np.zeros(0, np.int64)]
    for _, vectors in candidate_vectors(store, encoder, ids.to_frame("id")):
        place, cosine = nearest_of(normalize(vectors), others.take(known))
        nearest.append(np.append(known, NOBODY)[place])
        similarity.append(np.maximum(cosine, -1))
    return np.concatenate(similarity), np.concatenate(nearest)


def _said(sample: Conversation) -> str:
    """What the user and the assistant say; system messages are shared by many rows."""
    return "\n".join(message.text for message in sample.messages if message.role in ("user", "assistant"))


def _file_order(store: Store, files: tuple[str, ...]) -> pl.Series:
    """The samples of some files, in the order of files and lines."""
    position = pl.DataFrame({"file_id": files}, schema={"file_id": pl.String}).with_row_index("nth")
    sources = store.fetch(SOURCES, "file_id", files, ["sample_id", "file_id", "line", "side"]).join(
        position, on="file_id"
    )
    return sources.sort("nth", "line", "side")["sample_id"].unique(maintain_order=True)


def _answer_pairs(store: Store, job: ProofJob) -> pl.DataFrame:
    """Every pair of a held-out answer and a weaker one to the same instruction: instruction, good, weaker."""

    def answers(files: tuple[str, ...], name: str) -> pl.DataFrame:
        found = conversations(store, pool_ids(store, files))
        rows = [(instruction_of(sample).id, id_) for id_, sample in found]
        return pl.DataFrame(rows, schema={"instruction": pl.String, name: pl.String}, orient="row")

    pairs = answers(job.heldout, "good").join(
        answers(job.weaker, "weaker"), on="instruction", maintain_order="left_right"
    )
    if job.weaker and pairs.is_empty():
        raise InputError(
            f"No row of {job.settings.weaker} answers an instruction of {job.settings.heldout}; all that comes "
            f"before the last answer has to be the same."
        )
    return pairs.filter(pl.col("good") != pl.col("weaker"))


def _fill(rows: Iterator[tuple[str, int]], budget: int) -> Sized:
    """The rows that fill a number of tokens, in order; reads no more than are needed."""
    seen: Sized = []

    def sizes() -> Iterator[int]:
        for row in rows:
            seen.append(row)
            yield row[1]

    return [seen[position] for position in take_tokens(sizes(), budget)]


def _subset(arm: str, seed: int, rows: Sized) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema={"id": pl.String, "tokens": pl.Int32}, orient="row")
    return frame.select(
        arm=pl.lit(arm),
        seed=pl.lit(seed, pl.Int64),
        rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32),
        id="id",
        tokens="tokens",
    )
