"""Causal scorers beside the original way: `generate` on one text at a time, with logits of the whole vocabulary.

    python -m benchmarks.scoring [--rows 500] [--data ../shared/data] [--device cpu] [--seconds 60]

A Llama of 58M random parameters scores the first turns of a pool on both axes, in float32, and in bfloat16 if the
machine multiplies it. The plain way stops after about `--seconds`. Ours scores the same rows, once before and once
after it, since other work on the machine affects the figures. Then the share of a large matrix product's FLOP/s that
ours reaches, with a Llama of 7B on a GPU; `--hidden` and `--layers` make it smaller.
"""

import tempfile
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, cast, get_args

import numpy as np
import polars as pl
import torch
from torch.nn.modules import module as torch_module

from deita_core.conversation import Conversation, Message
from deita_core.literals import Axis, Precision
from deita_core.models.causal_lm import load_tokenizer
from deita_core.models.encoder_spec import best_precision
from deita_core.reading.pool import read_pool
from deita_core.scorers import digit_reader
from deita_core.scorers.causal import CausalScorer
from deita_core.scorers.digit_reader import DigitReader
from deita_core.scorers.digits import PromptTokenizer
from deita_core.scorers.prompts import scoring_prompt, texts_of

VOCABULARY = 32_000
MAX_TOKENS = 2_048
GOLDEN_TOKENIZER = Path("golden/tiny_llama")
WARM_UP = 20

Turn = tuple[str, str]


@dataclass
class Forwards:
    """The forward passes of a decoder: seconds, tokens, and padding tokens, one count per pass."""

    seconds: float = 0.0
    tokens: int = 0
    padded: list[torch.Tensor] = field(default_factory=list)
    began: list[float] = field(default_factory=list)

    @property
    def padding(self) -> int:
        """Number of padding tokens."""
        return int(sum(self.padded))


@dataclass(frozen=True)
class Timed:
    """One way of scoring: rows/s, scores, share of padding tokens, share of time outside the forward pass."""

    rate: float
    scores: np.ndarray
    padding: float
    outside: float


def main() -> None:
    """Print the tables."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument(
        "--seconds", type=float, default=60, help="after which the plain way stops, for each line of it"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--hidden", type=int, default=None, help="of the model for FLOP/s; 4096 on a GPU, else 1024")
    parser.add_argument("--layers", type=int, default=None, help="of the same model; 32 on a GPU, else 4")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_llama(Path(folder), options.data.parent / GOLDEN_TOKENIZER)
        turns = that_fit(first_turns(options.data, 2 * options.rows), Path(folder))[: options.rows]
        print(f"{options.device}, {torch.get_num_threads()} threads; {torch.__version__}", flush=True)
        compare(Path(folder), turns, options.device, options.seconds)
        large = options.device == "cuda"
        shape = options.hidden or (4_096 if large else 1_024), options.layers or (32 if large else 4)
        flops(Path(folder), turns, options.device, *shape)


# -- rows and model


def first_turns(data: Path, rows: int) -> list[Turn]:
    """First instruction and answer of conversations of the real pool, or of the example pool, repeated."""
    if (pool := data / "pool_real.parquet").exists():
        print(f"first turns of {pool.name}, drawn at random", end="; ")
        return turns_of(pl.read_parquet(pool, columns=["messages"]).sample(rows, seed=0, shuffle=True))
    print("no real pool there, so turns of examples/pool, repeated with a number added", end="; ")
    written = turns_of(read_pool(["examples/pool"])[0])
    repeated = (written[i % len(written)] for i in range(rows))
    return [(f"{asked} ({i})", f"{answer} ({i})") for i, (asked, answer) in enumerate(repeated)]


def that_fit(turns: list[Turn], folder: Path) -> list[Turn]:
    """The turns that need no truncation, which the plain way does not do."""
    prompts = PromptTokenizer(load_tokenizer(folder), "quality", MAX_TOKENS, MAX_TOKENS).encode(turns)
    return [turn for turn, prompt in zip(turns, prompts, strict=True) if not prompt.truncated]


def turns_of(frame: pl.DataFrame) -> list[Turn]:
    """The first turn of each conversation that has one."""
    conversations = (
        Conversation(tuple(Message(m["role"], m["content"]) for m in messages)) for messages in frame["messages"]
    )
    return [(c.turns[0].instruction, c.turns[0].response) for c in conversations if c.turns]


def llama(hidden: int, layers: int, device: str, precision: Precision) -> Any:
    """A Llama with random weights, in the proportions of the 7B model."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        # 2.69 times the hidden size, and heads of at most 128 dimensions, as in the released models.
        intermediate_size=hidden * 43 // 16,
        num_attention_heads=max(8, hidden // 128),
        max_position_embeddings=MAX_TOKENS,
        # Large enough for different scores of different texts.
        initializer_range=0.05,
    )
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, precision)).eval()


def make_llama(folder: Path, tokenizer: Path) -> None:
    """Write the model of 58M parameters to a folder, with LLaMA's tokenizer if it is there, else a byte tokenizer."""
    model = llama(512, 8, "cpu", "float32")
    model.save_pretrained(folder)
    if tokenizer.exists():
        load_tokenizer(tokenizer).save_pretrained(folder)
    else:
        byte_tokenizer().save_pretrained(folder)
    named = "LLaMA's tokenizer" if tokenizer.exists() else "a tokenizer of bytes"
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f}M random parameters, {named}", end="; ")


def byte_tokenizer() -> Any:
    """A tokenizer with one token per byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


# -- beside the plain way


def compare(folder: Path, turns: Sequence[Turn], device: str, seconds: float) -> None:
    """Print the table: both axes, each precision, with and without the shared prefix."""
    print(
        f"\n{'axis':<12}{'way':<18}{'in':<10}{'rows':>5}{'rows/s':>9}{'x plain':>9}{'x plain fp32':>14}"
        f"{'largest difference':>20}{'padding':>9}{'outside':>9}"
    )
    native = best_precision() if device == "cpu" else "bfloat16"
    for axis in get_args(Axis):
        base = 0.0
        for precision in dict.fromkeys(cast("tuple[Precision, ...]", ("float32", native))):
            base = compare_in(folder, axis, turns, device, precision, seconds, base)
    print(
        "'x plain' is beside the plain way in the same precision, 'x plain fp32' beside what the original does.\n"
        "The differences are of scores (1 to 6), from the plain way in the same precision.\n"
        "'outside' is the share of time not in the decoder's forward pass."
    )


def compare_in(
    folder: Path, axis: Axis, turns: Sequence[Turn], device: str, precision: Precision, seconds: float, base: float
) -> float:
    """Print the lines of one axis and precision; returns the rows/s of the plain way in float32."""
    scorer = CausalScorer(folder, axis, device, precision)
    original = Plain(folder, axis, device, precision)
    ways = {"ours": digit_reader.ROWS_PER_PREFIX, "ours, no prefix": len(turns) + 1}
    for some in (scorer, original):
        some.score(*columns(turns[:WARM_UP]))
    before = {way: ours(scorer, turns, rows) for way, rows in ways.items()}
    plain = original.run(turns, seconds)
    rows = turns[: len(plain.scores)]
    if len(rows) < len(turns):
        before = {way: ours(scorer, rows, least) for way, least in ways.items()}
    after = {way: ours(scorer, rows, least) for way, least in ways.items()}
    base = base or plain.rate
    show(axis, "plain", precision, plain, plain, base)
    for way in ways:
        rate = 2 / (1 / before[way].rate + 1 / after[way].rate)
        best = Timed(rate, after[way].scores, after[way].padding, (before[way].outside + after[way].outside) / 2)
        show(axis, way, precision, best, plain, base)
    return base


def show(axis: str, way: str, precision: str, timed: Timed, plain: Timed, base: float) -> None:
    """Print one line."""
    beside = ""
    if timed is not plain:
        difference = np.abs(timed.scores - plain.scores).max()
        beside = f"{difference:>20.1e}{timed.padding:>9.1%}{timed.outside:>9.1%}"
    print(
        f"{axis:<12}{way:<18}{precision:<10}{len(timed.scores):>5}{timed.rate:>9.1f}{timed.rate / plain.rate:>9.2f}"
        f"{timed.rate / base:>14.2f}{beside}",
        flush=True,
    )


class Plain:
    """The original way: tokenize one text, `generate` one token, take six logits of the whole vocabulary."""

    def __init__(self, folder: Path, axis: Axis, device: str, precision: Precision) -> None:
        from transformers import AutoModelForCausalLM

        self.axis, self.device = axis, device
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, precision)).to(device).eval()
        self.tokenizer = load_tokenizer(folder)
        self.digits = PromptTokenizer(self.tokenizer, axis, MAX_TOKENS, None).digits

    def score(self, instructions: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Scores (n,) of texts, one by one."""
        return np.array(
            [self.one(scoring_prompt(self.axis, *turn)) for turn in zip(instructions, responses, strict=True)]
        )

    def run(self, turns: Sequence[Turn], seconds: float) -> Timed:
        """Score as many rows as the time allows."""
        scores: list[float] = []
        with counted(self.device) as forwards:
            start = perf_counter()
            for turn in turns:
                scores.append(self.one(scoring_prompt(self.axis, *turn)))
                if perf_counter() - start > seconds:
                    break
            taken = perf_counter() - start
        return Timed(len(scores) / taken, np.array(scores), 0.0, 1 - forwards.seconds / taken)

    def one(self, prompt: str) -> float:
        """The expected digit after one prompt."""
        given = self.tokenizer(prompt, return_tensors="pt").to(self.device)
        made = self.model.generate(
            **given,
            max_new_tokens=1,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
            pad_token_id=self.tokenizer.eos_token_id,
        )
        likely = made.scores[0][0, self.digits].float().softmax(dim=0).cpu().numpy()
        return float(likely @ np.arange(1, 7))


def ours(scorer: CausalScorer, turns: Sequence[Turn], prefix_from: int) -> Timed:
    """Score all rows with our scorer, which shares a prefix from `prefix_from` rows on."""
    usual, digit_reader.ROWS_PER_PREFIX = digit_reader.ROWS_PER_PREFIX, prefix_from
    try:
        with counted(scorer._reader._device.type) as forwards:
            start = perf_counter()
            frame = scorer.score(*columns(turns))
            taken = perf_counter() - start
    finally:
        digit_reader.ROWS_PER_PREFIX = usual
    scores = frame["score"].to_numpy()
    return Timed(len(turns) / taken, scores, forwards.padding / forwards.tokens, 1 - forwards.seconds / taken)


def columns(turns: Sequence[Turn]) -> tuple[list[str], list[str]]:
    """Instructions and answers."""
    return [asked for asked, _ in turns], [answer for _, answer in turns]


@contextmanager
def counted(device: str) -> Iterator[Forwards]:
    """Count the forward passes of any Llama's decoder in this context."""
    from transformers import LlamaModel

    found = Forwards()

    def before(module: Any, args: Any) -> None:
        if isinstance(module, LlamaModel):
            found.began.append(now(device))

    def after(module: Any, args: Any, kwargs: Any, made: Any) -> None:
        if isinstance(module, LlamaModel):
            found.seconds += now(device) - found.began.pop()
            found.tokens += kwargs["input_ids"].numel()
            # Padding is token 0, which otherwise occurs only as the unknown or first token of a row.
            found.padded.append((kwargs["input_ids"][:, 1:] == 0).sum())

    handles = [
        torch_module.register_module_forward_pre_hook(before),
        torch_module.register_module_forward_hook(after, with_kwargs=True),
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def now(device: str) -> float:
    """The time once the device has finished all work."""
    if device == "cuda":
        torch.cuda.synchronize()
    return perf_counter()


# -- beside a bare matrix product


def flops(folder: Path, turns: Sequence[Turn], device: str, hidden: int, layers: int) -> None:
    """Print tokens/s in bfloat16, or the best precision here, and their FLOP/s beside a large matrix product's."""
    precision: Precision = "bfloat16" if device == "cuda" else best_precision()
    model = llama(hidden, layers, device, precision)
    weights = sum(p.numel() for p in model.get_decoder().layers.parameters())
    print(f"\nLlama of {hidden} x {layers}, {weights / 1e9:.2f}G weights in its layers, {precision}:")
    size = min(8_192, 2 * hidden)
    bare = matrix_flops(size, device, precision)
    for axis in get_args(Axis):
        prompts = PromptTokenizer(load_tokenizer(folder), axis, MAX_TOKENS, MAX_TOKENS)
        ids = [prompt.ids for prompt in prompts.encode([texts_of(axis, *turn) for turn in turns])]
        reader = DigitReader(model, prompts.digits)
        reader.logits(ids[:WARM_UP])
        with counted(device) as forwards:
            taken = timed(partial(reader.logits, ids), device)
        # Two operations per weight for each computed token that is not padding. Attention is not counted.
        reached = 2 * weights * (forwards.tokens - forwards.padding) / taken
        print(
            f"  {axis:<12}{sum(map(len, ids)) / taken:>10,.0f} tokens/s  {reached / 1e12:.2f} TFLOP/s, "
            f"{reached / bare:.0%} of the {bare / 1e12:.2f} of a product of {size} x {size}",
            flush=True,
        )
    if device != "cuda":
        print("  on a CPU, to see that it runs; what a GPU reaches is to be measured on one with --device cuda")


def matrix_flops(size: int, device: str, precision: Precision, times: int = 10) -> float:
    """FLOP/s of a square matrix product, the best of `times`."""
    a, b = (torch.randn(size, size, device=device).to(getattr(torch, precision)) for _ in "ab")
    return 2 * size**3 / min(timed(lambda: a @ b, device) for _ in range(times))


def timed(call: Callable[[], object], device: str) -> float:
    """Seconds of a call."""
    start = now(device)
    call()
    return now(device) - start


if __name__ == "__main__":
    main()
