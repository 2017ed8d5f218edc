"""Scorers: what says how complex an instruction is and how good an answer, from 1 to 6."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from deita_core.conversation import content_id
from deita_core.encoders import EncoderFiles
from deita_core.errors import ModelError
from deita_core.scorers.heads import Axis, HeadScorer

__all__ = ["Axis", "HeadScorer", "ScorerFiles", "find_scorer", "load_found", "load_scorer"]

_SHIPPED = Path(__file__).parent / "weights"


class ScorerFiles(BaseModel):
    """A scorer found on this machine and the table its scores go to."""

    model_config = ConfigDict(frozen=True)

    name: str
    axis: Axis
    path: Path
    fingerprint: str

    @property
    def slug(self) -> str:
        """A name for the scores table: short, and different for every fingerprint."""
        return f"{self.axis}-{self.fingerprint[:12]}"


def load_scorer(
    name_or_path: str, axis: Axis, device: str = "auto", max_tokens_per_batch: int | None = None
) -> HeadScorer:
    """Load the scorer of an axis: "laptop" for the shipped head, or a folder that holds a trained one.

    `max_tokens_per_batch` bounds the encoder's batches; by default it follows from the device. Raises ModelError
    where there is no such scorer, or it scores the other axis.
    """
    scorer = HeadScorer(_folder(name_or_path, axis), device, max_tokens_per_batch)
    if scorer.axis != axis:
        raise ModelError(f"The scorer {name_or_path} scores {scorer.axis}; give one that scores {axis}.")
    return scorer


def find_scorer(name_or_path: str, axis: Axis, encoder: EncoderFiles) -> ScorerFiles:
    """Find a scorer and check that it reads this encoder's vectors; the fingerprint covers both."""
    scorer = load_scorer(name_or_path, axis)
    scorer.check_encoder(encoder)
    fingerprint = _fingerprint(scorer, encoder)
    return ScorerFiles(name=name_or_path, axis=axis, path=_folder(name_or_path, axis), fingerprint=fingerprint)


def load_found(files: ScorerFiles, encoder: EncoderFiles) -> HeadScorer:
    """Load a scorer that was found before. Raises ModelError if it is another one by now."""
    scorer = load_scorer(files.name, files.axis)
    if _fingerprint(scorer, encoder) != files.fingerprint:
        raise ModelError(f"The {files.axis} scorer in {files.path} has changed since the run began; run it again.")
    return scorer


def _fingerprint(scorer: HeadScorer, encoder: EncoderFiles) -> str:
    # Scores follow from the vectors: other vectors, other scores.
    return content_id(f"{scorer.fingerprint} on {encoder.fingerprint}".encode())


def _folder(name_or_path: str, axis: Axis) -> Path:
    if name_or_path == "laptop":
        return _SHIPPED / f"laptop-{axis}"
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        raise ModelError(f"There is no scorer {name_or_path}; give laptop, or a folder that holds a trained head.")
    return folder
