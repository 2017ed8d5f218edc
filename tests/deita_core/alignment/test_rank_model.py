"""Losses of answers against a plain run of transformers: one conversation at a time, without padding."""

import math

import pytest
import torch

from deita_core.alignment.chat import VICUNA
from deita_core.alignment.rank_model import RankModel, find_rank_model
from deita_core.conversation import conversation
from deita_core.errors import ModelError
from tests.support.tiny_llama import TOPICS, make_tiny_llama

ROWS = [
    *([("user", f"What of {topic}?"), ("assistant", f"{topic} " * (1 + 3 * i))] for i, topic in enumerate(TOPICS)),
    [("system", "Be brief."), ("user", "Name a fruit."), ("assistant", "Quince."), ("user", "And?")],
    [("user", "Hi"), ("assistant", "Hello"), ("user", "Bread?"), ("assistant", "Salt and a train " * 4)],
]
SAMPLES = [(f"{i:032x}", conversation(row)) for i, row in enumerate(ROWS)]


@pytest.fixture(scope="module")
def model(tiny_llama):
    return RankModel(find_rank_model(str(tiny_llama), 256, "float32"), device="cpu", max_tokens_per_batch=300)


class Plain:
    """A model of transformers that reads one text at a time, without this project's code."""

    def __init__(self, folder):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def ids(self, messages, prompt=False):
        """Tokens of messages (role, text) in Vicuna's format."""
        told = [{"role": role, "content": text} for role, text in messages]
        text = self.tokenizer.apply_chat_template(
            told, chat_template=VICUNA, add_generation_prompt=prompt, tokenize=False
        )
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def loss(self, before, answer):
        """The sum of -log p of each answer token, given all tokens before it."""
        with torch.inference_mode():
            logits = self.model(torch.tensor([[*before, *answer]])).logits[0].double()
        likely = logits.log_softmax(dim=1)
        return -sum(float(likely[len(before) - 1 + i, token]) for i, token in enumerate(answer))

    def answers(self, row, longest=10_000):
        """Of each answer the tokens before it and its own, of those within the first `longest` tokens."""
        for place, (role, _) in enumerate(row):
            if role == "assistant":
                before, upto = self.ids(row[:place], prompt=True), self.ids(row[: place + 1])
                assert upto[: len(before)] == before
                if upto[len(before) : longest]:
                    yield before, upto[len(before) : longest]


@pytest.fixture(scope="module")
def plain(tiny_llama):
    return Plain(tiny_llama)


def means(frame):
    return [loss / tokens for loss, tokens in frame.select("loss", "tokens").iter_rows()]


def test_losses_given_the_instruction_are_those_of_one_run_for_each_row(model, plain):
    found = model.asked(SAMPLES)
    expected = [[(plain.loss(*answer), len(answer[1])) for answer in plain.answers(row)] for row in ROWS]
    assert found["tokens"].to_list() == [sum(n for _, n in row) for row in expected]
    assert means(found) == pytest.approx([sum(x for x, _ in r) / sum(n for _, n in r) for r in expected], abs=1e-4)
    assert found["reason"].to_list() == [None for _ in ROWS]
    # Random weights have learnt nothing.
    assert min(means(found)) > 0.5 * math.log(512)


def test_losses_of_answers_alone_are_of_the_same_tokens_after_what_begins_an_answer(model, plain):
    start = [plain.tokenizer.bos_token_id, *plain.tokenizer("ASSISTANT:", add_special_tokens=False)["input_ids"]]
    found = model.alone(SAMPLES)
    sums = [sum(plain.loss(start, answer) for _, answer in plain.answers(row)) for row in ROWS]
    tokens = [sum(len(answer) for _, answer in plain.answers(row)) for row in ROWS]
    assert found["tokens"].to_list() == tokens
    assert means(found) == pytest.approx([x / n for x, n in zip(sums, tokens, strict=True)], abs=1e-4)


def test_losses_after_a_demonstration_are_those_of_both_texts_in_a_row(model, plain):
    pairs = [("a", 0, 5), ("b", 12, 13), ("c", 13, 12)]
    found = model.shown([(id_, SAMPLES[shown][1], SAMPLES[probe][1]) for id_, shown, probe in pairs])
    for (_, shown, probe), loss in zip(pairs, found["loss"], strict=True):
        # What follows the last answer is not shown.
        demonstration = [pair for pair in ROWS[shown] if pair != ("user", "And?")]
        before = plain.ids(demonstration)
        expected = sum(plain.loss([*before, *given], answer) for given, answer in plain.answers(ROWS[probe]))
        assert loss == pytest.approx(expected, abs=2e-3)


def test_a_long_row_is_cut_as_training_cuts_it(tiny_llama, plain):
    short = RankModel(find_rank_model(str(tiny_llama), 64, "float32"), device="cpu")
    given, alone = short.asked(SAMPLES), short.alone(SAMPLES)
    kept = [list(plain.answers(row, longest=64)) for row in ROWS]
    assert 0 < sum(not row for row in kept) < len(ROWS)
    for frame in (given, alone):
        assert frame["tokens"].to_list() == [sum(len(answer) for _, answer in row) for row in kept]
    for row, loss, reason in zip(kept, given["loss"], given["reason"], strict=True):
        assert loss == (pytest.approx(sum(plain.loss(*part) for part in row), abs=2e-3) if row else None)
        assert reason == (None if row else "no answer begins within 64 tokens")
    assert alone["reason"].to_list() == given["reason"].to_list()


def test_a_demonstration_that_does_not_fit_is_cut_or_the_pair_has_no_loss(tiny_llama, plain):
    short = RankModel(find_rank_model(str(tiny_llama), 128, "float32"), device="cpu")
    long = conversation([("user", "Say it."), ("assistant", "salt and tea " * 60)])
    fits, cut = short.shown([("a", SAMPLES[0][1], long), ("b", long, long)]).rows(named=True)
    assert fits["reason"] is None and fits["tokens"] == cut["tokens"]
    assert cut["loss"] == pytest.approx(cut["loss"]) and cut["reason"] is None
    none = RankModel(find_rank_model(str(tiny_llama), 512, "float32"), device="cpu")
    # The probe alone takes all 512 positions of the model.
    longest = conversation([("user", "Say it."), ("assistant", "salt and tea " * 400)])
    [row] = none.shown([("a", SAMPLES[0][1], longest)]).rows(named=True)
    assert (row["loss"], row["tokens"], row["reason"]) == (None, 0, "the demonstration does not fit before it")


def test_a_likelihood_that_is_no_number_is_a_reason_and_no_loss(model, plain):
    places = (0, TOPICS.index("a café"))
    samples = [SAMPLES[i] for i in places]
    first, second = (set(plain.ids(ROWS[i])) for i in places)
    token = min(second - first)
    with torch.inference_mode():
        weights = model._model.get_input_embeddings().weight
        before = weights[token].clone()
        weights[token] = float("nan")
        try:
            found = model.asked(samples)
        finally:
            weights[token] = before
    assert found["reason"].to_list() == [None, "its likelihood is not finite in float32"]
    assert found["loss"].is_null().to_list() == [False, True]


def test_the_fingerprint_changes_with_the_weights_the_precision_and_the_cut(tiny_llama, tmp_path):
    other = make_tiny_llama(tmp_path / "other", seed=1)
    found = [
        find_rank_model(str(folder), tokens, precision).slug
        for folder in (tiny_llama, other)
        for tokens in (64, 65)
        for precision in ("float32", "bfloat16")
    ]
    assert len(set(found)) == 8
    assert find_rank_model(str(tiny_llama), 64, "float32").slug == found[0]


def test_a_model_that_is_nowhere_is_an_error():
    with pytest.raises(ModelError, match="The model no-such/model is neither a folder, nor on the hub"):
        find_rank_model("no-such/model", 64)
