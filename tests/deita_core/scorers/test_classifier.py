import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.alignment.chat import VICUNA
from deita_core.errors import InputError, ModelError
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.scorers import find_scorer, load_found, load_scorer
from deita_core.scorers.classifier import expected_values
from deita_core.scorers.label_values import label_values
from tests.support.tiny_classifiers import make_encoder_classifier, make_reward_llama

ASKED = [
    "How do I bake bread?",
    "Hi",
    "为什么天空是蓝色的？",
    "Write fib(n) in Python, 3 ways.",
    "the cat runs " * 6,
    "1 2 3",
    "Why?",
]
ANSWERED = [
    "Mix, knead, wait 6 h.",
    "Hello!",
    "因为散射。",
    "def fib(n): ...",
    "the dog runs " * 4,
    "4",
    "<|im_end|> the fox",
]
FIVE = ("1", "2", "3", "4", "5")
SIX = ("3", "1", "2", "6", "5", "4")


def loaded(folder, axis="quality", **options):
    return load_scorer(str(folder), axis, device="cpu", dtype=options.pop("dtype", "float32"), **options)


def files_of(folder, axis="quality", **options):
    encoder = EncoderFiles(name="e", path=Path(), dim=4, precision="float32", weights="w", fingerprint="e" * 32)
    return find_scorer(str(folder), axis, encoder, "float32", **options), encoder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Models by a name that says what they are."""
    place = tmp_path_factory.mktemp("classifiers")
    return {
        "llama without padding": make_reward_llama(place / "llama"),
        "llama padded with its end": make_reward_llama(place / "end", pad=1, template=VICUNA),
        "llama with an impossible padding": make_reward_llama(place / "impossible", pad=-1),
        "bert": make_encoder_classifier(place / "bert"),
        "deberta": make_encoder_classifier(place / "deberta", "deberta-v2"),
        "roberta": make_encoder_classifier(place / "roberta", "roberta"),
        "bert of five labels": make_encoder_classifier(place / "five", labels=FIVE),
        "bert of six labels": make_encoder_classifier(place / "six", labels=SIX),
    }


def plain_outputs(folder, texts):
    """The model's outputs for one text at a time; `texts`: what its tokenizer or its chat template takes."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    found = []
    for text in texts:
        if tokenizer.chat_template:
            roles = ("user", "assistant")[: len(text)]
            messages = [{"role": role, "content": part} for role, part in zip(roles, text, strict=True)]
            ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
        else:
            ids = tokenizer(*text, return_tensors="pt")
        ids = {name: ids[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in ids}
        if tokenizer.chat_template:
            ids.pop("token_type_ids", None)
        with torch.no_grad():
            found.append(model(**ids).logits[0].double().numpy())
    return np.array(found)


# -- the values

ONE_OUTPUT = [
    "llama without padding",
    "llama padded with its end",
    "llama with an impossible padding",
    "bert",
    "deberta",
    "roberta",
]


@pytest.mark.parametrize("name", ONE_OUTPUT)
@pytest.mark.parametrize("budget", [1, 100, 4_096])
@pytest.mark.parametrize("axis", ["quality", "complexity"])
def test_values_are_those_of_a_plain_run_of_one_text_at_a_time(folders, name, budget, axis):
    frame = loaded(folders[name], axis, max_tokens_per_batch=budget).score(ASKED, ANSWERED)
    assert frame.schema == {"score": pl.Float64, "status": pl.String, "raw": pl.Float64}
    texts = list(zip(ASKED, ANSWERED, strict=True)) if axis == "quality" else [(text,) for text in ASKED]
    plain = plain_outputs(folders[name], texts)[:, 0]
    assert frame["status"].to_list() == ["ok"] * len(ASKED)
    assert frame["raw"].to_list() == pytest.approx(plain.tolist(), abs=1e-4)
    assert np.std(plain) > 0.01, "texts that all have one value would prove nothing"
    assert frame["score"].null_count() == len(ASKED)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama without padding", "llama padded with its end", "bert"])
def test_the_side_on_which_the_tokenizer_pads_changes_no_value(folders, name, side, tmp_path):
    shutil.copytree(folders[name], tmp_path / "copy")
    config = tmp_path / "copy" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "padding_side": side}))
    found, usual = (loaded(folder).score(ASKED, ANSWERED)["raw"] for folder in (tmp_path / "copy", folders[name]))
    assert found.to_list() == pytest.approx(usual.to_list(), abs=1e-5)


def test_a_model_that_padding_disturbs_reads_rows_of_one_length_together(tmp_path):
    """XLNet takes its value from the last position, padded or not."""
    import torch
    from transformers import XLNetConfig, XLNetForSequenceClassification

    torch.manual_seed(0)
    folder = make_reward_llama(tmp_path / "xlnet", template=None)
    config = XLNetConfig(vocab_size=514, d_model=32, n_layer=2, n_head=4, d_inner=64, num_labels=1)
    XLNetForSequenceClassification(config).save_pretrained(folder)
    frame = loaded(folder, classifier_text="answer").score(ASKED, ANSWERED)
    plain = plain_outputs(folder, [(answer,) for answer in ANSWERED])[:, 0]
    assert frame["raw"].to_list() == pytest.approx(plain.tolist(), abs=1e-4)


def test_an_encoder_and_decoder_is_read_at_its_end_token(tmp_path):
    """BART takes its value from the last end token, and refuses rows that have none."""
    import torch
    from transformers import BartConfig, BartForSequenceClassification

    torch.manual_seed(0)
    folder = make_reward_llama(tmp_path / "bart", template=VICUNA)
    config = BartConfig(
        vocab_size=514, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, num_labels=1,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=256, init_std=0.3,
        bos_token_id=0, eos_token_id=1, pad_token_id=2, decoder_start_token_id=1, forced_eos_token_id=None,
    )  # fmt: skip
    BartForSequenceClassification(config).save_pretrained(folder)
    frame = loaded(folder).score(ASKED, ANSWERED)
    plain = plain_outputs(folder, list(zip(ASKED, ANSWERED, strict=True)))[:, 0]
    assert frame["raw"].to_list() == pytest.approx(plain.tolist(), abs=1e-4)


def test_values_in_bfloat16_are_near_and_seldom_tie(folders):
    exact, rounded = (
        loaded(folders["llama without padding"], dtype=dtype).score(ASKED, ANSWERED)["raw"].to_numpy()
        for dtype in ("float32", "bfloat16")
    )
    assert np.abs(exact - rounded).max() < 0.15 * np.ptp(exact)
    assert (np.float32(rounded).view(np.uint32) & 0xFFFF).any(), "the value itself is not rounded to bfloat16"


# -- labels


def test_labels_that_are_numbers_are_read_as_their_expected_value(folders):
    frame = loaded(folders["bert of five labels"]).score(ASKED, ANSWERED)
    logits = plain_outputs(folders["bert of five labels"], list(zip(ASKED, ANSWERED, strict=True)))
    likely = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert frame["raw"].to_list() == pytest.approx((likely * [1, 2, 3, 4, 5]).sum(axis=1).tolist(), abs=1e-4)


def test_labels_from_one_to_six_in_any_order_are_scores_already(folders):
    frame = loaded(folders["bert of six labels"]).score(ASKED, ANSWERED)
    assert frame.schema == {"score": pl.Float64, "status": pl.String}
    logits = plain_outputs(folders["bert of six labels"], list(zip(ASKED, ANSWERED, strict=True)))
    likely = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert frame["score"].to_list() == pytest.approx((likely * [3, 1, 2, 6, 5, 4]).sum(axis=1).tolist(), abs=1e-4)
    assert [files_of(folders[f"bert of {n} labels"])[0].raw for n in ("five", "six")] == [True, False]


@given(st.lists(st.floats(-1_000, 1_000), min_size=2, max_size=6))
def test_an_expected_value_is_within_the_labels(logits):
    values = np.arange(len(logits)) * 2.0 - 3
    [found] = expected_values(np.array([logits]), values)
    assert values[0] <= found <= values[-1]


def config_folder(tmp_path, **config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def named(*labels):
    return {str(i): label for i, label in enumerate(labels)}


def test_labels_in_words_are_read_in_the_order_that_the_configuration_lists(tmp_path):
    labels = named("High", "Low", "Medium")
    folder = config_folder(tmp_path, id2label=labels, ordered_labels=["Low", "Medium", "High"])
    assert label_values(folder).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"id2label": named("High", "Low")}, r"not numbers \(High, Low\); list them .* as ordered_labels"),
        ({}, r"LABEL_0, LABEL_1"),
        ({"id2label": named("1", "nan")}, "not numbers"),
        ({"id2label": named("a", "b"), "ordered_labels": ["a"]}, r"each of its labels once \(a, b\)"),
        ({"id2label": named("a", "b"), "ordered_labels": ["a", "b", "b"]}, "each of its labels once"),
        ({"id2label": named("a", "b"), "ordered_labels": "ab"}, "each of its labels once"),
        ({"id2label": named("1", "2"), "problem_type": "regression"}, "2 independent values"),
        ({"id2label": named("1", "2"), "problem_type": "multi_label_classification"}, "2 independent values"),
    ],
)
def test_outputs_that_cannot_be_read_as_one_value_are_refused_with_their_names(tmp_path, config, said):
    with pytest.raises(ModelError, match=said):
        label_values(config_folder(tmp_path, **config))


def test_one_output_has_no_labels(tmp_path):
    assert label_values(config_folder(tmp_path, id2label=named("LABEL_0"))) is None


# -- the texts


@pytest.mark.parametrize(
    ("form", "read"),
    [("pair", (ASKED[0], ANSWERED[0])), ("answer", (ANSWERED[0],)), ("instruction", (ASKED[0],))],
)
def test_the_setting_says_what_is_read_of_a_turn(folders, form, read):
    frame = loaded(folders["bert"], classifier_text=form).score(ASKED[:1], ANSWERED[:1])
    assert frame["raw"][0] == pytest.approx(plain_outputs(folders["bert"], [read])[0, 0], abs=1e-4)


def test_complexity_never_reads_the_answer(folders):
    for form in (None, "pair", "answer", "instruction"):
        scorer = loaded(folders["bert"], "complexity", classifier_text=form)
        assert scorer.score(ASKED)["raw"].equals(scorer.score(ASKED, ANSWERED)["raw"])


def test_a_chat_without_a_template_is_refused(folders):
    with pytest.raises(ModelError, match="no chat template; set classifier_text to pair, answer or instruction"):
        loaded(folders["bert"], classifier_text="chat")


def test_a_template_that_refuses_a_question_and_an_answer_is_refused(tmp_path):
    folder = make_reward_llama(tmp_path / "model", template="{{ raise_exception('system first') }}")
    with pytest.raises(ModelError, match=r"refuses a question and an answer \(system first\)"):
        loaded(folder)
    assert loaded(folder, classifier_text="answer").score(ASKED, ANSWERED)["raw"].null_count() == 0


def test_a_turn_that_the_template_refuses_costs_no_other_its_value(tmp_path):
    template = "{% for m in messages %}{% if 'fox' in m.content %}{{ raise_exception('no') }}{% endif %}{{ m.content }}"
    folder = make_reward_llama(tmp_path / "model", template=template + "{% endfor %}")
    frame = loaded(folder).score(["a cat", "a fox", "a dog"], ["runs", "runs", "bakes"])
    assert frame["status"].to_list() == ["ok", "unreadable", "ok"]
    assert [value is None for value in frame["raw"]] == [False, True, False]


@pytest.mark.parametrize("name", ["llama without padding", "bert", "roberta"])
def test_a_long_text_is_shortened_at_its_middle_and_says_so(folders, name):
    scorer = loaded(folders[name])
    long = [f"the {word} " + "cat dog " * 300 + f" {word}" for word in ("salt", "bread")]
    questions = ["why ?", "what is " * 300]
    frame = scorer.score([q for q in questions for _ in long], [a for _ in questions for a in long])
    assert frame["status"].to_list() == ["truncated"] * 4
    assert frame["raw"].n_unique() == 4, "the ends of a text are read, and so is what is asked"


def test_a_text_of_exactly_the_window_is_not_shortened(folders):
    scorer = loaded(folders["roberta"], classifier_text="answer")
    # A window of 64 positions, of which RoBERTa keeps one for padding, and two special tokens.
    fits = scorer.score(["why ?"] * 2, ["cat " * 61, "cat " * 62])
    assert fits["status"].to_list() == ["ok", "truncated"]


def test_unreadable_texts_have_a_status_and_no_value(folders):
    asked = ["a cat", " ", "a \ud83d", "a cat"]
    frame = loaded(folders["bert"]).score(asked, ["runs", "runs", "runs", ""])
    assert frame["status"].to_list() == ["ok", "unreadable", "unreadable", "unreadable"]
    assert frame["raw"].is_null().to_list() == [False, True, True, True]


def test_identical_texts_are_computed_once(folders, monkeypatch):
    scorer = loaded(folders["bert"])
    seen = []
    computed = scorer._reader.outputs
    monkeypatch.setattr(scorer._reader, "outputs", lambda rows: seen.append(len(rows)) or computed(rows))
    frame = scorer.score(["a cat"] * 5 + ["a dog"], ["runs"] * 6)
    assert seen == [2]
    assert frame["raw"].n_unique() == 2


def test_no_texts_are_no_rows_and_quality_needs_answers(folders):
    scorer = loaded(folders["bert"])
    assert scorer.score([], []).is_empty()
    with pytest.raises(InputError, match="give one response for each"):
        scorer.score(["a"])


# -- finding


def test_a_classifier_is_found_by_its_architecture_and_described(folders):
    files, _ = files_of(folders["deberta"])
    assert (files.kind, files.raw) == ("classifier", True)


def test_what_is_read_is_part_of_the_fingerprint(folders):
    found = [files_of(folders["bert"], classifier_text=form)[0].slug for form in (None, "pair", "answer")]
    assert len(set(found)) == 3


def test_another_template_is_another_scorer(folders, tmp_path):
    shutil.copytree(folders["llama without padding"], tmp_path / "copy")
    before, encoder = files_of(tmp_path / "copy")
    assert load_found(before, encoder).fingerprint == before.fingerprint
    (tmp_path / "copy" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert files_of(tmp_path / "copy")[0].fingerprint != before.fingerprint
    with pytest.raises(ModelError, match="has changed since the run began"):
        load_found(before, encoder)


def test_a_model_without_its_head_is_refused(folders, tmp_path, tiny_llama):
    shutil.copytree(tiny_llama, tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    config |= {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "reward"}}
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"lacks 1 weights, as score\.weight"):
        loaded(tmp_path / "copy")


def test_weights_that_are_not_safetensors_are_refused(folders, tmp_path):
    import torch

    shutil.copytree(folders["bert"], tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "copy" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="No sequence classifier can be loaded"):
        loaded(tmp_path / "copy")
