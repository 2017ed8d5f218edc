"""Finds the texts that overlap a held-out set: runs of words in common, as benchmarks are told from training data."""

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

from deita_core.selection.words import Words, is_spaceless, normalized_words, read_words, text_blocks

__all__ = ["RunIndex", "find_overlaps", "normalized_words", "runs_of", "telling_runs"]

# Consecutive words in common that are an overlap.
WORDS = 13
# Words of a shorter held-out text that stands in another one. Of fewer, such as "What is 2+2?", many are said anywhere.
SHORTEST = 5
# Different words of a run that tells where a text is from.
DIFFERENT = 5
# Characters of a quotation.
QUOTED = 80
RUNS = {"run": pl.UInt64, "head": pl.UInt64, "row": pl.Int32, "length": pl.Int32, "different": pl.Int32}


def find_overlaps(texts: Iterable[str], held_out: Sequence[str], words: int = WORDS) -> list[int | None]:
    """For each text the position of a held-out text with which it overlaps, or None.

    Two texts overlap if they have `words` consecutive words in common, as `normalized_words` gives them. A text of
    fewer words overlaps only an equal one, and a text without words none. `texts` may be a stream.
    """
    index = RunIndex(runs_of(held_out, range(len(held_out)), words, words), words=words, shortest=words)
    found = list[int | None]()
    for block in text_blocks(texts):
        rows = dict(index.find(block).select("text", "row").iter_rows())
        found += map(rows.get, range(len(block)))
    return found


def runs_of(texts: Sequence[str], rows: Sequence[int], words: int = WORDS, shortest: int = SHORTEST) -> pl.DataFrame:
    """Every run of `words` words of texts, and all words of each shorter text: run, head, row, length, different.

    `run`: the hash of the words; `head`: that of the first `shortest` of them, if there are so many; `row`: the number
    given for the text; `different`: how many different words there are. A run that a row has several times stands
    there once.
    """
    read, numbers = read_words(texts), np.array(rows, np.int32)
    frames = [pl.DataFrame(schema=RUNS)]
    for length in range(1, words + 1):
        firsts = read.one_text(np.arange(len(read.owners)), length) if length == words else read.whole(length)
        run, head = read.hashes(length, firsts), read.hashes(min(length, shortest), firsts)
        spelled = np.sort(read.hashes(1)[firsts[:, None] + np.arange(length)], axis=1)
        different = 1 + np.count_nonzero(np.diff(spelled, axis=1), axis=1)
        frame = pl.DataFrame({"run": run, "head": head, "row": numbers[read.owners[firsts]], "different": different})
        frames.append(frame.with_columns(length=pl.lit(length)).select(pl.col(k).cast(v) for k, v in RUNS.items()))
    return pl.concat(frames).unique()


def telling_runs(runs: pl.DataFrame, rows: int) -> pl.DataFrame:
    """The runs without those that say nothing of where a text is from.

    These have few different words, as a row of ones and zeros has, or stand in more than `rows` rows, as the wording
    does that all questions of a file share.
    """
    common = runs.group_by("run").len().filter(pl.col("len") > rows)["run"]
    monotone = (pl.col("different") < DIFFERENT) & (pl.col("length") > DIFFERENT)
    return runs.filter(~pl.col("run").is_in(common.implode()) & ~monotone)


class RunIndex:
    """The runs of held-out texts, to be found in other texts.

    `runs`, `words`, `shortest`: as `runs_of` gives them; if several rows have a run, the first of them is found. A
    held-out text of fewer than `words` words is found wherever all its words stand, if it has at least `shortest`, and
    else only in a text that is equal to it. Takes at most 20 bytes for each distinct run.
    """

    def __init__(self, runs: pl.DataFrame, *, words: int = WORDS, shortest: int = SHORTEST) -> None:
        first = runs.group_by("run").agg(pl.col("row").min()).sort("run")
        self._hashes, self._rows = first["run"].to_numpy(), first["row"].to_numpy()
        self._words, self._shortest = words, shortest
        self._lengths = runs["length"].unique().sort().to_list()
        short = runs.filter(pl.col("length").is_between(shortest, words - 1))
        self._likely, self._heads = _Beginnings(self._hashes), _Beginnings(short["head"].unique().to_numpy())

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(each.nbytes for each in (self._hashes, self._rows, self._likely.there, self._heads.there))

    def find(self, texts: Sequence[str]) -> pl.DataFrame:
        """The texts that overlap a held-out one: text (position), row, start, words, quote.

        `row` is the held-out one with the longest stretch in common, the first of equals. The stretch begins at the
        word `start` of the text, counted from 0, and has so many `words`, of which `quote` holds the first.
        """
        read = read_words(texts)
        heads = np.flatnonzero(self._heads.have(read.hashes(self._shortest)))
        runs = np.flatnonzero(self._likely.have(read.hashes(self._words)))
        hits = [self._hits(read, runs, self._words)]
        hits += [self._hits(read, heads, length) for length in self._lengths if self._shortest <= length < self._words]
        hits += [self._hits(read, read.whole(length), length) for length in self._lengths if length < self._shortest]
        stretches = _longest_stretches(pl.concat(hits), read.owners)
        quotes = [_quoted(read.spelled(*ends)) for ends in stretches.select("first", "last").iter_rows()]
        before = np.searchsorted(read.owners, stretches["text"])
        return stretches.select(
            "text",
            "row",
            start=pl.col("first") - pl.Series(before, dtype=pl.Int64),
            words=pl.col("last") - pl.col("first"),
            quote=pl.Series(quotes, dtype=pl.String),
        )

    def _hits(self, read: Words, firsts: np.ndarray, length: int) -> pl.DataFrame:
        """Those of the runs that are of a held-out text: first word, last word (that after it), row."""
        firsts = read.one_text(firsts, length)
        hashes = read.hashes(length, firsts)
        place = np.searchsorted(self._hashes, hashes)
        found = self._hashes.take(place, mode="clip") == hashes if len(self._hashes) else place < 0
        firsts, rows = firsts[found], self._rows[place[found]]
        return pl.DataFrame({"first": firsts, "last": firsts + length, "row": rows})


class _Beginnings:
    """Tells of nearly all hashes that are not in a set that they are not, by their first bits."""

    def __init__(self, hashes: np.ndarray) -> None:
        # At least four times as many places as hashes.
        bits = len(hashes).bit_length() + 2
        self._shift = np.uint64(64 - bits)
        self.there = np.zeros(1 << bits, bool)
        self.there[hashes >> self._shift] = True

    def have(self, hashes: np.ndarray) -> np.ndarray:
        """A mask (n,) of the hashes that may be in the set."""
        return self.there[hashes >> self._shift]


def _longest_stretches(hits: pl.DataFrame, owners: np.ndarray) -> pl.DataFrame:
    """Of each text the longest stretch of words that runs of one row cover: text, row, first, last."""
    hits = hits.with_columns(text=pl.Series(owners[hits["first"]], dtype=pl.Int64)).sort("text", "row", "first")
    begins = pl.struct("text", "row").rle_id().diff().fill_null(1).cast(pl.Boolean) | (pl.col("first").diff() > 1)
    return (
        hits.with_columns(stretch=begins.fill_null(True).cum_sum())
        .group_by("stretch")
        .agg(pl.col("text", "row", "first").first(), pl.col("last").max())
        .sort("text", pl.col("first") - pl.col("last"), "row", "first")
        .unique("text", keep="first", maintain_order=True)
        .drop("stretch")
    )


def _quoted(words: list[str]) -> str:
    """The first words, at most QUOTED characters; characters that are words by themselves stand without spaces."""
    quote = ""
    for word in words:
        apart = " " if quote and not (is_spaceless(word) and is_spaceless(quote[-1])) else ""
        if len(quote) + len(apart) + len(word) > QUOTED - 2:
            return f"{quote or word[: QUOTED - 2]} …"
        quote += apart + word
    return quote
