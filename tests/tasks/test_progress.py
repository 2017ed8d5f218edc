"""What a run says of itself where there is no terminal."""

import re
import time

import pytest

from deita_core.llm.traffic import TRAFFIC, Traffic
from tasks.runtime import progress as module
from tasks.runtime.llm_shards import slowness
from tasks.runtime.progress import REPORT, Progress, spelled


@pytest.fixture
def said(monkeypatch, capsys):
    """Waits until so many lines that hold a text have been printed; lines come quickly."""
    monkeypatch.setattr(module, "REPORT", 0.2)
    monkeypatch.setattr(module, "CHECK_INTERVAL", 0.05)
    lines = []

    def wait(text, n=1):
        for _ in range(600):
            lines.extend(capsys.readouterr().err.splitlines())
            if sum(text in line for line in lines) >= n:
                return [line for line in lines if text in line]
            time.sleep(0.05)
        raise AssertionError(f"{text} was not said: {lines}")

    return wait


def test_a_line_comes_at_least_every_30_seconds():
    assert REPORT <= 30 - 2 * module.CHECK_INTERVAL


def test_a_stage_that_is_slow_tells_of_itself_while_its_thread_waits(said):
    with Progress() as progress, progress.step("encoding", 5_000) as advance:
        advance(1_200, "3 of 12 shards")
        lines = said("encoding", 3)
    assert re.fullmatch(r"encoding: 1,200 of 5,000; 3 of 12 shards; \d+ s so far, about \d+ s left", lines[-1])


def test_the_time_left_follows_the_work_and_not_the_rows(said, monkeypatch):
    """Short texts come first: nine tenths of the rows may be a tenth of the work."""
    monkeypatch.setattr(module.Stage, "seconds", 20.0)
    with Progress() as progress, progress.step("encoding", 1_000) as advance:
        advance(900, "1 of 10 shards", 0.1)
        assert said("encoding")[-1] == "encoding: 900 of 1,000; 1 of 10 shards; 20 s so far, about 3 min left"


def test_more_than_was_expected_is_no_time_left(said):
    with Progress() as progress, progress.step("evolving quality", 6) as advance:
        advance(7)
        assert re.fullmatch(r"evolving quality: 7; \d+ s so far", said("evolving")[-1])


@pytest.mark.parametrize("name", ["reading", "selecting", "writing"])
def test_a_stage_of_one_step_tells_how_long_it_has_been_under_way(name, said):
    with Progress() as progress, progress.step(name):
        assert re.fullmatch(rf"{name}: under way; \d+ s so far", said(name)[0])


def test_training_tells_what_it_notes(said):
    with Progress() as progress, progress.percent("training") as watch:
        watch(40.0, "step 4 of 10, loss 1.5000")
        assert "training: 40 of 100; step 4 of 10, loss 1.5000; " in said("training")[0]


def test_what_lies_between_two_stages_is_not_silent(said):
    with Progress():
        assert said("preparing", 2)


def test_requests_are_told_of_in_whatever_stage_they_are_sent(said):
    with Progress() as progress, progress.step("scoring quality", 10):
        TRAFFIC.sent, TRAFFIC.timed_out, TRAFFIC.waiting = TRAFFIC.sent + 3, TRAFFIC.timed_out + 1, TRAFFIC.waiting + 2
        try:
            assert said("3 requests sent, 0 answered, 1 timed out, 2 waiting")
        finally:
            TRAFFIC.waiting -= 2


def test_a_stage_that_is_quick_is_one_line(capsys):
    with Progress() as progress, progress.step("writing"):
        pass
    assert re.fullmatch(r"writing: done in \d\.\d s\n", capsys.readouterr().err)


def test_a_stage_that_fails_is_told_of_no_more(said, capsys):
    with pytest.raises(OSError, match="full"), Progress() as progress, progress.step("writing"):
        raise OSError("the disk is full")
    capsys.readouterr()
    time.sleep(0.5)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (99, "99 s"), (100, "2 min"), (7_200, "2.0 h")])
def test_times_are_spelled_for_people(seconds, text):
    assert spelled(seconds) == text


def test_the_line_on_a_slow_endpoint_says_how_long_answers_take_and_what_to_change():
    line = slowness(Traffic(sent=9, answered=4, timed_out=2, seconds=180), 120)
    assert "120 s (2 of 9 requests" in line and "45 s on average" in line
    assert "DEITA_LLM__TIMEOUT" in line and "DEITA_LLM__MAX_TOKENS" in line
    assert "none has been answered yet" in slowness(Traffic(sent=2, timed_out=2), 120)
