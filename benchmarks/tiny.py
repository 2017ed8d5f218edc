"""A sentence encoder of random weights, small enough that a pool of thousands is encoded in seconds."""

from pathlib import Path

WORDS = "the a of bread salt fox 面 包 hello world ##s ##ing bake cat dog runs . , ? ! 1 2 3".split()  # noqa: SIM905
LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)]
DIM, WINDOW = 16, 32


def make_tiny_model(folder: Path, seed: int = 0) -> Path:
    """Make a sentence-transformers model of 16 dimensions and a window of 32 tokens in a folder; returns the folder."""
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
