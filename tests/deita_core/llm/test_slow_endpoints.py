"""The client against endpoints that are slow, stream, answer one at a time, or say something in place of answers."""

import asyncio
from collections import Counter

import pytest

from deita_core.errors import LLMError
from deita_core.llm.cache import usage_of
from deita_core.llm.client import LLM, Answer, LLMSettings, PermanentRequestError
from deita_core.llm.traffic import TRAFFIC
from tests.support.llm_server import ERROR_FAULTS, LLMServer

pytestmark = pytest.mark.slow

KEY = "sk-0123456789-very-secret-abcdef"


def asked(server, store, n, **settings):
    """What comes of asking so many questions at once, answers and exceptions alike."""

    async def run():
        chosen = {"model": "m", "first_pause": 0.01, "timeout": 10, **settings}
        async with LLM(LLMSettings(base_url=server.url, **chosen), KEY, store, "job") as llm:
            asking = (llm.ask([{"role": "user", "content": f"Question {i} of many, and more."}]) for i in range(n))
            return await asyncio.gather(*asking, return_exceptions=True)

    return asyncio.run(run())


def are_answers(found):
    assert {type(one) for one in found} == {Answer}, [one for one in found if not isinstance(one, Answer)]
    return True


# -- streams


def test_answers_are_streamed_and_put_together_with_what_they_used(tmp_path):
    with LLMServer(pieces=7) as server, LLMServer(streams=False) as plain:
        streamed, whole = asked(server, tmp_path / "s", 5), asked(plain, tmp_path / "w", 5)
        assert are_answers(streamed) and all(entry.streamed for entry in server.log)
        assert not any(entry.streamed for entry in plain.log)
    for one, other in zip(streamed, whole, strict=True):
        assert (one.text, one.finish, one.prompt_tokens, one.completion_tokens) == (
            other.text, other.finish, other.prompt_tokens, other.completion_tokens,
        )  # fmt: skip


def test_a_time_out_counts_silence_and_not_length(tmp_path):
    # Each answer takes several times the time-out, but something of it always comes before.
    with LLMServer(pieces=12, piece_seconds=0.3) as server:
        found = asked(server, tmp_path, 2, timeout=1.5)
        assert are_answers(found) and len(server.log) == 2
    assert all(answer.seconds > 2 * 1.5 for answer in found)


@pytest.mark.parametrize("rejected", ["stream", "stream_options"])
def test_an_endpoint_that_refuses_a_stream_is_asked_without(rejected, tmp_path):
    with LLMServer(rejects=(rejected,)) as server:
        assert are_answers(asked(server, tmp_path, 40, concurrency=8))
        did = Counter(entry.did for entry in server.log)
        assert did["good"] == 40 and did[f"rejects {rejected}"] <= 8
        assert {entry.streamed for entry in server.log if entry.did == "good"} == {rejected == "stream_options"}


def test_where_a_stream_counts_no_tokens_and_they_matter_whole_answers_are_asked_for(tmp_path):
    with LLMServer(usage=False) as server:
        assert are_answers(asked(server, tmp_path, 10, concurrency=1, input_price=1, output_price=1))
        assert [entry.streamed for entry in server.log] == [True] + [False] * 9
        asked(server, tmp_path / "free", 3)
        assert all(entry.streamed for entry in server.log[10:])


@pytest.mark.parametrize("fault", ERROR_FAULTS)
def test_an_error_in_place_of_an_answer_is_asked_again(fault, tmp_path):
    with LLMServer(script=(fault,)) as server:
        assert are_answers(asked(server, tmp_path, 1, timeout=1))
    assert [entry.did for entry in server.log] == [fault, "good"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("error_in_reply", "Provider returned error for ***."),
        ("error_in_choice", "Provider returned error for ***."),
        ("error_in_stream", "The worker was lost."),
        ("500", "The server had an error."),
        ("401", "Incorrect API key provided: ***."),
        ("429", "Rate limit reached."),
    ],
)
def test_the_endpoints_own_words_are_told_without_the_key(fault, words, tmp_path):
    with LLMServer(poison={"": fault}) as server:
        found = asked(server, tmp_path, 3, attempts=2)
    assert {type(one) for one in found} == {LLMError} and len({str(one) for one in found}) == 1
    assert words in str(found[0]) and KEY not in str(found[0]) and str(found[0]).endswith(".")


@pytest.mark.parametrize("fault", ["credit_in_reply", "quota", "402"])
def test_credit_that_is_used_up_ends_the_run_at_once(fault, tmp_path):
    with LLMServer(poison={"": fault}) as server:
        found = asked(server, tmp_path, 30)
        assert len(server.log) <= 2
    assert {type(one) for one in found} == {LLMError} and KEY not in str(found[0])
    assert "credit or quota is used up" in str(found[0]) and "run the same command" in str(found[0])


# -- slow


def test_few_are_asked_until_the_first_is_answered(tmp_path):
    with LLMServer(latency=0.3) as server:
        assert are_answers(asked(server, tmp_path, 60, concurrency=30))
        first = min(entry.answered for entry in server.log)
        assert sum(entry.came < first for entry in server.log) == 2
        assert server.most_in_flight == 30


@pytest.mark.parametrize("streams", [True, False])
def test_an_endpoint_that_answers_one_at_a_time_and_computes_what_nobody_waits_for_gets_through(streams, tmp_path):
    # Two at once are one too many for it: the second waits for longer than the client does.
    before = TRAFFIC.copy()
    with LLMServer(latency=0.8, one_at_a_time=True, streams=streams) as server:
        found = asked(server, tmp_path, 8, concurrency=16, timeout=1.2, first_pause=0.5)
        assert are_answers(found)
        assert set(server.answered().values()) == {1}
        # Not one of sixteen at a time, each of which would be asked again and again.
        assert len(server.log) <= 3 * 8
        assert server.most_in_flight <= 4
    assert usage_of(tmp_path, "job").requests == 8
    seen = TRAFFIC.since(before)
    assert (seen.sent, seen.answered, seen.waiting) == (len(server.log), 8, 0)
    assert 1 <= seen.timed_out == seen.sent - 8
    assert seen.seconds / seen.answered >= 0.8


def test_a_request_that_is_lost_among_many_does_not_slow_the_others(tmp_path):
    script = ("",) * 40 + ("hang",)
    with LLMServer(latency=0.05, script=script) as server:
        assert are_answers(asked(server, tmp_path, 400, concurrency=16, timeout=1))
        [lost] = [entry for entry in server.log if entry.did == "hang"]
        assert server.most_in_flight == 16
    assert len(server.log) == 401
    after = [entry.came for entry in server.log if entry.came > lost.came + 1]
    assert after, "there was more to ask when it was given up"


def test_an_endpoint_that_never_answers_ends_the_run_after_few_attempts_and_says_so(tmp_path):
    with LLMServer(poison={"": "hang"}) as server:
        found = asked(server, tmp_path, 20, timeout=0.3)
        assert len(server.log) <= 2 * 3 + 2
    assert {type(one) for one in found} == {LLMError}
    assert "nothing came for 0.3 s" in str(found[0])


def test_a_request_that_never_ends_is_its_own_trouble(tmp_path):
    with LLMServer(poison={"Question 3 ": "hang"}) as server:
        found = asked(server, tmp_path, 10, timeout=0.4, attempts=2)
    assert isinstance(found.pop(3), PermanentRequestError) and are_answers(found)
