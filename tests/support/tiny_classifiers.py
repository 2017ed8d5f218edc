"""Sequence classifiers of random weights: a reward model as a Llama, classifiers as a BERT and a DeBERTa."""

from pathlib import Path

from deita_core.alignment.chat import CHATML
from tests.support.tiny_llama import make_tokenizer

CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")
WORDS = "the a of bread salt fox hello world bake cat dog runs why what is how ? . , ! 1 2 3 4 5 6".split()  # noqa: SIM905
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
}


def make_reward_llama(folder: Path, seed: int = 0, pad: int | None = None, template: str | None = CHATML, **changes):
    """Write a reward model of one output to a folder; `pad`: the id that its configuration names for padding."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(seed)
    sizes = {**SIZES, "vocab_size": 514, "num_key_value_heads": 2, "max_position_embeddings": 256}
    config = LlamaConfig(
        **{**sizes, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": pad, "num_labels": 1, **changes}
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer = make_tokenizer(specials=CHAT_TOKENS)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def make_encoder_classifier(folder: Path, kind: str = "bert", labels: tuple[str, ...] = ("value",), seed: int = 0):
    """Write a BERT, DeBERTa or RoBERTa with these labels and a window of 64 tokens to a folder."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = list(dict.fromkeys([*special, *WORDS, *letters, *("##" + letter for letter in letters)]))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    extra = {
        "bert": {},
        "roberta": {"pad_token_id": 0},
        "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 2},
    }[kind]
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(vocabulary),
        max_position_embeddings=64,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        **SIZES,
        **extra,
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder
