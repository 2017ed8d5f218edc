import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deita_core.errors import InputError, ModelError
from deita_core.models.causal_lm import load_tokenizer
from deita_core.scorers.causal import CausalScorer
from deita_core.scorers.digits import PromptTokenizer
from deita_core.scorers.prompts import scoring_prompt
from deita_core.scorers.training.causal import TuningSettings, read_card, split_by_seed, train_causal, training_rows
from deita_core.scorers.training.metrics import held_out_figures
from tests.support.paths import ROOT
from tests.support.tiny_llama import AMOUNTS, make_tiny_llama, telling_chains

pytestmark = pytest.mark.slow

AXES = ("complexity", "quality")


@pytest.fixture(scope="module")
def base(tiny_llama):
    return tiny_llama


def settings_of(base, **changes):
    given = {"epochs": 2, "batch": 8, "micro_batch": 4, "learning_rate": 3e-3, "patience": 100, **changes}
    return TuningSettings(base_model=str(base), **given)


def train(folder, settings, axis="complexity", examples=None, **kwargs):
    return train_causal(axis, examples or telling_chains(axis), folder, settings, device="cpu", **kwargs)


def same_weights(one, other):
    return (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


# -- what is trained on


def batch_of(base, axis, examples, max_tokens=2_048):
    from deita_core.scorers.training.trainer import collate

    prompts = PromptTokenizer(load_tokenizer(base), axis, max_tokens, 512)
    return collate(training_rows(prompts, examples))


@pytest.mark.parametrize("axis", AXES)
def test_what_is_trained_on_is_the_scoring_prompt_and_the_digit_after_it(base, axis):
    """Decoded from the very batch the model gets."""
    examples = [*telling_chains(axis)[:6], replace(telling_chains(axis)[7], instruction="A longer one? " * 9)]
    batch, tokenizer = batch_of(base, axis, examples), load_tokenizer(base)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["labels"].shape
    for ids, mask, labels, example in zip(*batch.values(), examples, strict=True):
        length = int(mask.sum())
        assert mask.tolist() == [1] * length + [0] * (len(mask) - length), "padded on the right only"
        prompt = scoring_prompt(axis, example.instruction, example.response)
        assert tokenizer.decode(ids[:length], skip_special_tokens=True) == f"{prompt}{example.score}"
        assert ids[: length - 1].tolist() == tokenizer(prompt)["input_ids"], "the ids that scoring reads"
        told = [place for place, label in enumerate(labels.tolist()) if label != -100]
        assert told == [length - 1], "one label, at the digit"
        assert tokenizer.decode([int(labels[told[0]])]) == str(example.score)


def test_a_long_text_is_trained_on_as_shortened_as_it_is_scored(base):
    long = replace(telling_chains()[3], instruction=" ".join(f"w{k}" for k in range(900)))
    batch = batch_of(base, "complexity", [long], max_tokens=100)
    scorer = CausalScorer(base, "complexity", "cpu", max_tokens=100)
    [(ids, truncated)] = scorer._prompts.encode([(long.instruction,)])
    assert truncated and batch["input_ids"][0, :-1].tolist() == ids
    assert len(batch["input_ids"][0]) <= 100


@pytest.mark.parametrize("adapter", [False, True])
def test_the_loss_is_that_of_the_digit_and_of_nothing_else(base, adapter):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, TrainingArguments

    from deita_core.scorers.training.trainer import DigitTrainer

    batch = batch_of(base, "quality", telling_chains("quality")[:5])
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    with torch.no_grad():
        expected = float(model(**batch).loss)
        if adapter:
            model = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=True)).eval()
        arguments = TrainingArguments(
            output_dir=str(base.parent / "unused"), use_cpu=True, report_to="none", disable_tqdm=True
        )
        trainer = DigitTrainer([], [], model=model, args=arguments, train_dataset=[])
        seen = []
        model.get_output_embeddings().register_forward_hook(lambda _, __, made: seen.append(made.shape[1]))
        assert float(trainer.compute_loss(model, batch)) == pytest.approx(expected, abs=1e-5)
    places = len(set(batch["attention_mask"].sum(dim=1).tolist()))
    assert seen == [places] and places < batch["input_ids"].shape[1] / 4, "no logits of the whole sequence"


def test_a_micro_batch_of_another_size_takes_the_same_steps(base, tmp_path):
    losses = {}
    for micro in (2, 8):
        told = losses[micro] = []
        settings = settings_of(base, method="full", micro_batch=micro, learning_rate=1e-3)
        train(tmp_path / str(micro), settings, report=lambda p, told=told: told.append(p.loss))
    assert losses[2] == pytest.approx(losses[8], rel=0.02)


# -- the split


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=40), st.floats(0.01, 0.99), st.integers(0, 9))
def test_a_split_never_parts_a_seed(seeds, share, draw):
    examples = [replace(telling_chains()[i % 66], seed=name) for i, name in enumerate(seeds)]
    if len(set(seeds)) < 2:
        with pytest.raises(InputError, match="1 seeds; give two"):
            split_by_seed(examples, share, draw)
        return
    kept, held_out = split_by_seed(examples, share, draw)
    assert kept and held_out and len(kept) + len(held_out) == len(examples)
    assert not {e.seed for e in kept} & {e.seed for e in held_out}
    assert split_by_seed(examples[::-1], share, draw)[1] == held_out[::-1], "whatever the order of the rows"


def test_a_split_never_parts_a_chain_that_names_no_seed():
    kept, held_out = split_by_seed(telling_chains(), 0.3, 0)
    assert kept and held_out and not {e.chain for e in kept} & {e.chain for e in held_out}


def test_another_seed_draws_another_split():
    drawn = {split_by_seed(telling_chains(), 0.2, seed)[1][0].chain for seed in range(8)}
    assert len(drawn) > 1


# -- learning


def pair_accuracy(scorer, examples):
    scores = scorer.score([e.instruction for e in examples], [e.response for e in examples])["score"].to_numpy()
    truth = np.array([e.score for e in examples], dtype=np.float64)
    return held_out_figures([e.chain for e in examples], truth, scores, scores, scores).scorer.pair_accuracy


@pytest.fixture(scope="module", params=[("lora", "complexity"), ("lora", "quality"), ("full", "quality")], ids=str)
def trained(request, base, tmp_path_factory):
    method, axis = request.param
    folder, told = tmp_path_factory.mktemp("trained") / method, []
    settings = settings_of(base, method=method, epochs=14, micro_batch=8, lora_dropout=0)
    return axis, folder, train(folder, settings, axis, report=told.append), told


def test_a_scorer_learns_what_tells_the_scores(trained):
    axis, folder, card, _ = trained
    accuracy = pair_accuracy(CausalScorer(folder, axis, "cpu"), telling_chains(axis))
    print(
        f"{card.method} {axis}: pairs of {len(telling_chains(axis))} rows in order {accuracy}, held out {card.figures}"
    )
    assert accuracy > 0.95
    assert card.figures.scorer.pair_accuracy > card.figures.length.pair_accuracy


def test_a_saved_scorer_scores_the_same_to_the_last_bit_whenever_it_is_loaded(trained):
    axis, folder, *_ = trained
    examples = telling_chains(axis)
    texts = [e.instruction for e in examples], [e.response for e in examples]
    one, other = (CausalScorer(folder, axis, "cpu") for _ in range(2))
    assert one.score(*texts).equals(other.score(*texts))
    assert one.fingerprint == other.fingerprint


def test_the_cards_figures_are_those_of_the_saved_folder(trained):
    axis, folder, card, _ = trained
    _, held_out = split_by_seed(telling_chains(axis), card.settings.held_out, card.settings.seed)
    assert pair_accuracy(CausalScorer(folder, axis, "cpu"), held_out) == card.figures.scorer.pair_accuracy
    assert (card.examples, card.held_out, card.figures.rows) == (60, 6, 6)


def test_the_folder_is_an_ordinary_language_model(trained):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, folder, card, _ = trained
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "README.md", "deita.json"}
    assert not names & {"checkpoints", "adapter_config.json", "deita.json.part"}
    model, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    assert type(model).__name__ == "LlamaForCausalLM"
    assert AutoTokenizer.from_pretrained(folder)("a 1").input_ids == load_tokenizer(card.base_model)("a 1").input_ids


def test_the_card_is_read_back_and_told_in_words(trained):
    axis, folder, card, _ = trained
    assert read_card(folder) == card
    words = (folder / "README.md").read_text()
    assert axis in words and "length alone" in words and f"{card.figures.scorer.pair_accuracy:.3f}" in words


def test_progress_tells_every_step_and_every_epochs_held_out_loss(trained):
    *_, card, told = trained
    steps = [p.step for p in told if p.held_out_loss is None]
    assert steps == list(range(1, 8 * 14 + 1)) and {p.steps for p in told} == {8 * 14}
    held_out = [p.held_out_loss for p in told if p.held_out_loss is not None]
    assert len(held_out) == 14 and round(min(held_out), 4) == card.held_out_loss
    assert [p.seconds for p in told] == sorted(p.seconds for p in told)


def test_a_folder_that_is_done_is_not_trained_again(trained):
    axis, folder, card, _ = trained
    told, written = [], (folder / "model.safetensors").stat().st_mtime_ns
    assert train(folder, card.settings, axis, report=told.append) == card
    assert not told and (folder / "model.safetensors").stat().st_mtime_ns == written


# -- the best epoch


def test_training_stops_when_nothing_is_gained_and_the_best_epoch_is_kept(base, tmp_path):
    """Scores drawn at random cannot be told of held-out rows: their loss rises as the others are learned by heart."""
    from deita_core.scorers.training.trainer import digit_loss

    draw, told = np.random.default_rng(3), []
    noise = [replace(e, score=int(draw.integers(1, 7))) for e in telling_chains()]
    settings = settings_of(base, method="full", epochs=30, patience=6, held_out=0.3, learning_rate=5e-3)
    card = train(tmp_path / "noise", settings, examples=noise, report=told.append)
    losses = [p.held_out_loss for p in told if p.held_out_loss is not None]
    assert len(losses) < 30
    assert len(losses) - 1 - int(np.argmin(losses)) == 6
    assert card.held_out_loss == round(min(losses), 4)
    _, held_out = split_by_seed(noise, 0.3, 0)
    scorer = CausalScorer(tmp_path / "noise", "complexity", "cpu", dtype="float32")
    prompts = scorer._prompts.encode([(e.instruction,) for e in held_out])
    logits = scorer._reader.logits([prompt.ids for prompt in prompts])
    loss = digit_loss(logits, np.array([e.score - 1 for e in held_out]))
    assert abs(loss - min(losses)) < 0.1 < losses[-1] - min(losses)


def test_a_run_that_had_stopped_early_is_finished_without_another_step(base, tmp_path):
    """Its README could not be written; in its place there stood a folder."""
    folder, told = tmp_path / "noise", []
    draw = np.random.default_rng(3)
    noise = [replace(e, score=int(draw.integers(1, 7))) for e in telling_chains()]
    settings = settings_of(base, method="full", epochs=30, patience=1, held_out=0.3)
    with pytest.raises(IsADirectoryError):
        train(folder, settings, examples=noise, report=lambda _: (folder / "README.md").mkdir(exist_ok=True))
    assert read_card(folder) is None
    (folder / "README.md").rmdir()
    assert train(folder, settings, examples=noise, report=told.append) == read_card(folder)
    assert not told


@pytest.mark.parametrize(
    ("losses", "over"),
    [([], False), ([3.0], False), ([3, 2, 1], False), ([1, 2], False), ([1, 2, 3], True), ([3, 1, 1, 1], True),
     ([math.nan, math.nan, math.nan], True), ([2, math.nan, 1], False)],
)  # fmt: skip
def test_training_is_over_when_patience_is_spent(losses, over):
    from deita_core.scorers.training.trainer import is_over

    assert is_over(losses, patience=2) == over


def test_training_that_diverges_is_an_error_and_no_scorer(base, tmp_path):
    with pytest.raises(ModelError, match="lower learning_rate"):
        train(tmp_path / "wild", settings_of(base, method="full", learning_rate=1e30, epochs=3))
    assert read_card(tmp_path / "wild") is None


# -- a run that breaks off

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from tests.support.tiny_llama import telling_chains
from deita_core.scorers.training.causal import train_causal
from deita_core.scorers.training.records import TuningSettings

def report(progress):
    if progress.step == 12:
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
settings = TuningSettings.model_validate_json(sys.argv[1])
train_causal("complexity", telling_chains(), Path(sys.argv[2]), settings, device="cpu", report=report)
"""


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_killed_run_goes_on_from_its_last_epoch_to_the_same_weights(base, tmp_path, method):
    """Killed at step 12, in the second of three epochs of eight steps; LoRA with dropout, so with random numbers."""
    settings = settings_of(base, method=method, epochs=3)
    run = subprocess.run(
        [sys.executable, "-c", KILLED, settings.model_dump_json(), str(tmp_path / "killed")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(ROOT)])},
        capture_output=True,
        check=False,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()[-2_000:]
    assert read_card(tmp_path / "killed") is None
    assert (tmp_path / "killed/checkpoints/checkpoint-8").is_dir()
    # As if it had been killed in the middle of writing another checkpoint.
    (tmp_path / "killed/checkpoints/checkpoint-16").mkdir()
    (tmp_path / "killed/checkpoints/checkpoint-16/trainer_state.json").write_text('{"global_step": 1')
    told = []
    resumed = train(tmp_path / "killed", settings, report=told.append)
    assert told[0].step == 9
    undisturbed = train(tmp_path / "undisturbed", settings)
    assert same_weights(tmp_path / "killed", tmp_path / "undisturbed")
    assert resumed.figures == undisturbed.figures and resumed.held_out_loss == undisturbed.held_out_loss


class StoppedError(Exception):
    pass


def interrupt(at):
    def report(progress):
        if progress.step == at and progress.held_out_loss is None:
            raise StoppedError

    return report


@pytest.mark.parametrize("change", [{"learning_rate": 1e-3}, {"seed": 1}, "examples"], ids=str)
def test_checkpoints_of_other_settings_or_examples_are_not_gone_on_from(base, tmp_path, change):
    with pytest.raises(StoppedError):
        train(tmp_path / "mine", settings_of(base), report=interrupt(9))
    examples = telling_chains()[:-6] if change == "examples" else None
    settings = settings_of(base, epochs=1, **({} if change == "examples" else change))
    told = []
    train(tmp_path / "mine", settings, examples=examples, report=told.append)
    assert told[0].step == 1


def test_a_folder_with_other_things_in_it_is_left_alone(base, tmp_path):
    for kept in (tmp_path / "notes.txt", tmp_path / "checkpoints/mine.txt"):
        kept.parent.mkdir(exist_ok=True)
        kept.write_text("mine")
        with pytest.raises(InputError, match="not empty"):
            train(tmp_path, settings_of(base))
        assert kept.read_text() == "mine"


def test_a_scorer_trained_otherwise_is_not_overwritten(base, tmp_path):
    train(tmp_path / "mine", settings_of(base, epochs=1))
    with pytest.raises(InputError, match="trained otherwise"):
        train(tmp_path / "mine", settings_of(base, epochs=2))


# -- settings and examples


@pytest.mark.parametrize("changes", [{"batch": 10, "micro_batch": 4}, {"epochs": 0}, {"rank": 4}, {"held_out": 1}])
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(ValidationError):
        TuningSettings(base_model="x", **changes)


def test_the_defaults_are_the_papers():
    settings = TuningSettings(base_model="x", method="full")
    assert (settings.epochs, settings.batch, settings.rate, settings.warmup) == (6, 512, 2e-5, 0.1)
    assert settings.max_tokens == 2_048
    assert all(field.description for field in TuningSettings.model_fields.values())


def test_blank_rows_are_left_out_and_counted(base, tmp_path):
    blank = [replace(telling_chains()[0], instruction=" "), replace(telling_chains()[7], instruction="\ud83d")]
    card = train(tmp_path / "some", settings_of(base, epochs=1), examples=[*telling_chains(), *blank])
    assert (card.left_out, card.examples + card.held_out) == (2, 66)


def test_figures_are_over_authored_rows_only(base, tmp_path):
    examples = [replace(e, authored=e.score < 4) for e in telling_chains()]
    card = train(tmp_path / "some", settings_of(base, epochs=1), examples=examples)
    assert (card.held_out, card.figures.rows) == (6, 3)


def test_no_authored_row_held_out_makes_no_figures_and_no_error(base, tmp_path):
    examples = [replace(e, authored=False) for e in telling_chains()]
    card = train(tmp_path / "some", settings_of(base, epochs=1), examples=examples)
    assert (card.figures.rows, card.figures.scorer.pair_accuracy) == (0, None)


def test_a_base_model_whose_tokenizer_splits_digits_otherwise_is_refused(tmp_path):
    other = make_tiny_llama(tmp_path / "gpt2-like", digits_alone=False)
    with pytest.raises(ModelError, match="does not make each digit one token"):
        train(tmp_path / "out", settings_of(other))


def test_a_base_model_that_is_nowhere_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no-such-model"):
        train(tmp_path / "out", settings_of(tmp_path / "no-such-model"))


def test_importing_it_is_cheap():
    heavy = {"torch", "transformers", "peft"}
    code = f"import sys, deita_core.scorers.training.causal; print(sorted({heavy} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_length_of_a_text_tells_little_of_its_score():
    """That what is learned above is not length."""
    lengths = [len(amount) for amount in AMOUNTS]
    assert lengths != sorted(lengths)
