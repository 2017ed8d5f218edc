"""A Llama of two layers and random weights, tokenizers that make a digit one token or do not, chains to learn from."""

from pathlib import Path

from deita_core.scorers.prompts import scoring_prompt
from deita_core.scorers.training.examples import Example

AMOUNTS = ("tiny", "small", "middling", "large", "huge", "endless")
TOPICS = (
    "bread",
    "a fox",
    "the sea",
    "an old clock",
    "rain",
    "面包",
    "the moon",
    "a train",
    "salt",
    "a café",
    "tea",
    "ink",
)


def make_tokenizer(digits_alone: bool = True, specials: tuple[str, ...] = ()):
    """Byte-level BPE that knows the prompts' words; with digits_alone false a space and a digit are one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    parts = [pre_tokenizers.Digits(individual_digits=True)] if digits_alone else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*parts, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        initial_alphabet=byte_level.alphabet(),
        special_tokens=["<s>", "</s>", *specials],
        show_progress=False,
    )
    words = " ".join([*AMOUNTS, *TOPICS] * 2)
    texts = [scoring_prompt(axis, f"{words} 1 2 3 4 5 6", words) for axis in ("complexity", "quality")]
    tokenizer.train_from_iterator(texts * 2, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", additional_special_tokens=list(specials)
    )


def make_tiny_llama(folder: Path, seed: int = 0, digits_alone: bool = True, **changes) -> Path:
    """Write a tiny Llama of 512 positions with its tokenizer to a folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.1,
            "bos_token_id": 0,
            "eos_token_id": 1,
            **changes,
        }
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer(digits_alone).save_pretrained(folder)
    return folder


def telling_chains(axis="complexity", count=11):
    """Six rows a chain, of scores 1 to 6, each told by one word; the length tells nothing."""
    rows = []
    for topic in TOPICS[:count]:
        for score, amount in enumerate(AMOUNTS, start=1):
            text = f"Say a {amount} thing of {topic}."
            asked, answer = (text, None) if axis == "complexity" else (f"What of {topic}?", text)
            rows.append(Example(f"chain of {topic}", asked, answer, score))
    return rows
