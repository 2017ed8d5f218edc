"""The language of texts and of conversations, by the n-gram model that the package py3langid carries."""

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

import polars as pl

from deita_core.conversation import content_id
from deita_core.literals import LANGUAGES

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

# To be raised when the same messages can get another language by a change of this module.
VERSION = 1
# The package's code of what is no language: numbers, markup, identifiers.
NO_LANGUAGE = "zxx"
# Below this probability a language is not known. Short questions are above it, numbers and most code below.
SURE = 0.3
# Characters of a text that are read; with twice as many, fewer than one text in a thousand gets another language.
CHARS = 500
# A Chinese, Japanese or Korean letter counts as three of others, since it says about as much.
LETTER, DENSE_LETTER, DENSE = r"\p{L}", r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]", 3
# What a text holds besides sentences: code between fences and in a line, and addresses.
ASIDE = (r"(?s)```.*?(?:```|$)", r"`[^`\n]*`", r"\w+://\S+")


@cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages([*LANGUAGES, NO_LANGUAGE])
    return identifier


def detector() -> str:
    """The name of what tells languages apart; it changes with all that another language could come from."""
    from importlib.metadata import version

    settings = content_id(repr((VERSION, LANGUAGES, SURE, CHARS, DENSE, ASIDE)).encode())
    return f"py3langid-{version('py3langid')}-{settings[:8]}"


def languages(texts: Iterable[str]) -> list[str | None]:
    """The language of each text as one of LANGUAGES; None where there is none, or none is likely, as in code.

    Only the first CHARS characters are read, without code and addresses.
    """
    return [_language(text)[0] for text in _sentences(pl.Series(list(texts), dtype=pl.String))]


def languages_said(messages: pl.DataFrame) -> pl.DataFrame:
    """The language in which most is said in each conversation: owner, language; None as in `languages`.

    `messages`: owner, text. A message counts with its letters, without code and addresses, times the probability of its
    language; of equal languages the first in the alphabet is taken.
    """
    read = messages.select("owner", text=_sentences(messages["text"]))
    schema = {"language": pl.String, "probability": pl.Float64}
    found = pl.DataFrame([_language(text) for text in read["text"]], schema, orient="row")
    count = pl.col("text").str.count_matches
    letters = count(LETTER) + (DENSE - 1) * count(DENSE_LETTER)
    messages_of = pl.concat([read, found], how="horizontal").drop_nulls("language").group_by("owner", "language")
    said = messages_of.agg(amount=(letters * pl.col("probability")).sum())
    most = said.sort("owner", "amount", "language", descending=[False, True, False]).unique("owner", keep="first")
    owners = messages.select(pl.col("owner").unique(maintain_order=True))
    return owners.join(most.select("owner", "language"), on="owner", how="left", maintain_order="left")


def _sentences(texts: pl.Series) -> pl.Series:
    for aside in ASIDE:
        texts = texts.str.replace_all(aside, " ")
    return texts.str.strip_chars()


def _language(text: str) -> tuple[str | None, float]:
    """The likely language of a text, None if there is none, and its probability."""
    code, probability = _identifier().classify(text[:CHARS])
    return None if code == NO_LANGUAGE or probability < SURE else code, probability
