import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file, save_file

from deita_core.errors import InputError, ModelError
from deita_core.models.encoder_spec import find_encoder
from deita_core.scorers import heads
from deita_core.scorers.features import FEATURES_VERSION, complexity_features, quality_features
from deita_core.scorers.heads import Head, HeadCard, HeadScorer, save_head
from deita_core.scorers.training.metrics import held_out_figures

DIM = 384
ASKED = [
    "How do I bake bread?",
    "为什么天空是蓝色的？",
    "Write fib(n) in Python.",
    "Name a prime.",
    "Hi",
    "Explain TCP. " * 40,
]
ANSWERED = ["Mix flour, water, salt and yeast.", "因为散射。", "def fib(n): ...", "7", "Hello!", "TCP is " * 90]
N = len(ASKED)


def vectors(seed):
    rows = np.random.default_rng(seed).normal(size=(N, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def head_for(axis, seed=0):
    """A head of random weights that fits the axis's features."""
    if axis == "complexity":
        features, _ = complexity_features(ASKED, vectors(1))
    else:
        features, _ = quality_features(ASKED, ANSWERED, vectors(1), vectors(2))
    draw = np.random.default_rng(seed)
    k = features.shape[1]
    weights, cuts = draw.normal(size=k) / k**0.5, np.sort(draw.normal(size=5))
    return Head(features.min(axis=0), features.max(axis=0), features.mean(axis=0), np.ones(k), weights, cuts)


def card_for(axis, **changes):
    facts = {
        "axis": axis,
        "encoder": "an/encoder",
        "encoder_weights": "0" * 64,
        "features_version": FEATURES_VERSION,
        "examples": 12,
        "ridge": 0.1,
        "figures": held_out_figures(["a", "a"], *np.array([[1.0, 2], [1, 3], [1, 2], [10, 20]])),
    }
    return HeadCard(**{**facts, **changes})


@pytest.fixture
def folder(tmp_path):
    """Saves a head of an axis and returns its folder."""

    def saved(axis, seed=0, name="head", **changes):
        save_head(head_for(axis, seed), card_for(axis, **changes), tmp_path / name)
        return tmp_path / name

    return saved


def scores(scorer, rows=range(N), asked=None, instructions=ASKED, answered=None):
    """Scores and statuses of some of the rows, given in that order."""
    rows = list(rows)
    asked = vectors(1) if asked is None else asked
    answered = vectors(2) if answered is None else answered
    frame = scorer.score_vectors(
        [instructions[i] for i in rows], asked[rows], [ANSWERED[i] for i in rows], answered[rows]
    )
    return frame["score"].to_list(), frame["status"].to_list()


# -- the model

ANY_HEAD = st.integers(0, 50).map(
    lambda seed: (
        lambda draw: Head(
            low=np.full(6, -3.0),
            high=np.full(6, 3.0),
            mean=draw.normal(size=6),
            scale=np.abs(draw.normal(size=6)) + 0.1,
            weights=draw.normal(size=6) * 10,
            cuts=np.sort(draw.normal(size=5) * 3),
        )
    )(np.random.default_rng(seed))
)
FEATURES = arrays(np.float64, st.tuples(st.integers(1, 8), st.just(6)), elements=st.floats(-1e300, 1e300))


@given(ANY_HEAD, FEATURES)
def test_a_distribution_is_one_however_large_the_features(head, features):
    found = head.distribution(features)
    assert found.shape == (len(features), 6)
    assert np.allclose(found.sum(axis=1), 1, atol=1e-12)
    assert (found >= 0).all()


@given(ANY_HEAD, FEATURES)
def test_a_score_is_the_expected_value_of_its_distribution_from_1_to_6(head, features):
    found = head.score(features)
    assert ((found >= 1) & (found <= 6)).all()
    assert np.allclose(found, head.distribution(features) @ [1, 2, 3, 4, 5, 6], atol=1e-9)


@given(ANY_HEAD, FEATURES)
def test_a_score_rises_with_the_position_on_the_line(head, features):
    order = np.argsort(head.position(features), kind="stable")
    assert (np.diff(head.score(features)[order]) >= -1e-12).all()


@given(ANY_HEAD)
def test_beyond_what_training_saw_nothing_is_added(head):
    edge, beyond = np.full((1, 6), 3.0), np.full((1, 6), 1e9)
    assert head.score(edge) == head.score(beyond)


# -- scoring rows


@pytest.mark.parametrize("axis", ["complexity", "quality"])
def test_a_score_does_not_depend_on_the_rows_scored_with_it(axis, folder):
    scorer = HeadScorer(folder(axis))
    together, _ = scores(scorer)
    for order in ([5, 3, 1, 0, 2, 4], [2], [4, 4, 0], *([i] for i in range(N))):
        alone, _ = scores(scorer, order)
        assert alone == [together[i] for i in order]
    assert len(set(together)) == N


@pytest.mark.parametrize("axis", ["complexity", "quality"])
def test_a_score_depends_on_the_numbers_and_not_on_their_place_in_memory(axis, folder):
    scorer = HeadScorer(folder(axis))
    one, _ = scores(scorer)
    wide = np.zeros((N, 2 * DIM + 1), dtype=np.float32)
    wide[:, 1 : DIM + 1], wide[:, DIM + 1 :] = vectors(1), vectors(2)
    other, _ = scores(scorer, asked=wide[:, 1 : DIM + 1], answered=wide[:, DIM + 1 :])
    by_column, _ = scores(scorer, asked=np.asfortranarray(vectors(1)), answered=np.asfortranarray(vectors(2)))
    assert one == other == by_column


@pytest.mark.parametrize("axis", ["complexity", "quality"])
@pytest.mark.parametrize("filling", [0.0, np.nan, np.inf])
def test_a_vector_without_a_direction_is_unreadable_and_costs_no_other_row(axis, filling, folder):
    scorer = HeadScorer(folder(axis))
    whole, statuses = scores(scorer)
    assert statuses == ["ok"] * N
    asked = vectors(1)
    asked[2] = filling
    found, statuses = scores(scorer, asked=asked)
    assert (found[2], statuses[2]) == (None, "unreadable")
    assert found[:2] + found[3:] == whole[:2] + whole[3:]


@pytest.mark.parametrize("axis", ["complexity", "quality"])
def test_many_rows_are_scored_as_in_one_block(axis, folder, monkeypatch):
    scorer, rows = HeadScorer(folder(axis)), [i % N for i in range(2 * heads.ROWS_AT_ONCE + 3)]
    asked = vectors(1)
    asked[3] = 0
    in_blocks = scores(scorer, rows, asked)
    alone = scores(scorer, asked=asked)
    assert in_blocks == ([alone[0][i] for i in rows], [alone[1][i] for i in rows])
    monkeypatch.setattr(heads, "ROWS_AT_ONCE", len(rows))
    assert scores(scorer, rows, asked) == in_blocks


@pytest.mark.parametrize("axis", ["complexity", "quality"])
def test_a_score_is_that_of_the_features_trained_on(axis, folder):
    """The scorer joins features and vectors a block of rows at a time, training all at once."""
    scorer = HeadScorer(folder(axis))
    if axis == "complexity":
        features, _ = complexity_features(ASKED, vectors(1))
    else:
        features, _ = quality_features(ASKED, ANSWERED, vectors(1), vectors(2))
    assert scores(scorer)[0] == scorer.head.score(features).tolist()


def test_an_answer_without_a_direction_is_unreadable(folder):
    answered = vectors(2)
    answered[4] = 0
    found, statuses = scores(HeadScorer(folder("quality")), answered=answered)
    assert (found[4], statuses[4]) == (None, "unreadable")
    assert statuses.count("ok") == N - 1


@pytest.mark.parametrize("axis", ["complexity", "quality"])
@pytest.mark.parametrize("blank", ["", " \n\t", "\u3000"])
def test_a_blank_instruction_is_unreadable(axis, blank, folder):
    found, statuses = scores(HeadScorer(folder(axis)), instructions=[*ASKED[:3], blank, *ASKED[4:]])
    assert (found[3], statuses[3]) == (None, "unreadable")
    assert statuses.count("ok") == N - 1


def test_complexity_needs_no_answers(folder):
    frame = HeadScorer(folder("complexity")).score_vectors(ASKED, vectors(1))
    assert frame["status"].to_list() == ["ok"] * N


@pytest.mark.parametrize("axis", ["complexity", "quality"])
def test_no_rows_are_no_scores(axis, folder):
    frame = HeadScorer(folder(axis)).score_vectors(
        [], np.zeros((0, DIM), np.float32), [], np.zeros((0, DIM), np.float32)
    )
    assert frame.is_empty()
    assert frame.columns == ["score", "status"]


@pytest.mark.parametrize("responses", [None, [], ANSWERED[:-1]])
def test_quality_without_an_answer_for_each_instruction_is_refused(responses, folder):
    with pytest.raises(InputError, match="one response for each of 6"):
        HeadScorer(folder("quality")).score(ASKED, responses)


# -- folders


@pytest.mark.parametrize("axis", ["complexity", "quality"])
def test_a_saved_head_scores_as_before(axis, folder):
    head, scorer = head_for(axis), HeadScorer(folder(axis))
    assert all(np.array_equal(a, b) for a, b in zip(vars(head).values(), vars(scorer.head).values(), strict=True))
    assert scorer.card == card_for(axis)
    again = HeadScorer(folder(axis, name="again"))
    assert scores(again) == scores(scorer)
    assert again.fingerprint == scorer.fingerprint


def test_other_weights_or_another_card_are_another_fingerprint(folder):
    prints = {
        HeadScorer(folder("quality")).fingerprint,
        HeadScorer(folder("quality", seed=1)).fingerprint,
        HeadScorer(folder("quality", encoder_weights="1" * 64)).fingerprint,
    }
    assert len(prints) == 3


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without(name):
    def damage(folder):
        kept = {key: value for key, value in load_file(folder / "model.safetensors").items() if key != name}
        save_file(kept, folder / "model.safetensors")

    return damage


def shortened(name):
    def damage(folder):
        tensors = load_file(folder / "model.safetensors")
        save_file({**tensors, name: tensors[name][:-1].copy()}, folder / "model.safetensors")

    return damage


def changed(**fields):
    def damage(folder):
        card = orjson.loads((folder / "config.json").read_bytes())
        (folder / "config.json").write_bytes(orjson.dumps({**card, **fields}))

    return damage


DAMAGES = {
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no card": lambda folder: (folder / "config.json").unlink(),
    "half the weights": lambda folder: cut_in_half(folder / "model.safetensors"),
    "half the card": lambda folder: cut_in_half(folder / "config.json"),
    "empty weights": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "a tensor too few": without("cuts"),
    "a weight too few": shortened("weights"),
    "a cut too few": shortened("cuts"),
    "an unknown axis": changed(axis="length"),
    "an unknown field": changed(note="mine"),
    "a language model's card": lambda folder: (folder / "config.json").write_text('{"model_type": "llama"}'),
    "an old version": changed(features_version=FEATURES_VERSION + 1),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_folder_is_refused_by_its_name(damage, folder):
    path = folder("complexity")
    damage(path)
    with pytest.raises(ModelError) as refused:
        HeadScorer(path)
    assert str(path) in str(refused.value)


def test_a_folder_whose_card_is_written_is_whole(folder):
    path = folder("quality")
    assert sorted(p.name for p in path.iterdir()) == ["config.json", "model.safetensors"]
    assert (path / "config.json").stat().st_mtime_ns >= (path / "model.safetensors").stat().st_mtime_ns


def test_vectors_of_another_encoder_are_refused_in_a_sentence(folder, tiny_model, other_tiny_model):
    mine, other = (find_encoder(str(model), "float32") for model in (tiny_model, other_tiny_model))
    scorer = HeadScorer(folder("quality", encoder=mine.name, encoder_weights=mine.weights))
    scorer.check_encoder(mine)
    with pytest.raises(ModelError) as refused:
        scorer.check_encoder(other)
    sentence = str(refused.value)
    assert mine.name in sentence and other.name in sentence and "quality" in sentence
    assert "\n" not in sentence
