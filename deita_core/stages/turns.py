"""The messages of stored samples as rows of a frame: their texts as read, and the turns they belong to."""

import polars as pl

from deita_core.conversation import JOINT, Message
from deita_core.literals import Reasoning

# Columns of samples that the functions of this module need.
NEEDED = ["id", "messages", "message_index"]


def as_read(samples: pl.DataFrame, reasoning: Reasoning) -> pl.DataFrame:
    """Samples whose message index names the texts as they are encoded: with the reasoning before them, or without."""
    if reasoning == "ignore":
        return samples
    read = [
        pl.coalesce(pl.field(full), pl.field(plain)).alias(plain)
        for full, plain in (("full_id", "text_id"), ("full_chars", "n_chars"))
    ]
    return samples.with_columns(pl.col("message_index").list.eval(pl.element().struct.with_fields(read)))


def indexed_messages(samples: pl.DataFrame) -> pl.DataFrame:
    """The message index of samples, a row per nonblank message: `owner` (position of the sample) and its columns."""
    owned = samples.select(pl.int_range(pl.len()).alias("owner"), "message_index")
    return owned.explode("message_index", empty_as_null=False).unnest("message_index").filter(~pl.col("blank"))


def read_messages(samples: pl.DataFrame, reasoning: Reasoning) -> pl.DataFrame:
    """As `indexed_messages`, for samples (NEEDED), with `text`: as `Message.read_text` gives it."""
    read = as_read(samples, reasoning).select(pl.int_range(pl.len()).alias("owner"), "messages", "message_index")
    rows = read.explode("messages", "message_index", empty_as_null=False)
    parts = pl.col("messages").struct.field("content", "extra")
    rows = rows.unnest("message_index").with_columns(parts).filter(~pl.col("blank"))
    # As in Message.is_plain, whose text is the content.
    plain = pl.col("extra").is_null() & (
        (pl.col("role") != "assistant") | ~pl.col("content").str.contains("<think>", literal=True)
    )
    rows = rows.with_columns(text=pl.when(plain).then("content"))
    others = rows.with_row_index("row").filter(pl.col("text").is_null())
    texts = [Message(**message).read_text(reasoning) for message in others["messages"]]
    texts_read = pl.Series("text", texts, pl.String)
    rows = rows.drop("messages", "content", "extra")
    return rows.with_columns(rows["text"].scatter(others["row"], texts_read)) if texts else rows


def turns_of(messages: pl.DataFrame) -> pl.DataFrame:
    """The turns that messages belong to, as `pair_turns` finds them: the user and trained assistant messages of turns.

    `messages`: owner, role, trained and others, nonblank, in their order. Returns their rows with `turn`, from 0 in
    each sample, in the same order.
    """
    spoken = messages.filter(pl.col("role").is_in(["user", "assistant"]))
    changes = (pl.col("role") != pl.col("role").shift()) | (pl.col("owner") != pl.col("owner").shift())
    is_answer = pl.col("role") == "assistant"
    spoken = spoken.with_columns(run=changes.fill_null(True).cum_sum()).filter(~is_answer | pl.col("trained"))
    # A turn is named by the run of its answers, which follows that of its user messages.
    spoken = spoken.with_columns(pair=pl.col("run").cast(pl.Int64) + (~is_answer).cast(pl.Int64))
    whole = is_answer.any().over("owner", "pair") & (~is_answer).any().over("owner", "pair")
    return (
        spoken.filter(whole)
        .with_columns(turn=(pl.col("pair").rle_id()).cast(pl.Int32))
        .with_columns(turn=pl.col("turn") - pl.col("turn").first().over("owner"))
        .drop("run", "pair")
    )


def joined_turns(messages: pl.DataFrame) -> pl.DataFrame:
    """The texts of turns, of what `turns_of` returns, with `text`: owner, turn, instruction, response."""
    is_answer = pl.col("role") == "assistant"
    return messages.group_by("owner", "turn", maintain_order=True).agg(
        instruction=pl.col("text").filter(~is_answer).str.join(JOINT),
        response=pl.col("text").filter(is_answer).str.join(JOINT),
    )
