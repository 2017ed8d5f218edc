"""The heads named `fast`: trained at first use on the vectors of the encoder `fast`, kept in this machine's cache."""

from pathlib import Path

from deita_core.config.folders import cache_folder, make_once
from deita_core.conversation import content_id
from deita_core.literals import Axis
from deita_core.models.encoder_spec import FAST_ENCODER, EncoderFiles
from deita_core.scorers.features import FEATURES_VERSION
from deita_core.scorers.heads import save_head
from deita_core.scorers.training.examples import read_chains, shipped_chains, with_defects
from deita_core.scorers.training.head import model_card, train_head

# Increased whenever the same vectors and chains would give another head; part of its fingerprint.
HEADS_VERSION = 2
# The ridges that cross-validation chose, fixed: where two are close, processors might choose differently. On the
# complexity axis the order of single instructions counted, too (docs/scorer-figures.md).
RIDGES: dict[Axis, float] = {"complexity": 0.03, "quality": 0.3}


def fast_fingerprint(axis: Axis, encoder: EncoderFiles) -> str:
    """The fingerprint of an axis's head for a distilled encoder; needs no head.

    It is that of what the head is made from, because files of different processors differ in the last digits.
    """
    chains = "\n".join(content_id(file.read_bytes()) for file in shipped_chains(axis))
    return content_id(f"{axis} {HEADS_VERSION} {FEATURES_VERSION} {RIDGES[axis]} {encoder.weights} {chains}".encode())


def fast_head_folder(axis: Axis, encoder: EncoderFiles) -> Path:
    """Where an axis's head for a distilled encoder is kept once it is made."""
    return cache_folder() / "fast" / f"{axis}-{fast_fingerprint(axis, encoder)[:16]}"


def find_fast_head(axis: Axis, encoder: EncoderFiles) -> Path:
    """The folder of an axis's head for a distilled encoder; it is trained at first use, which takes up to a minute."""
    folder = fast_head_folder(axis, encoder)
    what = f"the {axis} head of {FAST_ENCODER}: {_DURATION[axis]}"
    make_once(folder, lambda empty: _train(axis, encoder, empty), what)
    return folder


_DURATION: dict[Axis, str] = {"complexity": "about ten seconds", "quality": "about half a minute"}


def _train(axis: Axis, encoder: EncoderFiles, folder: Path) -> None:
    from deita_core.models.static_encoder import StaticEncoder

    model = StaticEncoder(encoder)
    examples = with_defects(read_chains(shipped_chains(axis), axis))
    head, card = train_head(axis, examples, encoder, lambda texts: model.encode(texts).vectors, [RIDGES[axis]])
    save_head(head, card, folder)
    (folder / "README.md").write_text(model_card(card), encoding="utf-8")
