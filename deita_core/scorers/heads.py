"""Scorer heads: small ordinal models on stored vectors and text features.

A head maps a turn to a number and divides the number line into the six scores. The score is the expected value of the
resulting distribution (paper, section 2.2: score = sum over k of k * p_k).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import orjson
import polars as pl
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from deita_core.conversation import content_id
from deita_core.errors import InputError, ModelError
from deita_core.export.placing import Write, place_files, prepare_files
from deita_core.literals import Axis
from deita_core.models.encoder_spec import EncoderFiles, find_encoder
from deita_core.models.static_encoder import TextEncoder, load_text_encoder
from deita_core.scorers.features import (
    FEATURES_VERSION,
    instruction_features,
    join_pair_vectors,
    join_vectors,
    pair_features,
)
from deita_core.scorers.training.metrics import Figures

LEVELS = np.arange(1, 7, dtype=np.float64)
SCORE_SCHEMA = {"score": pl.Float64, "status": pl.String}
# The features of so many rows stay in a processor's cache.
ROWS_AT_ONCE = 256

_SURROGATE = re.compile("[\ud800-\udfff]")


class HeadCard(BaseModel):
    """A head's axis and training data, saved beside its weights as config.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["head"] = "head"
    axis: Axis
    encoder: str
    encoder_weights: str
    features_version: int
    examples: int
    ridge: float
    figures: Figures


def distribution(positions: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Return probabilities (n, 6) of the scores 1 to 6 for positions (n,) on a line with five cuts."""
    below = 1 / (1 + np.exp(np.clip(positions[:, None] - cuts[None, :], -500, 500)))
    edges = np.concatenate([np.zeros((len(below), 1)), below, np.ones((len(below), 1))], axis=1)
    return np.diff(edges, axis=1)


def expected_scores(positions: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Return the expected values (n,) of these distributions, in [1, 6]."""
    return np.clip((distribution(positions, cuts) * LEVELS).sum(axis=1), 1.0, 6.0)


@dataclass(frozen=True)
class Head:
    """A head's weights: features are clipped to the training range, standardized, and summed with weights.

    `low`, `high`, `mean`, `scale`, `weights`: (k,); `cuts`: (5,) ascending. All float64.
    """

    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    cuts: np.ndarray

    def position(self, features: np.ndarray) -> np.ndarray:
        """Return the position (n,) of each row of features (n, k) on the line."""
        # Clipped: values outside the training range have no known effect, so they change nothing further.
        terms = np.clip(features, self.low, self.high)
        terms -= self.mean
        terms /= self.scale
        terms *= self.weights
        # A sum per row, not a matrix product: a score must not depend on the other rows.
        return terms.sum(axis=1)

    def distribution(self, features: np.ndarray) -> np.ndarray:
        """Return probabilities (n, 6) of the scores 1 to 6; each row sums to 1."""
        return distribution(self.position(features), self.cuts)

    def score(self, features: np.ndarray) -> np.ndarray:
        """Return the expected values (n,) of the distributions, in [1, 6]."""
        return expected_scores(self.position(features), self.cuts)

    def check(self) -> None:
        """Raise ValueError if the arrays' shapes do not match or a number is not finite."""
        shapes = {name: value.shape for name, value in self.arrays().items()}
        if self.cuts.shape != (5,) or len({shape for name, shape in shapes.items() if name != "cuts"}) != 1:
            raise ValueError(f"its arrays have the shapes {shapes}")
        if not all(np.isfinite(value).all() for value in self.arrays().values()):
            raise ValueError("it holds numbers that are not finite")

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the weights by name, as they are saved."""
        return {name: np.asarray(value, dtype=np.float64) for name, value in vars(self).items()}


def head_files(head: Head, card: HeadCard) -> dict[str, Write]:
    """Return the writers of a head's files: model.safetensors, then config.json, which marks the folder as complete."""
    config = orjson.dumps(card.model_dump(), option=orjson.OPT_INDENT_2) + b"\n"
    return {
        "model.safetensors": lambda path: save_file(head.arrays(), path),
        "config.json": lambda path: path.write_bytes(config),
    }


def save_head(head: Head, card: HeadCard, folder: Path) -> None:
    """Write a head into a folder."""
    place_files(folder, prepare_files(folder, head_files(head, card)))


class HeadScorer:
    """A trained head, as returned by `load_scorer`; needs no torch if the vectors are given.

    `fingerprint`: by default that of its files.
    """

    def __init__(
        self,
        folder: Path,
        device: str = "auto",
        max_tokens_per_batch: int | None = None,
        fingerprint: str | None = None,
    ) -> None:
        try:
            weights = (folder / "model.safetensors").read_bytes()
            self.card = HeadCard.model_validate_json((folder / "config.json").read_bytes())
            self.head = Head(**load_file(folder / "model.safetensors"))
            self.head.check()
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            raise ModelError(f"The folder {folder} does not hold a whole scorer head: {str(error)[:200]}.") from error
        if self.card.features_version != FEATURES_VERSION:
            raise ModelError(f"The head in {folder} is from another version of this program; train it again.")
        self.axis = self.card.axis
        self.fingerprint = fingerprint or content_id(weights + self.card.model_dump_json().encode())
        self._device, self._tokens = device, max_tokens_per_batch
        self._encoder: TextEncoder | None = None

    def check_encoder(self, encoder: EncoderFiles) -> None:
        """Raise ModelError unless the head was trained on this encoder's vectors."""
        if encoder.weights != self.card.encoder_weights:
            raise ModelError(
                f"The {self.axis} head was trained on vectors of {self.card.encoder}, not of {encoder.name}; use that "
                f"encoder, or train a head for this one."
            )

    def score(self, instructions: Sequence[str], responses: Sequence[str] | None = None) -> pl.DataFrame:
        """Return a frame of score (float64, null if unreadable) and status, one row per text in their order.

        The complexity axis reads instructions only; the quality axis needs one response each.
        """
        if self.axis == "quality" and (responses is None or len(responses) != len(instructions)):
            raise InputError(f"Quality is scored on answers; give one response for each of {len(instructions)} rows.")
        encoder = self._loaded()
        instructions, responses = _valid_unicode(instructions), None if responses is None else _valid_unicode(responses)
        distinct = list(dict.fromkeys([*instructions, *(responses or [])]))
        row_of = {text: row for row, text in enumerate(distinct)}
        vectors = encoder.encode(distinct).vectors if distinct else np.zeros((0, encoder.dim), np.float32)
        asked = vectors[[row_of[text] for text in instructions]]
        answered = None if responses is None else vectors[[row_of[text] for text in responses]]
        return self.score_vectors(instructions, asked, responses, answered)

    def score_vectors(
        self,
        instructions: Sequence[str],
        asked: np.ndarray,
        responses: Sequence[str] | None = None,
        answered: np.ndarray | None = None,
    ) -> pl.DataFrame:
        """Score texts with known vectors (n, d); as `score`. A blank text or a zero vector is unreadable."""
        join: Callable[..., np.ndarray]
        if self.axis == "complexity":
            features, join = instruction_features(instructions), join_vectors
            texts, vectors = [instructions], [asked]
        else:
            assert responses is not None and answered is not None, "the quality axis scores answers"
            features, join = pair_features(instructions, responses), join_pair_vectors
            texts, vectors = [instructions, responses], [asked, answered]
        scores = np.empty(len(instructions))
        readable = np.logical_and.reduce([_not_blank(column) for column in texts])
        for first in range(0, len(instructions), ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            scores[rows] = self.head.score(join(features[rows], *(column[rows] for column in vectors)))
            for column in vectors:
                readable[rows] &= _has_direction(column[rows])
        return pl.DataFrame({"score": scores, "readable": readable & np.isfinite(scores)}).select(
            score=pl.when(pl.col("readable")).then(pl.col("score")),
            status=pl.when(pl.col("readable")).then(pl.lit("ok")).otherwise(pl.lit("unreadable")),
        )

    def _loaded(self) -> TextEncoder:
        if self._encoder is None:
            files = find_encoder(self.card.encoder)
            self.check_encoder(files)
            self._encoder = load_text_encoder(files, self._device, self._tokens)
        return self._encoder


def _valid_unicode(texts: Sequence[str]) -> list[str]:
    """Return the texts, blank if they have an unpaired surrogate (invalid Unicode); a blank text is unreadable."""
    return ["" if _SURROGATE.search(text) else text for text in texts]


def _not_blank(texts: Sequence[str]) -> np.ndarray:
    return np.array([bool(text.strip()) for text in texts], dtype=bool)


def _has_direction(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return np.isfinite(norms) & (norms > 0)
