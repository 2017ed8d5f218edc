"""Features for scorer heads: stored vectors, relations between a question and its answer, and properties of the texts.

All are computed from the text itself, in any script, without word lists or models.
"""

import re
import zlib
from collections.abc import Sequence

import numpy as np
import regex

# Increased whenever the same texts would get other features; a head accepts only the version it was trained on.
FEATURES_VERSION = 1

# A CJK character is a word; in other scripts, a run of letters, digits and combining marks.
_WORD = regex.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[[\p{L}\p{N}\p{M}_]--[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]]+",
    regex.V1,
)
_SENTENCE_END = re.compile(r"[.!?。！？\n]+")
_LIST_ITEM = re.compile(r"\s*([-*•]|\d+[.)])\s")
_COMPLETE = tuple(".!?。！？…)`\"'”’」』}]*|>~")
_LENGTH_KNOTS = (3.5, 5.0, 6.0, 7.0)
_COSINE_KNOTS = (0.2, 0.4, 0.6, 0.8)


def words_of(text: str) -> list[str]:
    """Return the lower-case words of a text in any script."""
    return _WORD.findall(text.lower())


def complexity_features(instructions: Sequence[str], vectors: np.ndarray) -> tuple[np.ndarray, int]:
    """Return features (n, k) float64 of instructions and their vectors (n, d), and how many come before the vectors."""
    plain = np.array([text_shape(text) for text in instructions])
    return np.hstack([plain, vectors]), plain.shape[1]


def quality_features(
    instructions: Sequence[str], responses: Sequence[str], asked: np.ndarray, answered: np.ndarray
) -> tuple[np.ndarray, int]:
    """Return features (n, k) float64 of answers, from texts and vectors (n, d), and how many precede the vectors."""
    cosine = (asked.astype(np.float64) * answered).sum(axis=1)
    pairs = zip(instructions, responses, cosine, strict=True)
    plain = np.array([[*text_shape(r), *_relation(i, r), *_hinges(c, _COSINE_KNOTS)] for i, r, c in pairs])
    return np.hstack([plain, answered, asked * answered, asked]), plain.shape[1]


def text_shape(text: str) -> list[float]:
    """Return features of a text's length, vocabulary, repetition, layout and punctuation."""
    words = words_of(text) or [""]
    lines = [line for line in text.splitlines() if line.strip()] or [""]
    sentences = [part for part in _SENTENCE_END.split(text) if part.strip()] or [""]
    n_chars, n_words = max(1, len(text)), len(words)
    runs = [tuple(words[i : i + 4]) for i in range(n_words - 3)]
    return [
        *_hinges(np.log1p(len(text)), _LENGTH_KNOTS),
        float(np.log1p(n_words)),
        float(np.log(len(lines))),
        len(set(words)) / n_words**0.8,
        1 - len(set(runs)) / max(1, len(runs)),
        _redundancy(text),
        sum(map(len, words)) / n_words,
        float(np.log1p(n_chars / len(sentences))),
        float(text.rstrip().endswith(_COMPLETE)),
        sum(map(str.isdigit, text)) / n_chars,
        sum(bool(_LIST_ITEM.match(line)) for line in lines) / len(lines),
        float("```" in text),
        float(np.log1p(text.count("**") + sum(line.startswith("#") for line in lines))),
        sum(text.count(c) for c in ",;:、，；：") / n_words,
        float(np.log1p(text.count("?") + text.count("？"))),
        (text.count("!") + text.count("！")) / len(sentences),
        sum(text.count(c) for c in "()[]{}") / n_words,
        sum(text.count(c) for c in "=+*/^<>\\") / n_chars,
        sum(map(str.isupper, text)) / n_chars,
        (len(text) - len(text.encode("ascii", "ignore"))) / n_chars,
    ]


def _relation(instruction: str, response: str) -> list[float]:
    asked, answered = set(words_of(instruction)), set(words_of(response))
    shared = len(asked & answered)
    return [
        float(np.log1p(len(instruction))),
        float(np.log1p(len(response)) - np.log1p(len(instruction))),
        shared / max(1, len(answered)),
        shared / max(1, len(asked)),
    ]


def _redundancy(text: str) -> float:
    """Return a text's compressed share of its bytes: repeated sentences and boilerplate compress well."""
    data = text.encode()
    return len(zlib.compress(data, 6)) / max(20, len(data))


def _hinges(value: float, knots: tuple[float, ...]) -> list[float]:
    """Return a value's basis for a piecewise linear curve: a larger value can be better up to a point only."""
    return [float(value), *(max(0.0, float(value) - knot) for knot in knots)]
