"""Features for scorer heads: stored vectors, relations between a question and its answer, and properties of the texts.

All are computed from the text itself, in any script, without word lists or models.
"""

from collections.abc import Callable, Sequence

import numpy as np

from deita_core.scorers.text_counts import PairCounts, TextCounts, count_pairs, count_texts

# Increased whenever the same texts would get other features; a head accepts only the version it was trained on.
FEATURES_VERSION = 1

_LENGTH_KNOTS = (3.5, 5.0, 6.0, 7.0)
_COSINE_KNOTS = (0.2, 0.4, 0.6, 0.8)


def complexity_features(instructions: Sequence[str], vectors: np.ndarray) -> tuple[np.ndarray, int]:
    """Return features (n, k) float64 of instructions and their vectors (n, d), and how many come before the vectors."""
    features = join_vectors(instruction_features(instructions), vectors)
    return features, features.shape[1] - vectors.shape[1]


def quality_features(
    instructions: Sequence[str], responses: Sequence[str], asked: np.ndarray, answered: np.ndarray
) -> tuple[np.ndarray, int]:
    """Return features (n, k) float64 of answers, from texts and vectors (n, d), and how many precede the vectors."""
    features = join_pair_vectors(pair_features(instructions, responses), asked, answered)
    return features, features.shape[1] - 3 * asked.shape[1]


def instruction_features(instructions: Sequence[str]) -> np.ndarray:
    """Return the features (n, k) float64 of instructions that need no vectors; equal texts are read once."""
    row_of = {text: row for row, text in enumerate(dict.fromkeys(instructions))}
    return np.column_stack(_shape(count_texts(list(row_of))))[[row_of[text] for text in instructions]]


def pair_features(instructions: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """Return the features (n, k) float64 of answers that need no vectors; equal pairs are read once."""
    pairs = list(zip(instructions, responses, strict=True))
    row_of = {pair: row for row, pair in enumerate(dict.fromkeys(pairs))}
    counts = count_pairs([asked for asked, _ in row_of], [answer for _, answer in row_of])
    return np.column_stack([*_shape(counts), *_relation(counts)])[[row_of[pair] for pair in pairs]]


def join_vectors(features: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the complexity axis's features: those of the instructions (n, k) beside their vectors (n, d)."""
    return np.hstack([features, vectors])


def join_pair_vectors(features: np.ndarray, asked: np.ndarray, answered: np.ndarray) -> np.ndarray:
    """Return the quality axis's features: those of the pairs (n, k) beside what their vectors (n, d) tell."""
    cosine = (asked.astype(np.float64) * answered).sum(axis=1)
    return np.hstack([features, np.column_stack(_hinges(cosine, _COSINE_KNOTS)), answered, asked * answered, asked])


def _shape(n: TextCounts) -> list[np.ndarray]:
    """Return features of texts' length, vocabulary, repetition, layout and punctuation."""
    # What stands in a denominator or under a logarithm is at least 1, also in an empty text.
    characters, words, runs = np.maximum(1, n.characters), np.maximum(1, n.words), np.maximum(1, n.words - 3)
    lines, sentences = np.maximum(1, n.lines), np.maximum(1, n.sentences)
    return [
        *_hinges(_of_each(np.log1p, n.characters), _LENGTH_KNOTS),
        _of_each(np.log1p, words),
        _of_each(np.log, lines),
        np.maximum(1, n.distinct_words) / _of_each(lambda count: count**0.8, words),
        1 - n.distinct_runs / runs,
        # Repeated sentences and boilerplate compress well.
        n.compressed_bytes / np.maximum(20, n.bytes),
        n.word_characters / words,
        _of_each(np.log1p, characters / sentences),
        n.complete,
        n.digits / characters,
        n.list_items / lines,
        n.code_fences,
        _of_each(np.log1p, n.bold_marks + n.headings),
        n.pauses / words,
        _of_each(np.log1p, n.questions),
        n.exclamations / sentences,
        n.brackets / words,
        n.symbols / characters,
        n.capitals / characters,
        n.not_ascii / characters,
    ]


def _relation(n: PairCounts) -> list[np.ndarray]:
    asked, answered = _of_each(np.log1p, n.asked_characters), _of_each(np.log1p, n.characters)
    return [
        asked,
        answered - asked,
        n.shared_words / np.maximum(1, n.distinct_words),
        n.shared_words / np.maximum(1, n.asked_distinct_words),
    ]


def _of_each(function: Callable[[float], float], values: np.ndarray) -> np.ndarray:
    """Return a function of each value (n,), called once for each distinct one.

    A function of a whole array can differ in the last bit from one place or length of the array to another.
    """
    distinct, places = np.unique(values, return_inverse=True)
    return np.array([function(value) for value in distinct.tolist()], dtype=np.float64)[places]


def _hinges(values: np.ndarray, knots: tuple[float, ...]) -> list[np.ndarray]:
    """Return values' basis for a piecewise linear curve: a larger value can be better up to a point only."""
    return [values, *(np.where(values > knot, values - knot, 0.0) for knot in knots)]
