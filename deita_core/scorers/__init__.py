"""Scorers: what says how complex an instruction is and how good an answer, from 1 to 6."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import orjson
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from deita_core.conversation import content_id
from deita_core.errors import ModelError, cause
from deita_core.literals import Axis, Precision
from deita_core.models.encoder_spec import EncoderFiles, best_precision
from deita_core.scorers.heads import HeadScorer
from deita_core.scorers.served import ServedLimits, ServedScorer, find_served, is_served

__all__ = ["Axis", "HeadScorer", "Scorer", "ScorerFiles", "find_scorer", "load_found", "load_scorer"]

_SHIPPED = Path(__file__).parent / "weights"
RELEASED_TOKENS = 2_048


class Scorer(Protocol):
    """What `load_scorer` returns."""

    axis: Axis
    fingerprint: str

    def score(self, instructions: Sequence[str], responses: Sequence[str] | None = None) -> pl.DataFrame:
        """Score texts: a frame of score (float64, null when unread) and status, one row each in their order."""


class ScorerFiles(BaseModel):
    """A scorer found on this machine and the table its scores go to."""

    model_config = ConfigDict(frozen=True)

    name: str
    axis: Axis
    kind: Literal["head", "causal", "served"] = "head"
    path: Path | None
    precision: Precision = "float32"
    fingerprint: str
    # How much a served one is asked is no part of what it is: no record of a selection has it here.
    limits: ServedLimits | None = Field(None, exclude=True)

    @property
    def slug(self) -> str:
        """A name for the scores table: short, and different for every fingerprint."""
        return f"{self.axis}-{self.fingerprint[:12]}"


def load_scorer(
    name_or_path: str,
    axis: Axis,
    device: str = "auto",
    dtype: Precision | Literal["auto"] = "auto",
    max_tokens_per_batch: int | None = None,
    store: Path | None = None,
    limits: ServedLimits | None = None,
) -> Scorer:
    """Load the scorer of an axis: "laptop" for the shipped head, a folder that `deita train` wrote, or a causal LM.

    A causal LM is a folder, a hub name, or one that is served: http://HOST:PORT/v1#MODEL, with what it answers kept in
    the folder `store`. `dtype` is what it computes in; a head takes that of its encoder. `max_tokens_per_batch` bounds
    batches; by default it follows from the device. `limits`: how much a served one is asked, by default what
    DEITA_LLM__* variables say. Raises ModelError where there is no such scorer, or it scores the
    other axis.
    """
    if is_served(name_or_path):
        return ServedScorer(name_or_path, axis, store, limits)
    folder = _folder(name_or_path, axis)
    if _kind(folder) == "head":
        return _head(folder, name_or_path, axis, device, max_tokens_per_batch)
    from deita_core.scorers.causal import CausalScorer

    max_tokens = _read_tokens(folder, name_or_path, axis)
    return CausalScorer(folder, axis, device, dtype, max_tokens_per_batch, max_tokens)


def find_scorer(
    name_or_path: str,
    axis: Axis,
    encoder: EncoderFiles,
    precision: Precision | None = None,
    limits: ServedLimits | None = None,
) -> ScorerFiles:
    """Find a scorer without loading more than it must; a head has to read this encoder's vectors.

    `precision`: what a language model computes in, by default what is best on this machine. `limits` as for
    `load_scorer`.

    The fingerprint covers everything a score follows from: for a head, the encoder as well; for a served scorer, which
    is not asked, the model's name in place of its weights.
    """
    if is_served(name_or_path):
        fingerprint = find_served(name_or_path, axis, limits).fingerprint
        return ScorerFiles(
            name=name_or_path, axis=axis, kind="served", path=None, fingerprint=fingerprint, limits=limits
        )
    folder = _folder(name_or_path, axis)
    if _kind(folder) == "head":
        scorer = _head(folder, name_or_path, axis)
        scorer.check_encoder(encoder)
        # Scores follow from the vectors: other vectors, other scores.
        fingerprint = content_id(f"{scorer.fingerprint} on {encoder.fingerprint}".encode())
        return ScorerFiles(name=name_or_path, axis=axis, path=folder, fingerprint=fingerprint)
    from deita_core.models.causal_lm import causal_fingerprint

    precision = precision or best_precision()
    fingerprint = causal_fingerprint(folder, precision, _read_tokens(folder, name_or_path, axis), "middle")
    return ScorerFiles(
        name=name_or_path, axis=axis, kind="causal", path=folder, precision=precision, fingerprint=fingerprint
    )


def load_found(files: ScorerFiles, encoder: EncoderFiles, store: Path | None = None) -> Scorer:
    """Load a scorer that was found before; `store` as for `load_scorer`. Raises ModelError if it has changed since."""
    # A worker's processor may be of another kind than the run's own.
    if find_scorer(files.name, files.axis, encoder, files.precision).fingerprint != files.fingerprint:
        where = files.path or files.name
        raise ModelError(f"The {files.axis} scorer in {where} has changed since the run began; run it again.")
    return load_scorer(files.name, files.axis, dtype=files.precision, store=store, limits=files.limits)


def _head(
    folder: Path, name: str, axis: Axis, device: str = "auto", max_tokens_per_batch: int | None = None
) -> HeadScorer:  # fmt: skip
    scorer = HeadScorer(folder, device, max_tokens_per_batch)
    if scorer.axis != axis:
        raise ModelError(f"The scorer {name} scores {scorer.axis}; give one that scores {axis}.")
    return scorer


def _read_tokens(folder: Path, name: str, axis: Axis) -> int:
    """Tokens of a turn that a causal scorer reads: as many as it was trained on.

    One trained here says so, and what it scores; raises ModelError where that is the other axis.
    """
    from deita_core.scorers.training.records import read_card

    card = read_card(folder)
    if card and card.axis != axis:
        raise ModelError(f"The scorer {name} scores {card.axis}; give one that scores {axis}.")
    return card.max_tokens if card else RELEASED_TOKENS


def _kind(folder: Path) -> Literal["head", "causal"]:
    """What a folder holds, by its config.json: a head's card, or the configuration of a language model."""
    try:
        config = orjson.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return "head"
    return "causal" if isinstance(config, dict) and "architectures" in config else "head"


def _folder(name_or_path: str, axis: Axis) -> Path:
    if name_or_path == "laptop":
        return _SHIPPED / f"laptop-{axis}"
    if (folder := Path(name_or_path).expanduser()).is_dir():
        return folder
    if name_or_path.count("/") != 1 or name_or_path.startswith((".", "/", "~")):
        raise ModelError(f"There is no scorer {name_or_path}; give laptop, a folder with a scorer, or a hub name.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name_or_path, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]))
    except Exception as error:
        raise ModelError(
            f"The scorer {name_or_path} is neither a folder nor on the hub as seen from here ({cause(error)}); check "
            f"the name, or give a folder."
        ) from error
