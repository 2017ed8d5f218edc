"""How much of a text repeats itself: the share of its runs of words that it has already had."""

import numpy as np
import polars as pl

# Words in a run.
RUN = 4
# Scripts written without spaces, of which each letter counts as a word.
SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
WORD = rf"[{SPACELESS}]|[\w--[{SPACELESS}]]+"
# Odd, so that multiplying by it loses nothing; else any number that has bits everywhere.
FACTOR = np.uint64(0x9E37_79B9_7F4A_7C15)


def repetition(texts: pl.DataFrame) -> pl.DataFrame:
    """The share of repeated runs in the texts of each owner: owner, repetition (0 to below 1).

    `texts`: owner, text; owners may have several. A run is RUN consecutive words of one text, in lower case and without
    punctuation. It is repeated if the same run begins earlier in that text. The share is over all runs of an owner's
    texts, and 0 if there are none. In scripts without spaces each letter counts as a word.
    """
    words = texts.select(
        "owner", pl.int_range(pl.len()).alias("text"), word=pl.col("text").str.to_lowercase().str.extract_all(WORD)
    )
    words = words.filter(pl.col("word").list.len() >= RUN).explode("word")
    hashes = words["word"].hash(seed=0).to_numpy()
    starts = max(len(words) - RUN + 1, 0)
    runs = np.zeros(starts, np.uint64)
    for ahead in range(RUN):
        # The hash of a run by Horner's rule, modulo 2 ** 64.
        runs = runs * FACTOR + hashes[ahead : ahead + starts]
    # A run that would go on in the next text is none.
    one = words["text"].head(starts) == words["text"].slice(RUN - 1)
    found = words.head(starts).select("owner", "text", run=pl.Series(runs)).filter(one)
    by_text = found.group_by("owner", "text").agg(runs=pl.len(), distinct=pl.col("run").n_unique())
    shares = by_text.group_by("owner").agg(repetition=1 - pl.col("distinct").sum() / pl.col("runs").sum())
    owners = texts.select(pl.col("owner").unique(maintain_order=True))
    joined = owners.join(shares, on="owner", how="left", maintain_order="left")
    return joined.with_columns(pl.col("repetition").fill_null(0.0))
