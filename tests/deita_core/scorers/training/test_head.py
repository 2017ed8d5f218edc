from dataclasses import replace

import numpy as np
import pytest

from deita_core.errors import InputError, ModelError
from deita_core.models.encoder_spec import find_encoder
from deita_core.models.sentence_encoder import SentenceEncoder
from deita_core.scorers import find_scorer, load_scorer
from deita_core.scorers.heads import HeadScorer, save_head
from deita_core.scorers.training.examples import Example, with_defects
from deita_core.scorers.training.head import (
    TrainingSet,
    authored_figures,
    build_training_set,
    choose_strength,
    fit_head,
    model_card,
    ordered_pairs,
    pair_weights,
    train_head,
)

VARIANTS = 6


def training_set(features, scores, chains, plain=3, authored=None, lengths=None, seeds=None):
    n = len(scores)
    return TrainingSet(
        features=features,
        plain=plain,
        scores=scores,
        chains=np.array(chains),
        seeds=np.array(chains if seeds is None else seeds),
        authored=np.ones(n, dtype=bool) if authored is None else authored,
        lengths=np.random.default_rng(9).uniform(50, 60, size=n) if lengths is None else lengths,
    )


def six_scores_a_chain(n_chains, seed=0):
    """Scores 1 to 6 in each chain, shuffled, and the chains' names."""
    draw = np.random.default_rng(seed)
    scores = np.concatenate([draw.permutation(VARIANTS) + 1 for _ in range(n_chains)])
    return scores, np.repeat([f"chain-{i:03d}" for i in range(n_chains)], VARIANTS)


def deciding_feature(column, n_chains=40, width=12, noise=0.4, seed=0):
    """Random features of which one follows the score, shifted from chain to chain."""
    draw = np.random.default_rng(seed)
    scores, chains = six_scores_a_chain(n_chains, seed)
    features = draw.normal(size=(len(scores), width))
    if column is not None:
        features[:, column] = (
            scores + np.repeat(draw.normal(size=n_chains), VARIANTS) + noise * draw.normal(size=len(scores))
        )
    return training_set(features, scores, chains)


def every_row():
    return np.ones(40 * VARIANTS, dtype=bool)


@pytest.mark.parametrize("column", [0, 7], ids=["a plain feature", "a component of the vector"])
def test_a_head_learns_the_feature_that_decides(column):
    data = deciding_feature(column)
    _, held_out = choose_strength(data)
    assert authored_figures(data, held_out).scorer.pair_accuracy > 0.9


def test_a_head_learns_nothing_from_noise():
    data = deciding_feature(None)
    _, held_out = choose_strength(data)
    assert 0.4 < authored_figures(data, held_out).scorer.pair_accuracy < 0.6


def test_scores_come_out_on_the_scale_they_went_in():
    data = deciding_feature(0, noise=0.1)
    found = fit_head(data, every_row(), 0.01).score(data.features)
    for level in range(1, 7):
        assert abs(found[data.scores == level].mean() - level) < 1


def test_a_head_is_fitted_only_to_the_rows_it_is_told_to_use():
    data = deciding_feature(0)
    use = np.arange(len(data.scores)) < 20 * VARIANTS
    spoiled = training_set(
        np.where(use[:, None], data.features, 1e6), np.where(use, data.scores, 7 - data.scores), data.chains
    )
    one, other = fit_head(data, use, 0.1), fit_head(spoiled, use, 0.1)
    assert all(np.array_equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


def features_that_speak_of_one_chain_only(names, seeds=None):
    """A column for each chain, which follows its scores up or down: nothing to be learned from the other chains."""
    draw = np.random.default_rng(5)
    scores, chains = six_scores_a_chain(20, seed=5)
    columns = [f"chain-{i:03d}" for i in range(20)]
    features = np.zeros((len(scores), 20))
    for column, name in enumerate(columns):
        rows = chains == name
        features[rows, column] = (scores[rows] - 3.5) * draw.choice([-1, 1])
    return training_set(features, scores, names(chains), plain=20, seeds=seeds and seeds(chains))


def test_no_row_is_scored_by_a_head_that_saw_its_chain():
    data = features_that_speak_of_one_chain_only(lambda chains: chains)
    _, held_out = choose_strength(data)
    for name in set(data.chains):
        assert len(set(held_out[data.chains == name])) == 1, (
            "a head that has not seen the chain cannot tell its rows apart"
        )


def test_the_same_chains_parted_in_two_would_be_learned():
    """That the test above can fail: with halves of chains on either side of the split their order is known."""
    halves = np.tile(["-a", "-b"], 20 * VARIANTS // 2)
    data = features_that_speak_of_one_chain_only(lambda chains: np.char.add(chains, halves))
    _, held_out = choose_strength(data)
    assert authored_figures(data, held_out).scorer.pair_accuracy > 0.6


def test_chains_of_one_seed_are_never_parted():
    halves = np.tile(["-a", "-b"], 20 * VARIANTS // 2)
    data = features_that_speak_of_one_chain_only(
        lambda chains: np.char.add(chains, halves), seeds=lambda chains: chains
    )
    _, held_out = choose_strength(data)
    assert all(len(set(held_out[data.seeds == name])) == 1 for name in set(data.seeds))


def test_figures_are_over_authored_rows_only():
    data = deciding_feature(0)
    authored = np.arange(len(data.scores)) % 3 > 0
    some = training_set(data.features, data.scores, data.chains, authored=authored)
    _, held_out = choose_strength(data)
    garbled = np.where(authored, held_out, 99.0)
    assert authored_figures(some, held_out) == authored_figures(some, garbled)
    assert authored_figures(some, held_out).pairs < authored_figures(data, held_out).pairs


def test_what_length_alone_would_score_stands_beside():
    data = deciding_feature(None)
    ranked_by_length = training_set(data.features, data.scores, data.chains, lengths=data.scores * 100.0)
    figures = authored_figures(ranked_by_length, np.zeros(len(data.scores)))
    assert figures.length.pair_accuracy == 1
    assert figures.length.spearman == 1
    # One score for all is a tie in every pair, and no order.
    assert figures.scorer.pair_accuracy == 0.5
    assert figures.scorer.spearman is None


def test_rows_that_a_program_made_weigh_less_than_authored_ones():
    scores, chains = six_scores_a_chain(40)
    authored = np.tile([True] * 3 + [False] * 3, 40)
    # Authored rows say that more of the feature is better; the as many made ones say the contrary.
    features = np.where(authored, scores, 7 - scores)[:, None] + np.zeros(3)
    assert fit_head(training_set(features, scores, chains, authored=authored), every_row(), 0.1).weights.sum() > 0
    assert fit_head(training_set(features, scores, chains, authored=~authored), every_row(), 0.1).weights.sum() < 0


def test_longer_and_shorter_better_answers_weigh_the_same_together():
    scores = np.array([5, 2, 2, 5, 6, 1])
    lengths = np.array([90.0, 80, 70, 60, 50, 40])
    data = training_set(np.zeros((6, 3)), scores, ["a"] * 6, lengths=lengths)
    better, worse = ordered_pairs(data, np.ones(6, dtype=bool))
    longer = lengths[better] > lengths[worse]
    plain = pair_weights(data, better, worse)
    gaps = scores[better] - scores[worse]
    assert np.allclose(plain, gaps / gaps.sum()) and plain[longer].sum() > 0.55
    balanced = pair_weights(replace(data, balanced=True), better, worse)
    assert np.isclose(balanced[longer].sum(), 0.5) and np.isclose(balanced.sum(), 1)
    assert np.allclose(balanced[longer] / balanced[longer].sum(), gaps[longer] / gaps[longer].sum())


def test_pairs_of_which_the_longer_is_always_better_keep_their_weights():
    data = training_set(np.zeros((3, 3)), np.array([1, 2, 4]), ["a"] * 3, lengths=np.array([10.0, 20, 30]))
    pairs = ordered_pairs(data, np.ones(3, dtype=bool))
    assert np.allclose(pair_weights(replace(data, balanced=True), *pairs), pair_weights(data, *pairs))


def test_answers_are_balanced_by_length_and_instructions_are_not(tiny):
    answers, instructions = quality_examples(), [Example("c", "hello world", None, 1), Example("c", "cat dog", None, 2)]
    vectors = vectors_by(tiny)[1]
    assert build_training_set("quality", answers, vectors).balanced
    assert not build_training_set("complexity", instructions, vectors).balanced


def test_fitting_twice_gives_identical_weights():
    data = deciding_feature(0)
    one, other = (fit_head(data, every_row(), 0.1) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


def test_the_cuts_ascend():
    assert (np.diff(fit_head(deciding_feature(3), every_row(), 0.03).cuts) >= 0).all()


# -- with an encoder

BODIES = ("salt bread", "the fox runs", "hello world bake", "面 包 hello", "cat dog fox", "a dog bakes bread")


def quality_examples():
    """Chains in which the longer the answer goes on about the question, the better it is."""
    return [
        Example(f"q{n}", f"{body} {n}?", " ".join([f"{body}, the {i} of {n}." for i in range(8 + score)]), score)
        for n, body in enumerate(BODIES, 1)
        for score in (1, 2, 4, 5)
    ]


def vectors_by(encoder):
    """The encoder, and what gives its vectors."""
    return encoder.files, lambda texts: encoder.encode(texts).vectors


@pytest.fixture(scope="module")
def tiny(tiny_model):
    return SentenceEncoder(find_encoder(str(tiny_model), "float32"), device="cpu")


@pytest.fixture(scope="module")
def trained(tiny):
    return train_head("quality", with_defects(quality_examples()), *vectors_by(tiny))


def test_training_twice_gives_identical_weights_and_figures(trained, tiny):
    head, card = trained
    again, card_again = train_head("quality", with_defects(quality_examples()), *vectors_by(tiny))
    assert all(np.array_equal(a, b) for a, b in zip(vars(head).values(), vars(again).values(), strict=True))
    assert card == card_again


def test_a_trained_head_is_a_scorer_for_its_encoder(trained, tiny, tmp_path):
    head, card = trained
    save_head(head, card, tmp_path / "mine")
    scorer = load_scorer(str(tmp_path / "mine"), "quality")
    asked = "the fox runs 1?"
    best, worst, blank = scorer.score([asked] * 3, [quality_examples()[7].text, "OK", " "])["score"]
    assert best > worst
    assert blank is None
    assert find_scorer(str(tmp_path / "mine"), "quality", tiny.files).fingerprint


def test_a_trained_head_refuses_another_encoder(trained, other_tiny_model, tmp_path):
    save_head(*trained, tmp_path / "mine")
    with pytest.raises(ModelError, match="trained on vectors of"):
        find_scorer(str(tmp_path / "mine"), "quality", find_encoder(str(other_tiny_model), "float32"))


def test_the_card_says_what_was_trained_on_what(trained, tiny):
    _, card = trained
    assert (card.axis, card.encoder, card.encoder_weights) == ("quality", tiny.files.name, tiny.files.weights)
    assert card.examples == len(with_defects(quality_examples()))
    text = model_card(card)
    assert "quality" in text and tiny.files.name in text
    ours, length = card.figures.scorer.pair_accuracy, card.figures.length.pair_accuracy
    assert f"| pairs of a chain in order | {ours:.3f} | {length:.3f} |" in text


def test_complexity_is_trained_without_answers(tiny, tmp_path):
    examples = [Example(f"c{n}", f"{body} " * (s + 6), None, s) for n, body in enumerate(BODIES) for s in (1, 2, 6)]
    save_head(*train_head("complexity", examples, *vectors_by(tiny)), tmp_path / "mine")
    low, high = HeadScorer(tmp_path / "mine").score(["hello world " * 7, "hello world " * 12])["score"]
    assert low < high


def test_a_head_from_chains_without_two_answers_of_like_length_can_be_loaded(tiny, tmp_path):
    examples = [Example(f"c{n}", f"{body} " * 2**s, None, s) for n, body in enumerate(BODIES) for s in (1, 3, 6)]
    save_head(*train_head("complexity", examples, *vectors_by(tiny)), tmp_path / "mine")
    assert HeadScorer(tmp_path / "mine").card.examples == len(examples)


def test_features_of_a_training_set_do_not_depend_on_the_order_of_the_examples(tiny):
    examples = quality_examples()
    straight, reversed_ = (
        build_training_set("quality", rows, vectors_by(tiny)[1]) for rows in (examples, examples[::-1])
    )
    assert np.abs(straight.features - reversed_.features[::-1]).max() < 1e-5
    assert straight.chains.tolist() == reversed_.chains.tolist()[::-1]


@pytest.mark.parametrize(
    "examples",
    [
        [],
        [Example("c1", "hello " * score, None, score) for score in range(1, 7)],
        [Example(f"c{n}", f"{body} " * k, None, 3) for n, body in enumerate(BODIES) for k in (1, 2)],
    ],
    ids=["no chain", "one chain", "no two scores in any chain"],
)
def test_too_little_to_learn_from_is_an_input_error(examples, tiny):
    with pytest.raises(InputError):
        train_head("complexity", examples, *vectors_by(tiny))
