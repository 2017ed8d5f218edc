import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.llm.requests import Listing
from deita_core.scorers.served import listed_score
from tests.support.llm_completions import SURE


def listing(tokens, chosen=None):
    return Listing(chosen=chosen or tokens[0][0], tokens=tokens)


def expected(logprobs):
    weights = {digit: math.exp(logprob) for digit, logprob in logprobs.items()}
    return sum(int(digit) * weight for digit, weight in weights.items()) / sum(weights.values())


def test_a_missing_digit_counts_as_nothing_only_where_it_is_less_than_a_ten_thousandth():
    # Five digits are missing, each at most as likely as the least likely token listed.
    for floor, open_ in ((math.log(1.9e-5), False), (math.log(2.1e-5), True)):
        assert (listed_score(listing([("4", 0.0), ("x", floor)])) is None) == open_
    assert listed_score(listing([("4", 0.0), ("x", -14.0)])) == 4.0


@given(
    logits=st.lists(st.floats(-30, 5), min_size=6, max_size=6),
    others=st.lists(st.floats(-30, 5), min_size=2, max_size=40),
    kept=st.integers(1, 20),
)
def test_a_score_that_is_given_is_never_far_from_that_of_all_tokens(logits, others, kept):
    names = [*"123456", *(f"w{i}" for i in range(len(others)))]
    total = math.log(sum(map(math.exp, [*logits, *others])))
    likely = sorted(zip(names, (x - total for x in [*logits, *others]), strict=True), key=lambda e: -e[1])
    score = listed_score(listing(likely[:kept]))
    true = expected({name: lp for name, lp in likely if name in "123456"})
    assert score is None or abs(score - true) <= 5 * 1e-4
    if all(digit in dict(likely[:kept]) for digit in "123456"):
        assert score == pytest.approx(true, abs=1e-9)


@given(st.lists(st.floats(-30, 0), min_size=6, max_size=6), st.floats(-400, 400))
def test_a_bias_on_all_digits_changes_no_score(logits, bias):
    bare = dict(zip("123456", logits, strict=True))
    # Not validated: a bias that is added after leaves log probabilities of six tokens alone, here any of them.
    plain, moved = (
        listed_score(Listing.model_construct(chosen="1", tokens=[(digit, x + by) for digit, x in bare.items()]))
        for by in (0.0, bias)
    )
    assert moved == pytest.approx(plain, abs=1e-9) and 1 <= plain <= 6


@pytest.mark.parametrize(
    ("tokens", "score"),
    [
        # One way of writing them is taken as it is.
        ([(f" {d}", lp) for d, lp in SURE], "sure"),
        ([(f"▁{d}", lp) for d, lp in SURE], "sure"),
        ([(f"Ġ{d}", lp) for d, lp in SURE], "sure"),
        # After the prompts' last space the digit is bare, so the others are other tokens, however likely.
        ([(" 6", -0.001), *SURE], "sure"),
        ([*SURE, ("▁6", -13.5), ("Ġ3", -14.0)], "sure"),
        # Which is meant cannot be known.
        ([(" 6", -0.1), ("▁3", -2.5), ("x", -14.0)], None),
        # The bare digits are there, but hardly more likely than what is not listed.
        ([(" 6", -0.001), ("3", -9.0), ("x", -10.0)], None),
        # Twice the same text: the lesser one counts unless it is next to nothing.
        ([*SURE, ("3", -14.0)], "sure"),
        ([*SURE, ("3", -3.0)], None),
        # No digits at all, or others than these.
        ([("x", -0.1), ("y", -3.0)], None),
        ([("0", -0.1), ("7", -3.0), ("33", -4.0), ("3.", -5.0), ("³", -6.0), ("٣", -7.0), ("", -8.0)], None),
        # The only one listed, though a certain one: of the others nothing is known.
        ([("3", 0.0)], None),
        # A mask is no model's opinion.
        ([("3", 0.0), *((d, -9_999.0) for d in "12456"), ("x", -9_999.0)], None),
        ([(d, -9_999.0) for d in "123456"], None),
        ([(d, -3.4e38) for d in "123456"], None),
        ([("3", 0.0), ("4", -8.0), ("x", -15.0), *((d, -3.4e38) for d in "1256")], "by two"),
    ],
)
def test_which_tokens_are_the_digits(tokens, score):
    wanted = {
        "sure": expected({token: lp for token, lp in SURE if token in "123456"}),
        "by two": expected({"3": 0.0, "4": -8.0}),
        None: None,
    }[score]
    found = listed_score(listing(tokens))
    assert found == (wanted if wanted is None else pytest.approx(wanted, abs=1e-6))


def test_a_chosen_token_that_is_hardly_likely_bounds_nothing():
    # An unlisted digit may be as likely as x; that the chosen y is less likely does not speak against it.
    tokens = [("3", -0.5), ("x", -2.0), ("y", -20.0)]
    assert listed_score(listing(tokens, chosen="y")) is None
    assert listed_score(listing([("3", -0.5), ("x", -20.0)], chosen="3")) == 3.0
