"""A sentence encoder and heads with random weights, so small that thousands of texts take seconds."""

from pathlib import Path

import numpy as np

from deita_core.literals import Axis
from deita_core.models.encoder_spec import find_encoder
from deita_core.scorers.features import complexity_features, quality_features
from deita_core.scorers.heads import Head, HeadScorer, save_head

SHIPPED = Path(__file__).resolve().parents[1] / "deita_core" / "scorers" / "weights"
WORDS = "the a of bread salt fox 面 包 hello world ##s ##ing bake cat dog runs . , ? ! 1 2 3".split()  # noqa: SIM905
LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)]
DIM, WINDOW = 16, 32


def make_tiny_model(folder: Path, seed: int = 0) -> Path:
    """Write a sentence-transformers model of 16 dimensions with a window of 32 tokens; returns the folder."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    bert = folder.with_name(folder.name + "-bert")
    bert.mkdir(parents=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = list(dict.fromkeys([*special, *WORDS, *LETTERS, *("##" + letter for letter in LETTERS)]))
    (bert / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizerFast(vocab=str(bert / "vocab.txt"), model_max_length=WINDOW).save_pretrained(bert)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * DIM,
        max_position_embeddings=WINDOW,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(bert)
    transformer = Transformer(str(bert), max_seq_length=WINDOW)
    SentenceTransformer(modules=[transformer, Pooling(DIM)], device="cpu").save(str(folder))
    return folder


def make_head(folder: Path, axis: Axis, encoder: Path) -> Path:
    """Write a head with random weights for an encoder's vectors; returns the folder."""
    files = find_encoder(str(encoder), "float32")
    vectors = np.zeros((1, files.dim), np.float32)
    if axis == "complexity":
        features, _ = complexity_features(["a"], vectors)
    else:
        features, _ = quality_features(["a"], ["a"], vectors, vectors)
    width, draw = features.shape[1], np.random.default_rng(len(axis))
    head = Head(
        low=np.full(width, -5.0),
        high=np.full(width, 5.0),
        mean=np.zeros(width),
        scale=np.ones(width),
        weights=draw.normal(size=width) / np.sqrt(width),
        cuts=np.linspace(-3, 3, 5),
    )
    card = HeadScorer(SHIPPED / f"laptop-{axis}").card
    save_head(head, card.model_copy(update={"encoder": files.name, "encoder_weights": files.weights}), folder)
    return folder
