import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.llm.in_flight import FIRST, InFlight


def test_few_are_in_flight_until_the_first_answer():
    places = InFlight(64, timeout=120)
    assert places.limit == FIRST == 2
    assert InFlight(1, timeout=120).limit == 1


def test_a_quick_answer_admits_all_that_could_be_answered_one_after_the_other():
    places = InFlight(64, timeout=120)
    places.answered(0.5)
    assert places.limit == 64
    places = InFlight(64, timeout=120)
    places.answered(12.0)
    assert places.limit == 5
    places.answered(70.0)
    assert places.limit == 6


def test_a_time_out_halves_the_number_once_for_all_that_were_in_flight_together():
    places = InFlight(64, timeout=120)
    places.answered(0.5)
    together = [places.sent() for _ in range(64)]
    for sent in together:
        places.timed_out(sent)
    assert places.limit == 32
    for _ in range(9):
        places.timed_out(places.sent())
    assert places.limit == 1


def test_a_request_that_others_overtook_was_lost_and_says_nothing_of_the_load():
    async def run():
        places = InFlight(8, timeout=120)
        places.answered(0.5)
        async with places.place(), places.place():
            lost = places.sent()
            for _ in range(2):
                places.answered(0.5)
        places.timed_out(lost)
        return places.limit

    assert asyncio.run(run()) == 8


def test_answers_raise_the_number_again_more_slowly_after_each_time_out():
    def answers_to_the_next_place(time_outs):
        places = InFlight(64, timeout=120)
        places.answered(0.5)
        for _ in range(time_outs):
            places.timed_out(places.sent())
        before, n = places.limit, 0
        while places.limit == before:
            places.answered(0.5)
            n += 1
        return n / before

    assert [answers_to_the_next_place(n) for n in range(1, 8)] == [1, 2, 4, 8, 16, 16, 16]


def test_all_places_are_had_again_in_the_end():
    places = InFlight(16, timeout=120)
    places.answered(0.5)
    for _ in range(10):
        places.timed_out(places.sent())
    for _ in range(16 * 16 * 16):
        places.answered(0.5)
    assert places.limit == 16


@given(st.lists(st.sampled_from(["quick", "slow", "time-out"]), max_size=300), st.integers(1, 40))
def test_the_number_stays_between_one_and_the_limit(events, most):
    places = InFlight(most, timeout=120)
    for event in events:
        if event == "time-out":
            places.timed_out(places.sent())
        else:
            places.answered({"quick": 0.001, "slow": 500.0}[event])
        assert 1 <= places.limit <= most


@pytest.mark.parametrize("cancel", [False, True])
def test_who_yields_a_surplus_place_is_the_next_to_get_one(cancel):
    """Even where one of those that wait is cancelled meanwhile, the count stays right."""

    async def run():
        places, order = InFlight(2, timeout=120), []
        gate = asyncio.Event()

        async def first():
            async with places.place():
                places.timed_out(places.sent())
                await places.yield_surplus()
                order.append("first")

        async def second():
            async with places.place():
                await gate.wait()
                order.append("second")

        async def third():
            async with places.place():
                order.append("third")

        tasks = [asyncio.create_task(one()) for one in (second, first, third)]
        await asyncio.sleep(0.01)
        assert order == [] and places.limit == 1
        if cancel:
            tasks[1].cancel()
        gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(10), places.place():
            pass
        return order

    assert asyncio.run(run()) == (["second", "third"] if cancel else ["second", "first", "third"])
