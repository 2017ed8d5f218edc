import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deita_core.errors import ModelError
from deita_core.models.causal_lm import load_model
from deita_core.scorers import digit_reader
from deita_core.scorers.causal import expected_digit
from deita_core.scorers.digit_reader import DigitReader, batch_size, common_length

DIGITS = list(range(10, 16))
NEVER = 10**9


@pytest.fixture(scope="module")
def model(tiny_llama):
    return load_model(tiny_llama, "float32").eval()


@pytest.fixture(scope="module")
def reader(model):
    return DigitReader(model, DIGITS)


def prompts(common, lengths, seed=0):
    """Rows of so many tokens after `common` tokens that all of them begin with."""
    draw = np.random.default_rng(seed)
    begin = draw.integers(20, 500, common).tolist()
    return [begin + draw.integers(20, 500, n).tolist() for n in lengths]


def one_by_one(model, rows):
    """Scores of rows, each alone, from all logits of the whole model."""
    import torch

    with torch.no_grad():
        logits = [model(torch.tensor([row])).logits[0, -1, DIGITS].double().numpy() for row in rows]
    return expected_digit(np.array(logits))


class Passes:
    """What the decoder of a reader is given: ids computed in each pass, and whether a prefix came with them."""

    def __init__(self, reader):
        self.tokens, self.resumed = [], []
        self._decoder = reader._decoder

    def __enter__(self):
        self._handle = self._decoder.register_forward_pre_hook(self._note, with_kwargs=True)
        return self

    def __exit__(self, *_):
        self._handle.remove()

    def _note(self, _, __, given):
        self.tokens.append(given["input_ids"].numel())
        self.resumed.append(given.get("past_key_values") is not None)


def scores(model, rows, budget, prefix_rows):
    """Scores with a prefix shared from so many rows on, and the passes they took."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digit_reader, "ROWS_PER_PREFIX", prefix_rows)
        reader = DigitReader(model, DIGITS, budget)
        with Passes(reader) as passes:
            return expected_digit(reader.logits(rows)), passes


# -- the shared prefix


@given(
    st.integers(1, 60),
    st.lists(st.integers(1, 120), min_size=2, max_size=12),
    st.sampled_from([1, 40, 200, 4_096]),
    st.integers(0, 2**31),
)
@settings(max_examples=60)
def test_scores_are_the_same_with_a_shared_prefix_as_without(model, common, lengths, budget, seed):
    rows = prompts(common, lengths, seed)
    resumed, passes = scores(model, rows, budget, 2)
    plain, without = scores(model, rows, budget, NEVER)
    assert np.abs(resumed - plain).max() < 1e-5
    assert not any(without.resumed)
    if max(lengths) <= common:
        assert any(passes.resumed), "a prefix that is not used proves nothing"


def test_the_common_tokens_are_computed_once(model):
    rows = prompts(30, [10] * 40)
    _, passes = scores(model, rows, 200, 16)
    assert sum(passes.tokens) == 30 + 40 * 10
    assert passes.resumed == [False, True, True]


def test_rows_far_longer_than_the_prefix_do_not_go_on_from_it(model):
    rows = prompts(10, [10] * 20 + [300] * 20)
    found, passes = scores(model, rows, 1_024, 16)
    assert sum(n for n, resumed in zip(passes.tokens, passes.resumed, strict=True) if not resumed) == 20 * 310 + 10
    assert np.abs(found - one_by_one(model, rows)).max() < 1e-5


CALLS = {
    "nothing in common": [[20 + i, *row] for i, row in enumerate(prompts(0, range(1, 30)))],
    "one row": prompts(20, [9]),
    "the same row over and over": prompts(20, [9]) * 40,
    "one row is where all others begin": prompts(20, [0, *range(1, 30)]),
    "a single token each": [[20 + i % 3] for i in range(30)],
}


@pytest.mark.parametrize("rows", CALLS.values(), ids=CALLS.keys())
def test_any_rows_score_as_they_do_alone(model, reader, rows):
    assert expected_digit(reader.logits(rows)) == pytest.approx(one_by_one(model, rows), abs=1e-5)


def test_no_rows_have_no_logits(reader):
    assert reader.logits([]).shape == (0, 6)


def test_nothing_is_left_of_a_call_or_of_a_batch(tiny_llama):
    """The rows of another prefix change nothing, and weights that are trained on between two calls are seen."""
    import torch

    model = load_model(tiny_llama, "float32").eval()
    reader, rows = DigitReader(model, DIGITS, 100), prompts(30, [5, 9, 20] * 10)
    first = reader.logits(rows)
    reader.logits(prompts(40, [7] * 30, seed=1))
    assert np.array_equal(reader.logits(rows), first)
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight.mul_(3)
    again = expected_digit(reader.logits(rows))
    assert np.abs(again - one_by_one(model, rows)).max() < 1e-5
    assert np.abs(again - expected_digit(first)).max() > 1e-3


def test_in_bfloat16_a_shared_prefix_moves_a_score_no_more_than_another_batch_does(tiny_llama):
    model, rows = load_model(tiny_llama, "bfloat16").eval(), prompts(30, range(1, 60))
    resumed, passes = scores(model, rows, 500, 16)
    plain, other = (scores(model, rows, budget, NEVER)[0] for budget in (500, 1))
    assert any(passes.resumed)
    assert np.abs(resumed - plain).max() < max(0.05, 3 * np.abs(other - plain).max())


# -- models that keep something else than the keys and values of every token


def other_model(**config):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 600, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
    sizes |= {"num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 256}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**sizes, **config})).eval()


OTHERS = {
    "a sliding window": {"model_type": "mistral", "sliding_window": 8, "initializer_range": 0.2},
    "states in place of attention": {"model_type": "mamba", "state_size": 8, "initializer_range": 0.2},
    "convolutions between": {"model_type": "lfm2", "layer_types": ["conv", "full_attention"], "initializer_range": 0.2},
    "capped logits": {"model_type": "gemma2", "initializer_range": 1.0},
}


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS.keys())
def test_a_model_without_such_a_cache_computes_every_row_in_full(config):
    model, rows = other_model(**config), prompts(30, range(1, 40))
    found, passes = scores(model, rows, 400, 2)
    assert not any(passes.resumed)
    plain = one_by_one(model, rows)
    assert found == pytest.approx(plain, abs=1e-5)
    assert np.std(plain) > 0.01


@pytest.mark.parametrize("model_type", ["qwen2", "gpt2", "opt", "bloom", "phi"])
def test_other_models_that_keep_them_go_on_from_a_prefix(model_type):
    """Whether they tell places apart by rotation, by a learned vector or by distance."""
    model, rows = other_model(model_type=model_type, initializer_range=0.2, ffn_dim=64), prompts(30, range(1, 40))
    found, passes = scores(model, rows, 400, 2)
    assert any(passes.resumed)
    assert found == pytest.approx(one_by_one(model, rows), abs=1e-5)


def test_a_model_that_misplaces_what_follows_a_prefix_is_never_given_one(tiny_llama):
    import torch

    def at_zero(_, args, given):
        if given.get("past_key_values") is not None:
            given["position_ids"] = torch.arange(given["input_ids"].shape[1])[None]
        return args, given

    for precision in ("float32", "bfloat16"):
        model, rows = load_model(tiny_llama, precision).eval(), prompts(30, range(1, 40))
        right = one_by_one(model, rows)
        model.model.register_forward_pre_hook(at_zero, with_kwargs=True)
        found, passes = scores(model, rows, 400, 2)
        assert not any(passes.resumed)
        assert np.abs(found - right).max() < (1e-5 if precision == "float32" else 0.2)


# -- batches


@given(st.lists(st.integers(1, 300), min_size=1), st.integers(1, 4_096))
def test_batches_hold_every_row_within_the_budget(lengths, budget):
    left = sorted(lengths, reverse=True)
    while left:
        n = batch_size(left, budget)
        assert 1 <= n <= len(left)
        assert n == 1 or n * left[0] <= budget
        left = left[n:]


@pytest.mark.parametrize("budget", [1_024, 2_048, 8_192, 32_768])
def test_little_of_what_is_computed_is_padding(budget):
    """The lengths of 500 prompts, as spread out as those of a real pool."""
    lengths = np.random.default_rng(0).lognormal(4.8, 0.8, 500).astype(int).clip(30, 2_047)
    left, computed = sorted(lengths.tolist(), reverse=True), 0
    while left:
        n = batch_size(left, budget)
        computed += n * left[0]
        left = left[n:]
    assert 1 - lengths.sum() / computed < 0.05


def test_a_few_short_rows_are_one_batch_whatever_their_lengths():
    assert batch_size([60, 50, 31, 12, 5, 2], 2_048) == 6


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1))
def test_the_common_length_is_that_of_every_pair_and_leaves_a_token_to_each_row(rows):
    n = common_length(rows)
    assert all(row[:n] == rows[0][:n] and len(row) > n for row in rows)
    longer = {tuple(row[: n + 1]) for row in rows}
    assert len(longer) > 1 or min(map(len, rows)) == n + 1


# -- memory


def full_above(reader, tokens):
    """Memory that holds so many tokens of a batch, and no more."""
    import torch

    tried = []

    def full(_, __, given):
        tried.append(given)
        assert len(tried) < 1_000, "it goes on for ever"
        if given["input_ids"].numel() > tokens:
            raise torch.cuda.OutOfMemoryError("full")

    reader._decoder.register_forward_pre_hook(full, with_kwargs=True)


def test_batches_on_a_shared_prefix_are_halved_until_they_fit_in_memory(tiny_llama):
    model, rows = load_model(tiny_llama, "float32").eval(), prompts(30, [6] * 64)
    right = one_by_one(model, rows)
    reader = DigitReader(model, DIGITS, 4_096)
    with Passes(reader) as passes:
        full_above(reader, 100)
        assert expected_digit(reader.logits(rows)) == pytest.approx(right, abs=1e-5)
    assert passes.tokens == [30, 384, 192, 96, 96, 96, 96]
    assert passes.resumed == [False] + [True] * 6


def test_a_row_that_does_not_fit_alone_is_named_by_its_whole_length(tiny_llama):
    reader = DigitReader(load_model(tiny_llama, "float32").eval(), DIGITS)
    full_above(reader, 50)
    with pytest.raises(ModelError, match="A text of 90 tokens does not fit"):
        reader.logits(prompts(30, [60] * 20))
