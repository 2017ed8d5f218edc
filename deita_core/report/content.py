"""The rows that the page holds: those drawn on the map, the texts of as many as there is room for, lists and pairs."""

import base64
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import orjson
import polars as pl

# Rows drawn on the map. All selected rows are, and as many of the others as there is room for.
DRAWN = 50_000
BEGINS = 50
# Bytes of beginnings and texts before compression, which leaves half of them; the page must fit into an email.
ROOM = 6_500_000
# Characters of a message: of the rows in the lists and pairs, and of the others.
LISTED_CHARS, OTHER_CHARS = 1_500, 300
LISTED_MESSAGES, OTHER_MESSAGES = 12, 2
LISTED = 10
DISAGREEING = 6
# Digits of an id on the page; enough to tell rows apart, and `deita explain` takes them.
DIGITS = 10
# Words whose differences are marked; more take too long.
COMPARED_WORDS = 250
WORDS = re.compile(r"\s+|\w+|[^\w\s]")
SCRIPTS = ("Latin", "Han", "Hangul", "Cyrillic", "Arabic", "Devanagari", "Greek", "Hebrew", "Thai", "Bengali", "Tamil")


@dataclass(frozen=True)
class Lists:
    """Rows shown in full: ids by the name of their list, and pairs (id, id of the row above, similarity)."""

    rows: dict[str, list[str]]
    pairs: dict[str, list[tuple[str, str, float]]]

    @property
    def ids(self) -> list[str]:
        """All ids, each once."""
        paired = (id_ for pairs in self.pairs.values() for one, other, _ in pairs for id_ in (one, other))
        return list(dict.fromkeys([*(id_ for ids in self.rows.values() for id_ in ids), *paired]))


def find_lists(samples: pl.DataFrame) -> Lists:
    """The rows to show. `samples`: decisions of all samples in rank order."""
    selected = samples.filter(pl.col("fate") == "selected")
    ranked = samples.filter(pl.col("rank").is_not_null())
    below = ranked.filter(pl.col("fate") == "over_budget").head(LISTED)
    gap = pl.col("complexity").rank() - pl.col("quality").rank()
    apart = ranked.filter(pl.col("score").is_not_null()).with_columns(gap=gap).sort("gap", "id")
    near = samples.filter(pl.col("fate") == "near_duplicate").sort("similarity", "id").head(LISTED)
    far = selected.filter(pl.col("nearest").is_not_null()).sort("similarity", "id", descending=[True, False])
    return Lists(
        rows={
            "best": selected["id"].head(LISTED).to_list(),
            "selected_last": selected["id"].tail(LISTED).to_list(),
            "first_left_out": below["id"].to_list(),
            "worst": ranked["id"].tail(LISTED).to_list()[::-1],
            "complex_but_poor": apart["id"].tail(DISAGREEING).to_list()[::-1],
            "good_but_simple": apart["id"].head(DISAGREEING).to_list(),
        },
        pairs={
            "above": list(near.select("id", "nearest", "similarity").iter_rows()),
            "below": list(far.head(LISTED).select("id", "nearest", "similarity").iter_rows()),
        },
    )


def draw(samples: pl.DataFrame, listed: Sequence[str], drawn: int = DRAWN) -> pl.DataFrame:
    """The rows on the map, with `weight`: how many rows of the pool each stands for.

    All selected and listed rows, and others in an order that depends on nothing but their ids, which are hashes.
    """
    wanted = (pl.col("fate") == "selected") | pl.col("id").is_in(pl.Series(listed, dtype=pl.String).implode())
    must, others = samples.filter(wanted), samples.filter(~wanted)
    taken = others.sort(pl.col("id").str.slice(16), "id").head(max(0, drawn - len(must)))
    each = len(others) / len(taken) if len(taken) else 0.0
    both = [must.with_columns(weight=pl.lit(1.0)), taken.with_columns(weight=pl.lit(each))]
    return pl.concat(both).sort("rank", "id", nulls_last=True)


def scripts_of(texts: pl.Series) -> pl.Series:
    """The writing system that most letters of each text belong to, or none; kana make it Japanese."""
    rows = texts.rename("text").to_frame().with_row_index("row")
    text = pl.col("text")
    is_plain = text.str.len_bytes() == text.str.len_chars()
    latin = pl.when(is_plain & text.str.contains("[A-Za-z]")).then(pl.lit("Latin")).otherwise(pl.lit("none"))
    # Most texts are plain, and counting takes time.
    others = rows.filter(~is_plain).select("row", script=_most_frequent(text))
    return rows.select(script=latin)["script"].scatter(others["row"], others["script"])


def _most_frequent(text: pl.Expr) -> pl.Expr:
    counts = [text.str.count_matches(rf"\p{{{name}}}") for name in SCRIPTS]
    most = pl.max_horizontal(counts)
    cases = {"Japanese": text.str.contains(r"[\p{Hiragana}\p{Katakana}]"), "none": most == 0}
    cases |= {name: count == most for name, count in zip(SCRIPTS, counts, strict=True)}
    return pl.coalesce(pl.when(case).then(pl.lit(name)) for name, case in cases.items())


def beginnings(messages: pl.DataFrame) -> pl.DataFrame:
    """Of each sample's first message of a user: owner, begins, words (more of it), script.

    `messages`: owner, role, text.
    """
    first = messages.filter(pl.col("role") == "user").group_by("owner", maintain_order=True).agg(pl.col("text").first())
    words = pl.col("text").str.slice(0, 240).str.replace_all(r"\s+", " ").str.strip_chars()
    rows = first.select("owner", words=words)
    return rows.with_columns(scripts_of(rows["words"]), begins=pl.col("words").str.slice(0, BEGINS))


def cut_messages(messages: pl.DataFrame, chars: int, count: int) -> pl.DataFrame:
    """The first messages of each sample, each cut: owner, said (a list of role and text), size (bytes).

    What was left out is said in the text or in a last message.
    """
    whole = pl.col("text").str.len_chars()
    cut = pl.when(whole > chars).then(
        pl.format("{} … [{} more characters]", pl.col("text").str.slice(0, chars), whole - chars)
    )
    rows = messages.with_columns(nth=pl.int_range(pl.len()).over("owner"), of=pl.len().over("owner"))
    rows = rows.filter(pl.col("nth") < count).with_columns(text=cut.otherwise("text"))
    size = (pl.col("text").str.len_bytes() + 20).sum()
    return rows.group_by("owner", maintain_order=True).agg(
        "role", "text", size=size, left=pl.col("of").first() - pl.len()
    )


def said(role: Sequence[str], text: Sequence[str], left: int) -> list[list[str]]:
    """The messages of a row as the page holds them: role and text."""
    found = [[r, t] for r, t in zip(role, text, strict=True)]
    return [*found, ["", f"[{left:,} more messages]"]] if left else found


def held_texts(
    drawn: pl.DataFrame, messages: pl.DataFrame, listed: Sequence[str], room: int
) -> dict[int, list[list[str]]]:
    """Texts by the position of their row: listed rows at length, then selected and others while there is room.

    `drawn`: id, fate; `messages`: owner (the position), role, text.
    """
    positions = drawn.with_row_index("owner").with_columns(pl.col("owner").cast(pl.Int64))
    is_listed = pl.col("id").is_in(pl.Series(listed, dtype=pl.String).implode())
    long, short = positions.filter(is_listed), positions.filter(~is_listed)
    at_length = cut_messages(messages.join(long, on="owner", how="semi"), LISTED_CHARS, LISTED_MESSAGES)
    briefly = cut_messages(messages.join(short, on="owner", how="semi"), OTHER_CHARS, OTHER_MESSAGES)
    order = (pl.col("fate") != "selected").cast(pl.Int8)
    briefly = briefly.join(short.select("owner", "fate"), on="owner").sort(order, "owner")
    briefly = briefly.filter(pl.col("size").cum_sum() <= room - at_length["size"].sum())
    rows = pl.concat([at_length, briefly.drop("fate")]).select("owner", "role", "text", "left")
    return {owner: said(role, text, left) for owner, role, text, left in rows.sort("owner").iter_rows()}


def marked(one: str, other: str) -> tuple[list[list[Any]], list[list[Any]]]:
    """Two texts as parts (1 where they differ, else 0; text), compared word by word as far as COMPARED_WORDS."""
    words, others = WORDS.findall(one), WORDS.findall(other)
    heads, tails = (words[:COMPARED_WORDS], others[:COMPARED_WORDS]), (words[COMPARED_WORDS:], others[COMPARED_WORDS:])
    sides: tuple[list[list[Any]], list[list[Any]]] = ([], [])
    for kind, a, b, c, d in SequenceMatcher(None, *heads, autojunk=False).get_opcodes():
        for side, part in zip(sides, (heads[0][a:b], heads[1][c:d]), strict=True):
            if part:
                side.append([int(kind != "equal"), "".join(part)])
    for side, tail in zip(sides, tails, strict=True):
        if tail:
            side.append([0, "".join(tail)])
    return sides


def pair_content(
    pairs: Iterable[tuple[str, str, float]], position: dict[str, int], texts: dict[int, list[list[str]]]
) -> list[dict[str, Any]]:
    """Pairs as the page holds them: positions of both rows, similarity, and their messages as marked parts."""
    found = []
    for one, other, similarity in pairs:
        if one not in position or other not in position:
            continue
        rows = [texts.get(position[id_], []) for id_ in (one, other)]
        joined = ["\n\n".join(f"{role}: {text}" if role else text for role, text in row) for row in rows]
        parts = marked(*joined)
        found.append({"rows": [position[one], position[other]], "similarity": round(similarity, 4), "parts": parts})
    return found


def page_content(
    drawn: pl.DataFrame, messages: pl.DataFrame, lists: Lists, names: dict[int, str]
) -> tuple[dict[str, Any], int]:
    """Everything the page's script reads, and the number of rows whose texts it holds.

    `drawn`: decisions with x, y, cluster and begins, in the order of the page; `messages`: owner, role, text.
    """
    columns = _columns(drawn)
    size = sum(len(begins.encode()) for begins in columns["begins"])
    texts = held_texts(drawn, messages, lists.ids, ROOM - size)
    position = {id_: i for i, id_ in enumerate(drawn["id"])}
    content = {
        "points": columns,
        "files": _names(drawn["file"]),
        "clusters": {str(key): name for key, name in names.items()},
        "texts": {str(i): text for i, text in texts.items()},
        "lists": {name: [position[id_] for id_ in ids if id_ in position] for name, ids in lists.rows.items()},
        "pairs": {name: pair_content(pairs, position, texts) for name, pairs in lists.pairs.items()},
    }
    return content, len(texts)


def _names(files: pl.Series) -> list[str]:
    return files.unique(maintain_order=True).to_list()


def _columns(drawn: pl.DataFrame) -> dict[str, list[Any]]:
    number = {file: i for i, file in enumerate(_names(drawn["file"]))}
    scores = [pl.col(name).round(2) for name in ("score", "complexity", "quality")]
    frame = drawn.select(
        "x", "y", "cluster", "fate", "rank", "line", "begins", *scores, pl.col("similarity").round(4),
        id=pl.col("id").str.slice(0, DIGITS),
        file=pl.col("file").replace_strict(number, return_dtype=pl.Int32),
    )  # fmt: skip
    return {name: frame[name].to_list() for name in frame.columns}


def packed(content: dict[str, Any]) -> str:
    """Content as base64 of deflated JSON, in which nothing is markup."""
    return base64.b64encode(zlib.compress(orjson.dumps(content), 4)).decode()
