import shutil
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deita_core.conversation import conversation
from deita_core.errors import InputError, ModelError
from deita_core.models.causal_lm import load_tokenizer
from deita_core.models.encoder_spec import LAPTOP_ENCODER, MAX_TOKENS, find_encoder
from deita_core.models.lm_encoder import LanguageModelEncoder, render
from tests.support.paths import SHARED
from tests.support.tiny_llama import make_tiny_llama, make_tokenizer

GOLDEN = SHARED / "golden/tiny_llama"
POOLINGS = ("last", "mean", "weighted")
POSITIONS = 512
TEXTS = [
    "User: How do I bake bread?\nAssistant: Mix, knead, wait 6 h.",
    "User: Hi\nAssistant: Hello!",
    "User: 为什么天空是蓝色的？\nAssistant: 因为散射。",
    "User: Write fib(n).\nAssistant: def fib(n):\n    a, b = 0, 1\n    return a",
    "User: " + "Explain TCP. " * 20 + "\nAssistant: " + "TCP is a protocol. " * 12,
    "😀",
    "User: 1 2 3\nAssistant: 4",
    "User: a\nAssistant: b" * 200,
    "User: 1 2 3\nAssistant: 4 ",
    "Tool: {}\n</s> an end within",
]
# The template of a model that knows no system or tool messages and wants roles in turn.
STRICT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] != ['user', 'assistant'][loop.index0 % 2] %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
)
LENIENT = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}<|end|>"
DATED = "Today is {{ strftime_now('%H:%M:%S.%f, %d %b %Y') }}." + LENIENT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_llama(tmp_path_factory.mktemp("models") / "lm", max_position_embeddings=POSITIONS)


def found(folder, pooling="last", storage="float32", precision="float32"):
    return find_encoder(str(folder), precision, pooling, storage)


def encoder_of(folder, pooling="last", budget=None, precision="float32"):
    return LanguageModelEncoder(found(folder, pooling, precision=precision), "cpu", budget)


def plain_states(folder, texts, longest=POSITIONS):
    """The last layer of every text by itself, as transformers gives it: (tokens, d) each."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokenizer.truncation_side = "right"
    for text in texts:
        tok = tokenizer(text, return_tensors="pt", truncation=True, max_length=longest)
        with torch.no_grad():
            yield model(**tok, output_hidden_states=True).hidden_states[-1][0].double().numpy()


def plainly_pooled(states, pooling):
    weights = {"last": np.eye(len(states))[-1], "mean": np.ones(len(states)), "weighted": np.arange(len(states)) + 1.0}
    vector = weights[pooling] @ states
    return vector / np.linalg.norm(vector)


@pytest.fixture(scope="module")
def plain(folder):
    """Vectors of the texts, one at a time, for every pooling."""
    states = list(plain_states(folder, TEXTS))
    return {pooling: np.stack([plainly_pooled(s, pooling) for s in states]) for pooling in POOLINGS}


def shuffled(n, seed=5):
    return np.random.default_rng(seed).permutation(n)


# -- vectors


@pytest.mark.parametrize("budget", [1, 2, 7, 33, 128, 700, 4_096])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_vectors_are_those_of_the_plain_model_one_text_at_a_time(pooling, budget, folder, plain):
    order = shuffled(len(TEXTS), budget)
    encoded = encoder_of(folder, pooling, budget).encode([TEXTS[i] for i in order])
    assert encoded.vectors.dtype == np.float32 and encoded.n_tokens.dtype == np.int32
    assert np.abs(encoded.vectors - plain[pooling][order]).max() <= 1e-5


def test_the_three_poolings_differ(plain):
    alike = [np.sum(plain[a] * plain[b], axis=1) for a, b in (("last", "mean"), ("mean", "weighted"))]
    assert all(np.median(cosines) < 0.999 for cosines in alike)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_side_a_tokenizer_pads_and_cuts_changes_nothing(side, pooling, folder, plain, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / side))
    config = orjson.loads((copy / "tokenizer_config.json").read_bytes())
    config |= {"padding_side": side, "truncation_side": side, "pad_token": "</s>"}
    (copy / "tokenizer_config.json").write_bytes(orjson.dumps(config))
    assert load_tokenizer(copy).padding_side == side
    assert np.abs(encoder_of(copy, pooling, 300).encode(TEXTS).vectors - plain[pooling]).max() <= 1e-5


@pytest.mark.parametrize("family", ["GPT2", "Mistral", "Qwen2", "GPTNeoX"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_other_families_are_read_as_well(family, pooling, tmp_path):
    import torch
    import transformers

    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=POSITIONS, initializer_range=0.2, bos_token_id=0, eos_token_id=1, sliding_window=700,
        **({} if family == "GPTNeoX" else {"num_key_value_heads": 2}),
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / family)
    make_tokenizer().save_pretrained(tmp_path / family)
    expected = [plainly_pooled(states, pooling) for states in plain_states(tmp_path / family, TEXTS)]
    encoder = encoder_of(tmp_path / family, pooling, 600)
    assert encoder.files.dim == 32
    assert np.abs(encoder.encode(TEXTS).vectors - np.stack(expected)).max() <= 1e-5


@pytest.mark.realdata
@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the golden model is not at {GOLDEN}")
@pytest.mark.parametrize("budget", [1, 64, 4_096])
def test_vectors_of_the_golden_llama_are_those_of_the_plain_model(budget):
    states = list(plain_states(GOLDEN, TEXTS, MAX_TOKENS))
    for pooling in POOLINGS:
        expected = np.stack([plainly_pooled(s, pooling) for s in states])
        assert np.abs(encoder_of(GOLDEN, pooling, budget).encode(TEXTS).vectors - expected).max() <= 1e-5


CONVERSATIONS = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=90), min_size=1, max_size=9)


@settings(max_examples=25)
@given(CONVERSATIONS, st.integers(1, 4_096), st.sampled_from(POOLINGS))
def test_a_vector_does_not_depend_on_the_texts_beside_it(folder, texts, budget, pooling):
    together = encoder_of(folder, pooling, budget).encode(texts)
    alone = [encoder_of(folder, pooling).encode([text]) for text in texts[:3]]
    for i, one in enumerate(alone):
        assert np.abs(together.vectors[i] - one.vectors[0]).max() <= 1e-5
        assert together.n_tokens[i] == one.n_tokens[0]


def test_bfloat16_is_near_float32_and_depends_little_on_the_batch(folder):
    full = encoder_of(folder).encode(TEXTS).vectors
    batched, alone = (encoder_of(folder, "last", budget, "bfloat16").encode(TEXTS).vectors for budget in (4_096, 1))
    assert 1e-6 < 1 - np.sum(full * batched, axis=1).min() < 5e-3
    assert np.sum(batched * alone, axis=1).min() > 0.999


def test_every_vector_is_of_length_one(folder):
    vectors = encoder_of(folder, "mean").encode(TEXTS).vectors.astype(np.float64)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6


def test_no_texts_are_no_vectors(folder):
    encoded = encoder_of(folder).encode([])
    assert encoded.vectors.shape == (0, 64) and encoded.n_tokens.shape == (0,)


def test_a_text_without_a_token_is_named(folder):
    encoder = encoder_of(folder)
    encoder.tokenizer.backend_tokenizer.post_processor = None
    with pytest.raises(InputError, match="Text 1 of 2"):
        encoder.encode(["User: a", ""])


# -- cutting


def test_a_long_conversation_is_cut_at_its_end(tmp_path):
    """Paper: 2,048 tokens, though the model has more positions."""
    folder = make_tiny_llama(tmp_path / "long", max_position_embeddings=8_192)
    encoder, tokenizer = encoder_of(folder), load_tokenizer(folder)
    long = "User: " + "bread 1 " * 3_000
    expected = plainly_pooled(next(plain_states(folder, [long], 2_048)), "last")
    encoded = encoder.encode([long, long + "\nAssistant: an end nobody reads"])
    assert np.abs(encoded.vectors - expected).max() <= 1e-5
    assert encoded.n_tokens[0] == len(tokenizer(long)["input_ids"]) > 6_000


def test_a_model_of_fewer_positions_cuts_there(folder, plain):
    long = TEXTS[7]
    assert len(load_tokenizer(folder)(long)["input_ids"]) > POSITIONS
    assert np.array_equal(*encoder_of(folder).encode([long, long + " more"]).vectors)


# -- memory


def test_memory_that_runs_out_halves_the_batch_and_goes_on(folder, plain):
    import torch

    encoder, tokens = encoder_of(folder, "last", 100_000), []

    def full(_, __, given):
        tokens.append(given["input_ids"].numel())
        if tokens[-1] > POSITIONS:
            raise torch.cuda.OutOfMemoryError("full")

    encoder._decoder.register_forward_pre_hook(full, with_kwargs=True)
    assert np.abs(encoder.encode(TEXTS).vectors - plain["last"]).max() <= 1e-5
    assert tokens[0] > POSITIONS
    tried = len(tokens)
    encoder.encode(TEXTS)
    assert max(tokens[tried:]) <= POSITIONS


def test_a_conversation_that_does_not_fit_at_all_is_one_sentence(folder):
    import torch

    def full(*_):
        raise torch.cuda.OutOfMemoryError("full")

    encoder = encoder_of(folder)
    encoder._decoder.register_forward_pre_hook(full)
    with pytest.raises(ModelError, match="does not fit in the memory of cpu") as refused:
        encoder.encode(TEXTS)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("weight", [0.0, float("nan")])
def test_states_without_direction_are_never_made_a_vector(weight, folder):
    encoder = encoder_of(folder)
    encoder._decoder.norm.weight.data.fill_(weight)
    with pytest.raises(ModelError, match="2 texts no finite vector in float32"):
        encoder.encode(TEXTS[:2])


# -- rendering


@pytest.fixture
def tokenizer(folder):
    """A tokenizer of its own, to give templates to."""
    return load_tokenizer(folder)


TALK = [("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "So long")]


def test_without_a_template_a_conversation_is_lines_of_roles(tokenizer):
    talk = conversation([("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("tool", "{}")])
    assert tokenizer.chat_template is None
    assert render(talk, tokenizer) == "System: Be brief.\nUser: Hi\nAssistant: Hello\nTool: {}"


def test_a_template_is_used_where_there_is_one(tokenizer):
    tokenizer.chat_template = LENIENT
    assert render(conversation(TALK), tokenizer) == "<|user|>Hi<|assistant|>Hello<|user|>Bye<|assistant|>So long<|end|>"


@pytest.mark.parametrize("extra", [("system", "Be brief."), ("tool", "{}")])
def test_a_conversation_that_the_template_refuses_is_plain(extra, tokenizer):
    tokenizer.chat_template = STRICT
    assert render(conversation(TALK), tokenizer) == "<s>[user] Hi[assistant] Hello[user] Bye[assistant] So long"
    refused = [extra, *TALK] if extra[0] == "system" else [*TALK, extra]
    expected = "\n".join(f"{role.capitalize()}: {text}" for role, text in refused)
    assert render(conversation(refused), tokenizer) == expected


@pytest.mark.parametrize("broken", ["{{ messages[99]['role'].nothing.at.all }}", "{{ 1 + 'a' }}", "{% if %}", "{# #}"])
def test_a_template_that_fails_or_says_nothing_is_no_failure(broken, tokenizer):
    tokenizer.chat_template = broken
    assert render(conversation([("user", "Hi"), ("assistant", "Hello")]), tokenizer) == "User: Hi\nAssistant: Hello"


def test_messages_of_one_role_are_joined_and_blank_ones_left_out(tokenizer):
    talk = conversation([("user", "Hi"), ("user", " "), ("user", "again"), ("assistant", "Hello"), ("tool", "\n")])
    assert render(talk, tokenizer) == "User: Hi\n\nagain\nAssistant: Hello"
    tokenizer.chat_template = STRICT
    assert render(talk, tokenizer) == "<s>[user] Hi\n\nagain[assistant] Hello"


def test_a_conversation_reads_the_same_on_every_day(tokenizer):
    tokenizer.chat_template = DATED
    first = render(conversation(TALK), tokenizer)
    assert first.startswith("Today is ") and "Hello" in first
    assert first == render(conversation(TALK), tokenizer)


def test_the_first_token_stands_once_whether_the_template_writes_it_or_not(folder, tokenizer):
    """By a template that has it, the text's own; else the tokenizer's."""
    written = render(conversation(TALK), tokenizer)
    tokenizer.chat_template = STRICT
    templated = render(conversation(TALK), tokenizer)
    rows = encoder_of(folder)._tokenize([templated, written])
    assert [row.count(tokenizer.bos_token_id) for row in rows] == [1, 1]
    assert rows[0] == tokenizer(templated, add_special_tokens=False)["input_ids"]


# -- finding


def test_a_folder_with_a_causal_language_model_is_an_encoder(folder):
    files = found(folder, "weighted", "float16", "bfloat16")
    assert (files.kind, files.dim, files.max_tokens) == ("causal", 64, 2_048)
    assert (files.pooling, files.storage, files.precision) == ("weighted", "float16", "bfloat16")


def test_the_papers_pooling_is_the_default(folder):
    assert find_encoder(str(folder)).pooling == "last"


def test_everything_that_changes_a_vector_changes_the_table(folder, tmp_path):
    other = make_tiny_llama(tmp_path / "other", seed=1)
    templated = Path(shutil.copytree(folder, tmp_path / "templated"))
    (templated / "chat_template.jinja").write_text(LENIENT)
    ways = [found(folder, pooling) for pooling in POOLINGS]
    ways += [found(folder, storage="float16"), found(folder, precision="bfloat16"), found(other), found(templated)]
    assert len({files.slug for files in ways}) == len(ways)


def test_the_same_model_elsewhere_has_the_same_table(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "README.md").write_text("other words")
    assert found(copy).fingerprint == found(folder).fingerprint
    assert found(copy).weights == found(folder).weights


def test_every_shard_of_the_weights_counts(folder, tmp_path):
    from transformers import AutoModelForCausalLM

    def resaved(name, change):
        copy = Path(shutil.copytree(folder, tmp_path / name))
        (copy / "model.safetensors").unlink()
        model = AutoModelForCausalLM.from_pretrained(folder)
        model.model.layers[1].mlp.down_proj.weight.data += change
        model.save_pretrained(copy, max_shard_size="150KB")
        assert len(list(copy.glob("*.safetensors"))) > 1
        return copy

    same, other = resaved("same", 0), resaved("other", 0.1)
    assert found(same).weights != found(other).weights and found(same).slug != found(other).slug
    assert np.abs(encoder_of(same).encode(TEXTS).vectors - encoder_of(folder).encode(TEXTS).vectors).max() <= 1e-6


def test_language_model_settings_leave_a_sentence_encoder_as_it_is(tiny_model):
    plain, told = find_encoder(str(tiny_model), "float32"), found(tiny_model, "mean", "float16")
    assert plain == told and plain.kind == "sentence" and plain.storage == "float32"


def test_vectors_of_the_laptop_encoder_stored_by_earlier_versions_stay_valid(laptop):
    assert laptop.files.slug == "encoder-002527bf65e5e79e"
    assert find_encoder(LAPTOP_ENCODER, "bfloat16").slug == "encoder-f9eca6b1dbb35ee9"


def edited(folder, tmp_path, **changes):
    copy = Path(shutil.copytree(folder, tmp_path / "edited"))
    config = orjson.loads((copy / "config.json").read_bytes()) | changes
    (copy / "config.json").write_bytes(orjson.dumps({k: v for k, v in config.items() if v is not None}))
    return copy


def test_a_model_that_is_not_causal_is_refused_when_it_is_looked_for(folder, tmp_path):
    with pytest.raises(ModelError, match="does not hold a sentence-transformers model"):
        found(edited(folder, tmp_path, architectures=["BertForMaskedLM"]))


@pytest.mark.parametrize("architectures", [[], None, "x", 7])
def test_odd_architectures_are_no_traceback(architectures, folder, tmp_path):
    with pytest.raises(ModelError):
        found(edited(folder, tmp_path, architectures=architectures))


def test_a_model_that_does_not_say_how_wide_it_is_is_one_sentence(folder, tmp_path):
    with pytest.raises(ModelError, match="how wide the model is"):
        found(edited(folder, tmp_path, hidden_size=None))


def test_a_language_model_without_safetensors_is_refused(folder, tmp_path):
    copy = edited(folder, tmp_path)
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        found(copy)
