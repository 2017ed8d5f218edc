"""Preference pairs of a pool: its answers by instruction, their quality scores and vectors, and the pairs as a file."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel

from deita_core.conversation import Conversation, stored_conversation, text_id
from deita_core.errors import InputError, StoreError
from deita_core.export.layouts import in_layout
from deita_core.export.placing import check_folder, place_file
from deita_core.export.tables import PAIR_FATES, PAIRS
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.scorers import ScorerFiles
from deita_core.selection.pairs import PairRules, make_pairs
from deita_core.stages.encoding import encoder_table, mean_vectors
from deita_core.stages.ingest import pool_ids
from deita_core.stages.turn_scores import turn_scores
from deita_core.stages.turns import as_read
from deita_core.store import Store
from deita_core.tables import REJECTS, SAMPLES, SOURCES

# Samples whose texts or vectors are read at a time.
BLOCK = 8_192
ANSWERS: dict[str, Any] = {
    "id": pl.String,
    "instruction": pl.String,
    "text": pl.String,
    "first": pl.Int32,
    "count": pl.Int32,
    "trained": pl.Boolean,
    "turn": pl.Int32,
}
# A message of a table of pairs.
MESSAGE = {"role": pl.String, "content": pl.String}
FACTS = ["chosen", "rejected", "chosen_score", "rejected_score", "margin", "similarity"]


class PairReport(BaseModel):
    """Counts of a run: pairs, rows read, and rows by fate, which add up to those read.

    Besides the fates of answers there are `merged` (exact duplicates of another row) and `rejected` (not readable).
    """

    pairs: int
    read: int
    fates: dict[str, int]


def check_pairs_files(out: Path, decisions: Path | None) -> None:
    """Raise InputError unless the pairs can be written to `out`, and the decisions, if wanted, to theirs."""
    if out.suffix not in (".jsonl", ".parquet"):
        raise InputError(f"{out} does not say what to write; end its name in .jsonl or .parquet.")
    if decisions is not None and decisions.suffix != ".parquet":
        raise InputError(f"The decisions {decisions} are a table; end its name in .parquet.")
    if decisions == out:
        raise InputError(f"Pairs and decisions cannot both be written to {out}; name another file.")
    for file in filter(None, (out, decisions)):
        check_folder(file.parent, [file.name])


def last_answer(sample: Conversation) -> range:
    """Positions of the last answer: the last nonblank message of the assistant and its messages right before that.

    The messages before these are the instruction; those after them answer nothing and are no part of a pair.
    """
    roles = [message.role for message in sample.messages]
    end = 1 + max(i for i, m in enumerate(sample.messages) if m.role == "assistant" and not m.is_blank)
    start = end - 1
    while start and roles[start - 1] == "assistant":
        start -= 1
    return range(start, end)


def instruction_of(sample: Conversation) -> Conversation:
    """All that a trainer sees before the last answer: the messages, and what the row has beside them, such as tools."""
    return Conversation(sample.messages[: last_answer(sample).start], sample.extra)


def pool_answers(store: Store, ids: pl.Series) -> pl.DataFrame:
    """The last answer of each sample: the columns of ANSWERS, ordered by instruction, then id.

    `instruction`: id of the conversation before it. `text`: id of its text with all white space as single spaces.
    `first` and `count`: its messages. `trained`: no flag excludes any of it from the loss. `turn`: that of its score.
    """
    frames = [pl.DataFrame(schema=ANSWERS)]
    places = store.row_ids(SAMPLES, "id")
    for block in ids.to_frame("id").iter_slices(BLOCK):
        samples = store.fetch(SAMPLES, "id", block["id"], ["id", "messages", "extra", "n_turns"], places)
        rows = [_answer(id_, stored_conversation(m, extra), n) for id_, m, extra, n in samples.iter_rows()]
        frames.append(pl.DataFrame(rows, schema=ANSWERS, orient="row"))
    return pl.concat(frames).sort("instruction", "id")


def _answer(id_: str, sample: Conversation, n_turns: int) -> tuple:
    place = last_answer(sample)
    answer = [m for m in sample.messages[place.start : place.stop] if not m.is_blank]
    text = " ".join(" ".join(m.read_text("score") for m in answer).split())
    trained = all(m.is_trained for m in answer)
    return id_, instruction_of(sample).id, text_id(text), place.start, len(place), trained, n_turns - 1


def pair_pool(
    store: Store, file_ids: Sequence[str], encoder: EncoderFiles, quality: Sequence[ScorerFiles], rules: PairRules
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The pairs of a pool, clearest margin first, and the fate of each distinct sample, as in PAIRS and PAIR_FATES."""
    answers = pool_answers(store, pool_ids(store, file_ids))
    scores = turn_scores(store, quality, answers["id"]).select("id", "turn", score="quality")
    answers = answers.join(scores, on=["id", "turn"], how="left", maintain_order="left")
    trained = answers.filter("trained")
    pairs, fates = [PAIRS.empty()], [PAIR_FATES.empty()]
    for block, vectors in _blocks(store, encoder, trained):
        found = make_pairs(block, vectors, rules)
        pairs.append(found.pairs)
        fates.append(block.select("id", "instruction", "score").join(found.fates, on="id", how="left"))
    left_out = answers.filter(~pl.col("trained")).select("id", "instruction", "score", fate=pl.lit("not_trained"))
    decided = pl.concat([*fates, left_out], how="diagonal").select(PAIR_FATES.empty().columns)
    made = pl.concat(pairs).sort("margin", "chosen", descending=[True, False])
    return PAIRS.validate(made), PAIR_FATES.validate(decided)


def _blocks(store: Store, encoder: EncoderFiles, answers: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, np.ndarray]]:
    """Answers in blocks that divide no instruction, and their vectors (n, d) float32.

    A language model has vectors of whole conversations only, which are then compared.
    """
    table = encoder_table(encoder)
    rows, places = store.row_ids(table, "text_id"), store.row_ids(SAMPLES, "id")
    block = pl.col("block").first().over("instruction") // BLOCK
    numbered = answers.with_row_index("block").with_columns(block)
    for part in numbered.partition_by("block", maintain_order=True, include_key=False):
        if encoder.kind == "causal":
            yield part, store.vectors(table, part["id"], rows)
            continue
        index = store.fetch(SAMPLES, "id", part["id"], ["id", "message_index"], places)
        samples = part.join(as_read(index, encoder.reasoning), on="id", how="left", maintain_order="left")
        samples = samples.with_columns(pl.col("message_index").list.slice("first", "count"))
        yield part, mean_vectors(store, encoder, samples, rows)


def export_pairs(
    store: Store,
    file_ids: Sequence[str],
    encoder: EncoderFiles,
    quality: Sequence[ScorerFiles],
    rules: PairRules,
    out: Path,
    decisions: Path | None = None,
) -> PairReport:
    """Write the pairs of a pool to `out`, .jsonl or .parquet, and what came of each of its rows to `decisions`."""
    check_pairs_files(out, decisions)
    pairs, fates = pair_pool(store, file_ids, encoder, quality, rules)
    placed = _placed(store, file_ids, fates)
    write = _write_lines if out.suffix == ".jsonl" else _write_table
    place_file(out, lambda path: write(pair_rows(store, pairs), path))
    if decisions is not None:
        place_file(decisions, placed.write_parquet)
    merged = int((placed["copies"].drop_nulls() - 1).sum())
    counts = dict(placed.group_by("fate").len().sort("fate").iter_rows())
    return PairReport(pairs=len(pairs), read=len(placed) + merged, fates={**counts, "merged": merged})


def _placed(store: Store, file_ids: Sequence[str], fates: pl.DataFrame) -> pl.DataFrame:
    """The fates of samples with their first file, line and side and the number of copies, then the rejected rows."""
    position = pl.DataFrame({"file_id": file_ids}, schema={"file_id": pl.String}).with_row_index("nth")
    columns = ["sample_id", "file_id", "file", "line", "side"]
    sources = store.fetch(SOURCES, "file_id", file_ids, columns).join(position, on="file_id")
    first = sources.sort("nth", "line", "side").group_by("sample_id", maintain_order=True)
    first_of = first.agg(pl.col("file", "line", "side").first(), copies=pl.len().cast(pl.Int32))
    rows = first_of.join(fates, left_on="sample_id", right_on="id", how="left", maintain_order="left")
    rejects = store.fetch(REJECTS, "file_id", file_ids, ["file", "line", "reason"]).sort("file", "line")
    rejected = rejects.select("file", "line", "reason", fate=pl.lit("rejected"))
    return pl.concat([rows.rename({"sample_id": "id"}), rejected], how="diagonal")


def pair_rows(store: Store, pairs: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Pairs in TRL's layout: prompt, chosen and rejected as messages, what the row has beside them, and `deita`."""
    places = store.row_ids(SAMPLES, "id")
    for block in pairs.iter_slices(BLOCK):
        ids = pl.concat([block["chosen"], block["rejected"]])
        rows = store.fetch(SAMPLES, "id", ids, ["id", "messages", "extra"], places)
        samples = {id_: stored_conversation(messages, extra) for id_, messages, extra in rows.iter_rows()}
        if lacking := ids.n_unique() - len(samples):
            raise StoreError(f"The store {store.uri} lacks {lacking:,} samples of the pairs; run the command again.")
        for pair in block.select(FACTS).iter_rows(named=True):
            chosen, rejected = samples[pair["chosen"]], samples[pair["rejected"]]
            asked = in_layout(instruction_of(chosen), "messages", {})
            prompt = asked.pop("messages")
            yield {"prompt": prompt, "chosen": _said(chosen), "rejected": _said(rejected), **asked, "deita": pair}


def _said(sample: Conversation) -> list[dict[str, Any]]:
    """The messages of the last answer."""
    place = last_answer(sample)
    return in_layout(Conversation(sample.messages[place.start : place.stop]), "messages", {})["messages"]


def _write_lines(rows: Iterator[dict[str, Any]], path: Path) -> None:
    # The standard library keeps integers of any size as they are.
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_table(rows: Iterator[dict[str, Any]], path: Path) -> None:
    """Write pairs as Parquet. Raises InputError for one with more than roles and texts.

    Columns of one type would give a tool call arguments that it does not have.
    """
    facts = {name: PAIRS.empty().schema[name] for name in FACTS}
    schema: dict[str, Any] = {name: pl.List(pl.Struct(MESSAGE)) for name in ("prompt", "chosen", "rejected")}
    listed = []
    for row in rows:
        messages = [*row["prompt"], *row["chosen"], *row["rejected"]]
        beyond = [name for name in row if name not in (*schema, "deita")]
        beyond += [name for m in messages for name, value in m.items() if name not in MESSAGE or type(value) is not str]
        if beyond:
            raise InputError(
                f"Sample {row['deita']['chosen']} has {beyond[0]}, which a table of pairs cannot hold; end the name of "
                f"--out in .jsonl."
            )
        listed.append(row)
    pl.DataFrame(listed, schema={**schema, "deita": pl.Struct(facts)}).write_parquet(path)
