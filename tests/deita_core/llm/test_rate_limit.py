from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from deita_core.llm.rate_limit import Pace

LIMITS = st.floats(1, 1e6)
GAPS = st.lists(st.one_of(st.just(0.0), st.floats(0, 3), st.floats(0, 200)), min_size=1, max_size=150)


def sent_at(pace, amounts, gaps):
    """When each amount is sent, asked for at moments that lie so far apart."""
    return [now + pace.reserve(amount, now) for now, amount in zip(accumulate(gaps), amounts, strict=False)]


@given(limit=LIMITS, gaps=GAPS, data=st.data())
def test_any_minute_holds_a_second_more_than_the_limit_and_the_last_thing(limit, gaps, data):
    share = st.floats(0, 0.3)
    amounts = [data.draw(share) * limit for _ in gaps]
    moments = sent_at(Pace(limit), amounts, gaps)
    for i, first in enumerate(moments):
        held = [amount for moment, amount in zip(moments[i:], amounts[i:], strict=True) if moment < first + 60]
        assert sum(held[:-1]) <= limit * 61 / 60 * (1 + 1e-6)


@given(limit=LIMITS, gaps=GAPS)
def test_what_is_sent_first_is_asked_for_first_and_never_before(limit, gaps):
    moments = sent_at(Pace(limit), [1.0] * len(gaps), gaps)
    assert moments == sorted(moments)
    assert all(moment >= asked for moment, asked in zip(moments, accumulate(gaps), strict=True))


@given(limit=LIMITS, n=st.integers(1, 300))
def test_a_limit_is_used_to_the_full(limit, n):
    moments = sent_at(Pace(limit), [1.0] * n, [0.0] * n)
    assert moments[-1] <= n * 60 / limit * 1.05


def test_a_pause_saves_up_no_more_than_a_second():
    pace = Pace(600)
    pace.reserve(1, 0.0)
    moments = [1_000 + pace.reserve(1, 1_000.0) for _ in range(100)]
    assert sum(moment == 1_000 for moment in moments) <= 11
    assert 8.5 < moments[-1] - moments[0] <= 10


@given(amounts=st.lists(st.floats(0, 1e9), max_size=20))
def test_without_a_limit_nobody_waits(amounts):
    pace = Pace(None)
    for amount in amounts:
        assert pace.reserve(amount, 0.0) == 0
        pace.correct(-amount)


@given(limit=LIMITS, guess=st.floats(0.1, 1e4), used=st.floats(0.1, 1e4), n=st.integers(2, 100))
def test_a_guess_put_right_costs_neither_the_limit_nor_the_time(limit, guess, used, n):
    guessed, exact = Pace(limit), Pace(limit)
    now = 0.0
    for _ in range(n):
        # One after the other: each is put right before the next is asked for.
        wait = guessed.reserve(guess, now)
        guessed.correct(used - guess)
        assert abs(wait - exact.reserve(used, now)) <= 1e-6 * (1 + wait)
        now += wait


def test_what_a_failed_request_did_not_use_is_given_back():
    pace = Pace(60)
    for _ in range(1_000):
        assert pace.reserve(30, 0.0) == 0
        pace.correct(-30)
