"""Train the laptop preset's scorer heads from examples/evolution and print their held-out figures.

    python examples/train_scorers.py [FOLDER]

Without FOLDER the shipped weights in deita_core/scorers/weights are written again.
"""

import sys
from pathlib import Path

import deita_core.scorers
from deita_core.literals import Axis
from deita_core.models.encoder_spec import find_encoder
from deita_core.models.sentence_encoder import SentenceEncoder
from deita_core.scorers.heads import save_head
from deita_core.scorers.training.examples import read_chains, shipped_chains, with_defects
from deita_core.scorers.training.head import model_card, train_head
from deita_core.scorers.training.metrics import figures_table

SHIPPED = Path(deita_core.scorers.__file__).parent / "weights"


def main(folder: Path) -> None:
    """Train both heads."""
    # float32 everywhere: the weights must not depend on what the machine at hand is good at.
    encoder = SentenceEncoder(find_encoder(precision="float32"), device="cpu")
    axes: tuple[Axis, Axis] = ("complexity", "quality")
    for axis in axes:
        examples = with_defects(read_chains(shipped_chains(axis), axis))
        head, card = train_head(axis, examples, encoder.files, lambda texts: encoder.encode(texts).vectors)
        target = folder / f"laptop-{axis}"
        save_head(head, card, target)
        (target / "README.md").write_text(model_card(card), encoding="utf-8")
        print(f"{axis} -> {target}\n{figures_table(card.figures)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED)
