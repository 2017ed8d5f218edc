"""Scorers: rate the complexity of instructions and the quality of answers, from 1 to 6."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import orjson
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from deita_core.conversation import content_id
from deita_core.errors import ModelError, cause
from deita_core.literals import Axis, ClassifierText, Precision, Reasoning, ScorerKind
from deita_core.models.encoder_spec import FAST_ENCODER, EncoderFiles, best_precision, find_encoder
from deita_core.models.small_lm import local_model
from deita_core.scorers.endpoint import ServedLimits
from deita_core.scorers.heads import HeadScorer
from deita_core.scorers.judged import JudgedScorer, find_judge, is_judge
from deita_core.scorers.label_values import are_scores, label_values
from deita_core.scorers.served import ServedScorer, find_served, is_served

__all__ = ["Axis", "HeadScorer", "Scorer", "ScorerFiles", "find_scorer", "load_found", "load_scorer"]

_SHIPPED = Path(__file__).parent / "weights"
RELEASED_TOKENS = 2_048


class Scorer(Protocol):
    """The interface of the scorers that `load_scorer` returns."""

    axis: Axis
    fingerprint: str

    def score(self, instructions: Sequence[str], responses: Sequence[str] | None = None) -> pl.DataFrame:
        """Return a frame of score (float64, null if unreadable) and status, one row per text in their order.

        A classifier with a scale of its own has a column `raw` as well, and null for every score. A judge has `spread`
        and `votes`, as in `JudgedScorer`.
        """


class ScorerFiles(BaseModel):
    """A scorer found on this machine, and the name of its scores table."""

    model_config = ConfigDict(frozen=True)

    name: str
    axis: Axis
    kind: ScorerKind = "head"
    path: Path | None
    precision: Precision = "float32"
    fingerprint: str
    reasoning: Reasoning = "ignore"
    # Of a classifier: what it reads of a turn, and whether its values have a scale of their own.
    classifier_text: ClassifierText | None = None
    raw: bool = False
    # Of a judge: how often each text is asked about.
    votes: int = 1
    # The limits do not affect scores, so they are excluded from the record of a selection.
    limits: ServedLimits | None = Field(None, exclude=True)

    @property
    def slug(self) -> str:
        """A short name for the scores table, different for every fingerprint."""
        made = "raw-" if self.raw else "judged-" if self.kind == "judge" else ""
        read = "-reasoning" if self.axis == "quality" and self.reasoning == "score" else ""
        return f"{made}{self.axis}-{self.fingerprint[:12]}{read}"


def load_scorer(
    name_or_path: str,
    axis: Axis,
    device: str = "auto",
    dtype: Precision | Literal["auto"] = "auto",
    max_tokens_per_batch: int | None = None,
    store: Path | None = None,
    limits: ServedLimits | None = None,
    classifier_text: ClassifierText | None = None,
    judge_votes: int = 1,
) -> Scorer:
    """Load the scorer of an axis: "laptop", "fast", a trained folder, a causal LM, a classifier, or a judge.

    "laptop" is the shipped head; "fast" a head on a static encoder, and both are made at first use on this machine.
    A causal LM is a folder, a hub name, or a served model: http://HOST:PORT/v1#MODEL, whose answers are cached in the
    folder `store`. A classifier is a folder or hub name of a model for sequence classification, such as a reward model;
    `classifier_text` says what it reads of a turn: "chat", "pair", "answer" or "instruction". A judge is a served chat
    model: judge+http://HOST:PORT/v1#MODEL, or judge+MODEL at OpenAI, asked `judge_votes` times about each text. `dtype`
    is the precision; a head uses that of its encoder. `max_tokens_per_batch` limits batches; the default depends on the
    device. `limits`: request limits of a served model, by default from DEITA_LLM__* variables. Raises ModelError if
    there is no such scorer, or it scores the other axis.
    """
    if is_judge(name_or_path):
        return JudgedScorer(name_or_path, axis, judge_votes, store, limits)
    if is_served(name_or_path):
        return ServedScorer(name_or_path, axis, store, limits)
    if name_or_path == FAST_ENCODER:
        return _fast_head(axis, device, max_tokens_per_batch)
    folder = _folder(name_or_path, axis)
    kind = _kind(folder)
    if kind == "head":
        return _head(folder, name_or_path, axis, device, max_tokens_per_batch)
    if kind == "classifier":
        from deita_core.scorers.classifier import ClassifierScorer

        return ClassifierScorer(folder, axis, device, dtype, max_tokens_per_batch, classifier_text)
    from deita_core.scorers.causal import CausalScorer

    max_tokens = _read_tokens(folder, name_or_path, axis)
    return CausalScorer(folder, axis, device, dtype, max_tokens_per_batch, max_tokens)


def find_scorer(
    name_or_path: str,
    axis: Axis,
    encoder: EncoderFiles,
    precision: Precision | None = None,
    limits: ServedLimits | None = None,
    classifier_text: ClassifierText | None = None,
    judge_votes: int = 1,
) -> ScorerFiles:
    """Find a scorer and load as little as possible; a head must fit this encoder's vectors.

    `precision`: of a language model, by default the best on this machine. `limits`, `classifier_text` and `judge_votes`
    as for `load_scorer`.

    The fingerprint covers everything that a score depends on: for a head also the encoder; for a served model or judge,
    which is not contacted, the model's name instead of its weights; for "fast", which is not made, what it is made
    from.
    """
    found = partial(ScorerFiles, name=name_or_path, axis=axis, reasoning=encoder.reasoning)
    if name_or_path == FAST_ENCODER:
        return found(kind="head", path=None, fingerprint=_on(encoder, _fast_fingerprint(axis, encoder)))
    if is_judge(name_or_path):
        fingerprint = find_judge(name_or_path, axis, judge_votes, limits).fingerprint
        return found(kind="judge", path=None, fingerprint=fingerprint, votes=judge_votes, limits=limits)
    if is_served(name_or_path):
        fingerprint = find_served(name_or_path, axis, limits).fingerprint
        return found(kind="served", path=None, fingerprint=fingerprint, limits=limits)
    folder = _folder(name_or_path, axis)
    kind = _kind(folder)
    if kind == "head":
        scorer = _head(folder, name_or_path, axis)
        scorer.check_encoder(encoder)
        return found(kind="head", path=folder, fingerprint=_on(encoder, scorer.fingerprint))
    precision = precision or best_precision()
    if kind == "classifier":
        from deita_core.scorers.classifier import classifier_fingerprint

        fingerprint = classifier_fingerprint(folder, precision, classifier_text)
        found = partial(found, classifier_text=classifier_text, raw=not are_scores(label_values(folder)))
        return found(kind="classifier", path=folder, precision=precision, fingerprint=fingerprint)
    from deita_core.models.causal_lm import causal_fingerprint

    fingerprint = causal_fingerprint(folder, precision, _read_tokens(folder, name_or_path, axis), "middle")
    return found(kind="causal", path=folder, precision=precision, fingerprint=fingerprint)


def load_found(files: ScorerFiles, encoder: EncoderFiles, store: Path | None = None) -> Scorer:
    """Load a scorer found earlier; `store` as for `load_scorer`. Raises ModelError if it has changed since then."""
    # A worker may have another processor type than the run's machine, so the precision is passed on.
    text = files.classifier_text
    found = find_scorer(files.name, files.axis, encoder, files.precision, classifier_text=text, judge_votes=files.votes)
    if found.fingerprint != files.fingerprint:
        where = files.path or files.name
        raise ModelError(f"The {files.axis} scorer in {where} has changed since the run began; run it again.")
    return load_scorer(
        files.name,
        files.axis,
        dtype=files.precision,
        store=store,
        limits=files.limits,
        classifier_text=text,
        judge_votes=files.votes,
    )


def _on(encoder: EncoderFiles, fingerprint: str) -> str:
    """The fingerprint of a head's scores: they depend on the vectors, so other vectors give other scores."""
    return content_id(f"{fingerprint} on {encoder.fingerprint}".encode())


def _fast_fingerprint(axis: Axis, encoder: EncoderFiles) -> str:
    from deita_core.scorers.training.fast import fast_fingerprint

    if encoder.name != FAST_ENCODER:
        raise ModelError(
            f"The {axis} scorer {FAST_ENCODER} reads vectors of the encoder {FAST_ENCODER}, not of {encoder.name}; use "
            f"that encoder, or train a head for this one."
        )
    return fast_fingerprint(axis, encoder)


def _fast_head(axis: Axis, device: str, max_tokens_per_batch: int | None) -> HeadScorer:
    from deita_core.scorers.training.fast import find_fast_head

    encoder = find_encoder(FAST_ENCODER)
    folder = find_fast_head(axis, encoder)
    return HeadScorer(folder, device, max_tokens_per_batch, _fast_fingerprint(axis, encoder))


def _head(
    folder: Path, name: str, axis: Axis, device: str = "auto", max_tokens_per_batch: int | None = None
) -> HeadScorer:  # fmt: skip
    scorer = HeadScorer(folder, device, max_tokens_per_batch)
    if scorer.axis != axis:
        raise ModelError(f"The scorer {name} scores {scorer.axis}; give one that scores {axis}.")
    return scorer


def _read_tokens(folder: Path, name: str, axis: Axis) -> int:
    """Return the number of tokens that a causal scorer reads: as many as it was trained on.

    A scorer trained here records this and its axis; raises ModelError if it scores the other axis.
    """
    from deita_core.scorers.training.records import read_card

    card = read_card(folder)
    if card and card.axis != axis:
        raise ModelError(f"The scorer {name} scores {card.axis}; give one that scores {axis}.")
    return card.max_tokens if card else RELEASED_TOKENS


def _kind(folder: Path) -> Literal["head", "causal", "classifier"]:
    """Return the kind of scorer in a folder: its config.json is a head's card or a model's configuration."""
    try:
        config = orjson.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return "head"
    if not isinstance(config, dict) or "architectures" not in config:
        return "head"
    architecture = str((config["architectures"] or [""])[0])
    return "classifier" if architecture.endswith("ForSequenceClassification") else "causal"


def _folder(name_or_path: str, axis: Axis) -> Path:
    if name_or_path == "laptop":
        return _SHIPPED / f"laptop-{axis}"
    if (folder := Path(local_model(name_or_path)).expanduser()).is_dir():
        return folder
    if name_or_path.count("/") != 1 or name_or_path.startswith((".", "/", "~")):
        raise ModelError(
            f"There is no scorer {name_or_path}; give laptop, fast, a folder with a scorer, or a hub name."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(name_or_path, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"])
        )
    except Exception as error:
        raise ModelError(
            f"The scorer {name_or_path} is neither a folder nor on the hub as seen from here ({cause(error)}); check "
            f"the name, or give a folder."
        ) from error
