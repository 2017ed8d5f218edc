import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deita_core.evolution.agreement import NOISY, Audit, audit
from deita_core.tables import RANKINGS


def rankings(scores, places=None, repeat=0):
    """Rankings of chains: each chain's scores by step, and the places at which the steps were shown."""
    places = places or [list(range(1, len(chain) + 1)) for chain in scores]
    rows = [
        {"ranking": f"{repeat}{n:031x}", "step": step, "chain": f"{n:032x}", "judge": "d" * 32, "repeat": repeat}
        | {"shown": place, "score": score, "status": "unreadable" if score is None else "ok", "detail": ""}
        | {"reason": "unreadable" if score is None else None}
        for n, chain in enumerate(scores)
        for step, (score, place) in enumerate(zip(chain, places[n], strict=True))
    ]
    frame = pl.DataFrame(rows, schema=RANKINGS.empty().schema)
    return RANKINGS.validate(frame)


def compared(first, second, *places):
    """The audit of two rankings of the same chains."""
    return audit(rankings(first, *places[:1]), rankings(second, *places[1:], repeat=1))


def test_a_judge_who_says_the_same_twice_agrees_with_itself():
    scores = [[1, 2, 3, 4, 5, 6], [1, 1, 2, 3, 3, 5]]
    found = compared(scores, scores)
    assert (found.chains, found.spearman, found.pairs_alike, found.same, found.difference) == (2, 1, 1, 1, 0)
    assert not found.is_noisy


def test_a_judge_who_turns_the_order_round_is_noisy():
    found = compared([[1, 2, 3, 4, 5, 6]], [[6, 5, 4, 3, 2, 1]])
    assert (found.spearman, found.pairs_alike, found.same) == (-1, 0, 0)
    assert found.difference == 3
    assert found.is_noisy


def test_the_figures_are_those_counted_by_hand():
    # Ranks 1 2 3 4 and 1 3 2 4: rho 1 - 6 (1 + 1) / (4 * 15) = 0.8; one pair of six is turned round.
    found = compared([[1, 2, 3, 4]], [[1, 4, 2, 5]])
    assert found.spearman == 0.8
    assert found.pairs_alike == round(5 / 6, 4)
    assert found.same == 0.25
    assert found.difference == 1.0


def test_a_tie_is_alike_only_where_it_is_one_both_times():
    assert compared([[2, 2, 3]], [[4, 4, 5]]).pairs_alike == 1
    # Of three pairs the first is tied once, and the others are in order both times.
    assert compared([[2, 2, 3]], [[4, 5, 6]]).pairs_alike == round(2 / 3, 4)


def test_correlations_are_within_a_chain():
    """Two chains each turned round, one far above the other: over all rows they would correlate."""
    found = compared([[1, 2], [5, 6]], [[2, 1], [6, 5]])
    assert found.spearman == -1 and found.pairs_alike == 0


def test_every_chain_counts_alike_whatever_its_length():
    found = compared([[1, 2, 3, 4, 5, 6], [1, 2]], [[1, 2, 3, 4, 5, 6], [2, 1]])
    assert found.spearman == 0


PLACES = [[3, 1, 6, 2, 5, 4], [2, 5, 1, 6, 4, 3], [6, 4, 3, 1, 2, 5]]
OTHER_PLACES = [[1, 5, 2, 4, 6, 3], [6, 1, 4, 2, 3, 5], [3, 6, 1, 5, 4, 2]]


def test_a_judge_who_goes_by_the_place_shows_it():
    found = compared(PLACES, OTHER_PLACES, PLACES, OTHER_PLACES)
    assert found.place == 1
    assert found.is_noisy
    backwards = [[7 - place for place in chain] for chain in PLACES]
    assert compared(backwards, backwards, PLACES, PLACES).place == -1


def test_a_judge_who_goes_by_the_text_shows_no_place():
    scores = [[1, 2, 3, 4, 5, 6]] * 3
    found = compared(scores, scores, PLACES, OTHER_PLACES)
    assert abs(found.place) < 0.3 and found.spearman == 1


def test_the_place_is_that_of_both_rankings():
    # The first follows the place, the second goes against it.
    assert compared([[1, 2, 3]], [[3, 2, 1]], [[1, 2, 3]], [[1, 2, 3]]).place == 0


def test_what_could_not_be_read_is_left_out():
    whole = compared([[1, 2, 3], [2, 4, 6]], [[1, 2, 3], [2, 4, 6]])
    for gap in ([None] * 3, [5, None, 1]):
        found = compared([[1, 2, 3], [2, 4, 6], gap], [[1, 2, 3], [2, 4, 6], [None] * 3])
        assert found == whole
    assert compared([[1, 2, 3], [None] * 3], [[1, 2, 3], [6, 5, 4]]).chains == 1


def test_chains_ranked_once_are_left_out():
    first, second = rankings([[1, 2, 3], [3, 2, 1], [1, 1, 2]]), rankings([[1, 2, 3]], repeat=1)
    assert audit(first, second) == audit(rankings([[1, 2, 3]]), second)


@pytest.mark.parametrize("scores", [[], [[None] * 3]], ids=["no rankings", "nothing read"])
def test_without_common_chains_nothing_can_be_said(scores):
    assert compared([[1, 2, 3]], scores) is None if not scores else compared(scores, scores) is None
    assert audit(rankings([[1, 2, 3]]), RANKINGS.empty()) is None
    assert audit(RANKINGS.empty(), RANKINGS.empty()) is None


def test_a_judge_who_gives_everything_one_score_has_no_order_and_is_noisy():
    found = compared([[3, 3, 3]], [[3, 3, 3]])
    assert (found.spearman, found.place) == (None, None)
    assert (found.same, found.pairs_alike, found.difference) == (1, 1, 0)
    assert found.is_noisy


@pytest.mark.parametrize(("spearman", "noisy"), [(None, True), (NOISY - 0.01, True), (NOISY, False), (1.0, False)])
def test_a_judge_is_noisy_below_a_bound(spearman, noisy):
    assert Audit(chains=1, spearman=spearman, pairs_alike=1, same=1, difference=0, place=0).is_noisy == noisy


CHAINS = st.integers(2, 6).flatmap(
    lambda n: st.lists(st.tuples(*[st.lists(st.integers(1, 6), min_size=n, max_size=n)] * 2), min_size=1, max_size=5)
)


@settings(max_examples=30)
@given(CHAINS)
def test_figures_stay_within_their_bounds_and_are_the_same_either_way_round(chains):
    first, second = [list(one) for one, _ in chains], [list(other) for _, other in chains]
    found = compared(first, second)
    assert found.chains == len(chains)
    assert found.spearman is None or -1 <= found.spearman <= 1
    assert found.place is None or -1 <= found.place <= 1
    assert 0 <= found.pairs_alike <= 1 and 0 <= found.same <= 1 and 0 <= found.difference <= 5
    assert compared(second, first) == found
