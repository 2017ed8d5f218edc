"""Trains a scorer head on vectors: an ordinal model fitted to scores and to the order within each chain."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from deita_core.errors import InputError
from deita_core.literals import Axis
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.scorers.features import FEATURES_VERSION, complexity_features, quality_features
from deita_core.scorers.heads import Head, HeadCard, expected_scores
from deita_core.scorers.training.examples import Example
from deita_core.scorers.training.metrics import Figures, figures_table, held_out_figures, length_scores

if TYPE_CHECKING:
    import torch

VectorsOf = Callable[[Sequence[str]], np.ndarray]

FOLDS = 5

# Ridge on the plain features; vector components, which are far more numerous, get ten times as much.
STRENGTHS = (0.01, 0.03, 0.1, 0.3)
VECTORS_RIDGE = 10.0
# Rows made by code are several times as many as authored ones, and most are good texts with one defect. With a full
# weight they would decide what a good text looks like.
MADE_WEIGHT = 0.3


@dataclass(frozen=True)
class TrainingSet:
    """Features (n, k), of which the first `plain` are not vector components, scores (n,) 1 to 6, and chains (n,).

    `balanced`: pairs whose better text is the longer one weigh as much together as those whose better one is shorter.
    """

    features: np.ndarray
    plain: int
    scores: np.ndarray
    chains: np.ndarray
    seeds: np.ndarray
    authored: np.ndarray
    lengths: np.ndarray
    balanced: bool = False

    @property
    def weights(self) -> np.ndarray:
        """The weight of each row (n,)."""
        return np.where(self.authored, 1.0, MADE_WEIGHT)


def texts_of(examples: Sequence[Example]) -> list[str]:
    """Return the distinct texts whose vectors a head needs."""
    return list(dict.fromkeys(t for e in examples for t in (e.instruction, e.response) if t is not None))


def build_training_set(axis: Axis, examples: Sequence[Example], vectors_of: VectorsOf) -> TrainingSet:
    """Compute the features of the examples from their texts and vectors."""
    distinct = texts_of(examples)
    row_of = {text: row for row, text in enumerate(distinct)}
    vectors = vectors_of(distinct)
    instructions = [e.instruction for e in examples]
    asked = vectors[[row_of[text] for text in instructions]]
    if axis == "complexity":
        features, plain = complexity_features(instructions, asked)
    else:
        responses = [e.text for e in examples]
        features, plain = quality_features(
            instructions, responses, asked, vectors[[row_of[text] for text in responses]]
        )
    return TrainingSet(
        features,
        plain,
        np.array([e.score for e in examples]),
        np.array([e.chain for e in examples]),
        np.array([e.group for e in examples]),
        np.array([e.authored for e in examples]),
        np.array([len(e.text) for e in examples], dtype=np.float64),
        # A longer instruction is harder, but a longer answer is not better.
        balanced=axis == "quality",
    )


def train_head(
    axis: Axis,
    examples: Sequence[Example],
    encoder: EncoderFiles,
    vectors_of: VectorsOf,
    strengths: Sequence[float] = STRENGTHS,
) -> tuple[Head, HeadCard]:
    """Train a head on all examples; its card has figures from a cross-validation that never splits a seed.

    `vectors_of` returns the encoder's vectors (n, d) of texts; `strengths` are the ridges to choose from. Raises
    InputError for too few chains.
    """
    _check(examples)
    data = build_training_set(axis, examples, vectors_of)
    strength, positions = choose_strength(data, strengths)
    slope, cuts = calibrate(positions[data.authored], data.scores[data.authored])
    head = fit_head(data, np.ones(len(data.scores), dtype=bool), strength)
    head = replace(head, weights=head.weights * slope, cuts=cuts)
    card = HeadCard(
        axis=axis,
        encoder=encoder.name,
        encoder_weights=encoder.weights,
        features_version=FEATURES_VERSION,
        examples=len(examples),
        ridge=strength,
        figures=authored_figures(data, expected_scores(positions * slope, cuts)),
    )
    return head, card


def _check(examples: Sequence[Example]) -> None:
    scores: dict[str, set[int]] = {}
    for example in examples:
        scores.setdefault(example.chain, set()).add(example.score)
    telling = sum(len(found) > 1 for found in scores.values())
    if telling <= FOLDS:
        raise InputError(
            f"There are {telling} chains with two different scores; give at least {FOLDS + 1} to train a scorer on."
        )


def choose_strength(data: TrainingSet, strengths: Sequence[float] = STRENGTHS) -> tuple[float, np.ndarray]:
    """Return the strongest ridge within one standard error of the best, and its held-out positions (n,).

    The criterion is the order of authored rows within held-out chains. The strongest acceptable ridge is chosen
    (Breiman's rule), because later pools differ more from the training chains than these differ from each other.
    """
    held_out = {strength: _held_out(data, strength) for strength in strengths}
    by_chain = {strength: chain_accuracies(data, positions) for strength, positions in held_out.items()}
    best = max(by_chain.values(), key=np.mean)
    bar = best.mean() - best.std(ddof=1) / np.sqrt(len(best))
    chosen = max(strength for strength, accuracies in by_chain.items() if accuracies.mean() >= bar)
    return chosen, held_out[chosen]


def calibrate(positions: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the slope and cuts (5,) with which held-out positions (n,) best predict the scores (n,) of the same rows.

    A ridge pulls all positions together, and rows made by code pull the cuts down; this corrects both for authored
    rows.
    """
    import torch

    place, level = torch.from_numpy(positions), torch.from_numpy(scores - 1)
    slope = torch.ones(1, dtype=torch.float64, requires_grad=True)
    cuts = torch.linspace(-2, 2, 5, dtype=torch.float64).requires_grad_()
    _minimise([slope, cuts], lambda: -_likelihood(place * slope, cuts, level, torch.ones_like(place)))
    return float(slope.item()), np.sort(cuts.detach().numpy())


def _held_out(data: TrainingSet, strength: float) -> np.ndarray:
    """Return each row's position from a head trained without its seed."""
    names = sorted(set(data.seeds.tolist()))
    fold_of = {name: i % FOLDS for i, name in enumerate(names)}
    folds = np.array([fold_of[name] for name in data.seeds.tolist()])
    positions = np.zeros(len(folds))
    for fold in range(FOLDS):
        head = fit_head(data, folds != fold, strength)
        positions[folds == fold] = head.position(data.features[folds == fold])
    return positions


def chain_accuracies(data: TrainingSet, scores: np.ndarray) -> np.ndarray:
    """Return, for each chain with authored pairs, the share of pairs that the scores order correctly."""
    better, worse = ordered_pairs(data, data.authored)
    hits = pl.DataFrame({"chain": data.chains[better], "hit": scores[better] > scores[worse]})
    return hits.group_by("chain").agg(pl.col("hit").mean()).sort("chain")["hit"].to_numpy()


def authored_figures(data: TrainingSet, scores: np.ndarray) -> Figures:
    """Return figures of held-out scores on authored rows, beside those of length alone.

    Length is fitted on the same rows that it is tested on, which favours it slightly.
    """
    use = data.authored
    lengths, truth = data.lengths[use], data.scores[use]
    return held_out_figures(data.chains[use], truth, scores[use], length_scores(lengths, truth, lengths), lengths)


def ordered_pairs(data: TrainingSet, use: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (better, worse) of every pair within a chain with different scores, among the rows in `use`."""
    better, worse = [], []
    for name in sorted(set(data.chains[use].tolist())):
        rows = np.flatnonzero((data.chains == name) & use)
        higher, lower = np.nonzero(data.scores[rows][:, None] > data.scores[rows][None, :])
        better.append(rows[higher])
        worse.append(rows[lower])
    return np.concatenate(better), np.concatenate(worse)


def pair_weights(data: TrainingSet, better: np.ndarray, worse: np.ndarray) -> np.ndarray:
    """Return the weights of pairs of rows (p,): the gap of their scores, less with a made row, balanced by length."""
    weights = (data.scores[better] - data.scores[worse]) * np.minimum(data.weights[better], data.weights[worse])
    longer = data.lengths[better] > data.lengths[worse]
    share = weights[longer].sum() / weights.sum()
    if data.balanced and 0 < share < 1:
        weights = weights * np.where(longer, 0.5 / share, 0.5 / (1 - share))
    return weights / weights.sum()


def fit_head(data: TrainingSet, use: np.ndarray, strength: float) -> Head:
    """Fit weights and cuts by L-BFGS: likelihood of the scores, order of the pairs, and a ridge of `strength`."""
    import torch

    features = data.features[use]
    low, high = np.quantile(features, [0.005, 0.995], axis=0)
    inside = np.clip(features, low, high)
    mean, scale = inside.mean(axis=0), inside.std(axis=0) + 1e-6
    x = torch.from_numpy((inside - mean) / scale)
    y = torch.from_numpy(data.scores[use] - 1)
    ridge = torch.full((x.shape[1],), strength * VECTORS_RIDGE, dtype=torch.float64)
    ridge[: data.plain] = strength
    pairs = ordered_pairs(data, use)
    better, worse = (torch.from_numpy(rows) for rows in _renumbered(pairs, use))
    of_pairs, of_rows = torch.from_numpy(pair_weights(data, *pairs)), torch.from_numpy(data.weights[use])
    weights = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    cuts = torch.linspace(-2, 2, 5, dtype=torch.float64).requires_grad_()

    def loss() -> torch.Tensor:
        position = x @ weights
        order = (torch.nn.functional.softplus(position[worse] - position[better]) * of_pairs).sum()
        return -_likelihood(position, cuts, y, of_rows) + order + (ridge * weights**2).sum()

    _minimise([weights, cuts], loss)
    return Head(low, high, mean, scale, weights.detach().numpy(), np.sort(cuts.detach().numpy()))


def _likelihood(
    position: "torch.Tensor", cuts: "torch.Tensor", level: "torch.Tensor", weights: "torch.Tensor"
) -> "torch.Tensor":
    """Return the weighted mean log likelihood of levels 0 to 5 (n,) at positions (n,) of an ordinal model."""
    import torch

    below = torch.sigmoid(cuts.sort().values[None] - position[:, None])
    edges = torch.nn.functional.pad(torch.nn.functional.pad(below, (0, 1), value=1.0), (1, 0), value=0.0)
    found = edges.diff(dim=1).gather(1, level[:, None])[:, 0].clamp_min(1e-9).log()
    return (found * weights).sum() / weights.sum()


def _minimise(parameters: list["torch.Tensor"], loss: Callable[[], "torch.Tensor"]) -> None:
    import torch

    optimizer = torch.optim.LBFGS(parameters, max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)


def _renumbered(rows: tuple[np.ndarray, np.ndarray], use: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    position = np.cumsum(use) - 1
    return position[rows[0]], position[rows[1]]


def model_card(card: HeadCard) -> str:
    """Return a README.md for a head: what it is, its training data, and its held-out figures beside those of length."""
    return (
        f"# A {card.axis} head for {card.encoder}\n\n"
        f"An ordinal model that scores {card.axis} from 1 to 6, on stored vectors and the shape of the texts.\n"
        f"Trained on {card.examples:,} rows: chains of graded texts, and on the quality axis rows with a known defect "
        f"made from them by code; ridge {card.ridge:g}, chosen by cross-validation.\n\n"
        f"By {FOLDS}-fold cross-validation in which no seed is split, over the chains' own rows:\n\n"
        f"{figures_table(card.figures)}\n\n"
        "It measures what such a small model can see: relevance, completeness, form, vocabulary, topic. It does not "
        "check facts. Compare it with a larger scorer before you rely on small differences.\n"
    )
