import asyncio
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import traceback
from collections import Counter
from time import monotonic, sleep

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import ValidationError

from deita_core.errors import LLMError
from deita_core.evolution.ranking import SCHEMA
from deita_core.llm.cache import usage_of
from deita_core.llm.client import (
    LLM,
    Answer,
    LLMSettings,
    PermanentRequestError,
    Request,
    find_key,
    resume_clients,
    stop_clients,
)
from tests.support.llm_server import QUICK_FAULTS, SLOW_FAULTS, LLMServer, evenly
from tests.support.paths import ROOT

KEY = "sk-0123456789-very-secret-abcdef"
# One more answer from an endpoint that works, so that a trouble is not taken for that of the endpoint.
GOOD = "Is anybody there?"


def message(text):
    return [{"role": "user", "content": text}]


def prompts(n, length=0):
    return [f"Question {i}. {'word ' * (length // 5)}" for i in range(n)]


async def asked(url, store, texts, *, first=None, key=KEY, job="job", ask=None, **settings):
    """What comes of asking all at once, answers and exceptions alike; `first` is asked alone before them."""
    settings = {"model": "m", "first_pause": 0.01, "timeout": 10, **settings}
    async with LLM(LLMSettings(base_url=url, **settings), key, store, job) as llm:
        if first:
            await llm.ask(message(first))
        return await asyncio.gather(*(llm.ask(message(t), **(ask or {})) for t in texts), return_exceptions=True)


def results(server, store, texts, **options):
    return asyncio.run(asked(server.url, store, texts, **options))


def sentence(found):
    """The sentence that stops a job, from the one error that all share."""
    assert {type(one) for one in found} == {LLMError}
    [said] = {str(one) for one in found}
    assert said.endswith(".") and "\n" not in said and len(said) < 400
    return said


def answers(found):
    assert {type(one) for one in found} == {Answer}, [one for one in found if not isinstance(one, Answer)]
    return found


# -- troubles that pass


@pytest.mark.parametrize("fault", [*QUICK_FAULTS, *SLOW_FAULTS])
def test_a_passing_trouble_is_retried_and_the_answer_comes(fault, tmp_path):
    with LLMServer(script=(fault,)) as server:
        [answer] = answers(results(server, tmp_path, ["hello"], timeout=0.5))
    assert [entry.did for entry in server.log] == [fault, "good"]
    assert answer.text.startswith("You asked: hello") and answer.finish == "stop"


def test_all_answers_come_through_faults_of_every_kind(tmp_path):
    with LLMServer(faults=evenly(0.3, set(QUICK_FAULTS) - {"429_date"}), retry_after=0.01) as server:
        answers(results(server, tmp_path, prompts(200)))
    assert len({entry.did for entry in server.log}) > 8
    assert set(server.answered().values()) == {1} and len(server.answered()) == 200


@pytest.mark.parametrize(("fault", "wait"), [("429_retry_after", 1.0), ("503_retry_after", 1.0), ("429_date", 1.0)])
def test_what_an_endpoint_asks_of_one_request_it_means_for_all(fault, wait, tmp_path):
    with LLMServer(script=("", fault), retry_after=wait) as server:
        answers(results(server, tmp_path, prompts(20), concurrency=1))
    told = next(entry for entry in server.log if entry.did == fault)
    after = [entry.came - told.came for entry in server.log if entry.came > told.came]
    # A date has whole seconds, of which the first is cut.
    assert len(after) == 19 and min(after) >= 0.95 * wait


def test_a_pause_holds_for_those_who_already_wait_for_their_turn(tmp_path):
    # Ten a second, so that most of the twenty wait for their turn when the second is told to wait.
    with LLMServer(script=("", "429_retry_after"), retry_after=1.5) as server:
        answers(results(server, tmp_path, prompts(20), concurrency=20, requests_per_minute=600))
    told = next(entry for entry in server.log if entry.did == "429_retry_after")
    # What was sent together with it is sent.
    during = [entry for entry in server.log if 0.3 < entry.came - told.came < 1.4]
    assert not during


def test_a_pause_does_not_lift_the_limit(tmp_path):
    with LLMServer(script=("",) * 12 + ("429_retry_after",), retry_after=1.5) as server:
        answers(results(server, tmp_path, prompts(40), concurrency=40, requests_per_minute=600))
    came = sorted(entry.came for entry in server.log)
    # A second's worth ahead, and a second's worth.
    assert fullest(came, 1.0) <= 2 * 10 + 2


def test_retry_after_0_is_no_call_to_give_up_within_a_moment(tmp_path):
    # The trouble lasts as long as 20 requests: nothing for a client that pauses a little more each time.
    with LLMServer(script=("",) + ("429_retry_after",) * 20, retry_after=0) as server:
        found = results(server, tmp_path, prompts(3), first=GOOD, first_pause=0.05)
    answers(found)
    gaps = [b.came - a.came for a, b in zip(server.log[1:], server.log[2:], strict=False)]
    assert max(gaps) > 0.05


def test_a_limit_nobody_told_us_is_waited_for(tmp_path):
    # Three a minute, as some give to those who do not pay, and the concurrency of the preset; a minute of 0.15 s.
    with LLMServer(requests_per_minute=3, minute=0.15) as server:
        answers(results(server, tmp_path, prompts(40), concurrency=16))
    assert set(server.answered().values()) == {1}


# -- troubles that do not


def test_a_wrong_key_stops_at_once_and_is_never_shown(tmp_path):
    with LLMServer(keys=["another"], latency=0.05) as server:
        found = results(server, tmp_path, prompts(200), concurrency=8)
    said = sentence(found)
    assert "401" in said and "DEITA_LLM__API_KEY" in said and server.url in said
    assert len(server.log) <= 8
    assert KEY not in "".join(traceback.format_exception(found[0])) + repr(found[0])


def test_the_end_of_everything_has_a_short_traceback_for_everybody(tmp_path):
    with LLMServer(keys=["another"]) as server:
        found = results(server, tmp_path, prompts(100))
    assert max(len(traceback.extract_tb(one.__traceback__)) for one in found) < 50


def test_an_unknown_model_stops_at_once(tmp_path):
    with LLMServer(models=["another"], latency=0.05) as server:
        said = sentence(results(server, tmp_path, prompts(200), concurrency=8, model="gtp-4"))
    assert "gtp-4" in said and "--model" in said and len(server.log) <= 8


@pytest.mark.parametrize("fault", ["402", "403"])
def test_a_refusal_that_repeats_the_key_is_shown_without_it(fault, tmp_path):
    with LLMServer(script=(fault,)) as server:
        [error] = results(server, tmp_path, ["hello"])
    assert fault in sentence([error]) and "***" in str(error) and "secret" not in repr(error)


def test_a_key_longer_than_what_is_quoted_is_not_shown_in_part(tmp_path):
    # Tokens of cloud accounts have a thousand characters.
    with LLMServer(script=("403",)) as server:
        [error] = results(server, tmp_path, ["hello"], key="secret-" * 150)
    assert "secret" not in f"{error} {error!r}"


@pytest.mark.parametrize(
    "key", ["sk-secret\nsecond", "sk-secret\u200b", "“sk-secret”", "schlüssel-secret", "sk\x00secret"]
)
def test_a_key_that_cannot_be_sent_stops_at_once_and_is_not_shown(key, tmp_path):
    with LLMServer() as server, pytest.raises(LLMError) as stopped:
        results(server, tmp_path, ["hello"], key=key)
    assert "secret" not in f"{stopped.value} {stopped.value!r}"
    assert "key" in sentence([stopped.value]) and not server.log


@pytest.mark.parametrize("fault", ["quota", "429_hour"])
def test_a_quota_stops_and_says_how_to_go_on(fault, tmp_path):
    with LLMServer(script=("", fault), latency=0.02) as server:
        found = results(server, tmp_path, prompts(50), first=GOOD, concurrency=4)
    said = sentence([one for one in found if not isinstance(one, Answer)])
    assert "run the same command" in said and len(server.log) <= 6
    if fault == "429_hour":
        assert "3,600 seconds" in said


def test_an_address_where_nobody_listens_stops_quickly(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    started = monotonic()
    said = sentence(asyncio.run(asked(url, tmp_path, prompts(50), first_pause=0.1)))
    assert url in said and "no connection" in said
    assert monotonic() - started < 30


# All that is asked after the first answer, the client's own question whether anybody is there included.
DOWN = {"Question": "500", "Reply with": "500"}


def test_a_poisoned_request_is_unanswered_while_others_go_on(tmp_path):
    with LLMServer(poison={"hemlock": "500"}) as server:
        found = results(server, tmp_path, ["A cup of hemlock.", *prompts(40)], concurrency=4, attempts=4)
    assert isinstance(found[0], PermanentRequestError)
    assert (found[0].reason, found[0].lasting) == ("no_answer", False) and "500" in found[0].detail
    answers(found[1:])
    assert Counter(entry.did for entry in server.log) == {"500": 4, "good": 40}


def test_an_endpoint_that_fails_request_after_request_stops_everything(tmp_path):
    with LLMServer(poison=DOWN) as server:
        found = results(server, tmp_path, prompts(400), first=GOOD, concurrency=4, attempts=2)
    given_up = [one for one in found if isinstance(one, PermanentRequestError)]
    assert len(given_up) == 7
    assert "500" in sentence([one for one in found if not isinstance(one, PermanentRequestError)])


def test_an_endpoint_that_goes_down_is_not_tried_with_every_request_there_is(tmp_path):
    with LLMServer(poison=DOWN) as server:
        results(server, tmp_path, prompts(400), first=GOOD, concurrency=4, attempts=3)
    assert len(server.log) < 150


def test_a_few_requests_that_always_fail_do_not_stop_a_job_for_ever(tmp_path):
    texts = [*(f"Cup {i} of hemlock." for i in range(10)), *prompts(30)]
    with LLMServer(poison={"hemlock": "500"}) as server:
        results(server, tmp_path, texts, attempts=2)
        # The second run has only those before it that fail.
        again = results(server, tmp_path, texts, attempts=2)
    assert {type(one) for one in again[:10]} == {PermanentRequestError}
    answers(again[10:])


@pytest.mark.parametrize(
    ("fault", "reason"), [("too_long", "too_long"), ("413", "too_long"), ("filtered_prompt", "content_filter")]
)
def test_a_request_no_endpoint_can_answer_is_lasting_and_its_own(fault, reason, tmp_path):
    with LLMServer(poison={"hemlock": fault}) as server:
        found = results(server, tmp_path, ["A cup of hemlock.", *prompts(10)])
    assert isinstance(found[0], PermanentRequestError) and (found[0].reason, found[0].lasting) == (reason, True)
    answers(found[1:])
    assert Counter(entry.did for entry in server.log)[fault] == 1


def test_a_request_the_endpoint_does_not_admit_is_its_own_once_another_was_answered(tmp_path):
    with LLMServer(poison={"hemlock": "400"}) as server:
        [error] = results(server, tmp_path, ["A cup of hemlock."], first=GOOD)
        assert isinstance(error, PermanentRequestError) and (error.reason, error.lasting) == ("refused_request", True)
    with LLMServer(script=("400",) * 5) as server:
        said = sentence(results(server, tmp_path, ["hello"], job="other"))
        assert "Something in this request is not right" in said and len(server.log) == 1


@pytest.mark.parametrize("finish", ["content_filter", "cut_off"])
def test_how_an_answer_ended_is_kept_with_it(finish, tmp_path):
    with LLMServer(faults={finish: 1.0}) as server:
        first = answers(results(server, tmp_path, ["hello"]))
        assert answers(results(server, tmp_path, ["hello"])) == first
    assert first[0].finish == {"cut_off": "length"}.get(finish, finish)
    assert len(server.log) == 1


async def stopped(url, store, after, first=None, **settings):
    """What comes of asking 20 questions, and how long it takes after the client is stopped."""
    async with LLM(LLMSettings(base_url=url, model="m", **settings), KEY, store, "job") as llm:
        if first:
            await llm.ask(message(first))
        asking = asyncio.gather(*(llm.ask(message(t)) for t in prompts(20)), return_exceptions=True)
        await asyncio.sleep(after)
        llm.stop("Stopped by hand.")
        moment = monotonic()
        return await asking, monotonic() - moment


def test_what_is_sent_when_a_client_is_stopped_is_answered_and_kept(tmp_path):
    with LLMServer(latency=0.6) as server:
        found, _ = asyncio.run(stopped(server.url, tmp_path, 0.3, first=GOOD, concurrency=4))
    assert [type(one) for one in found] == [Answer] * 4 + [LLMError] * 16
    assert "Stopped by hand." in str(found[-1]) and usage_of(tmp_path, "job").requests == len(server.log) == 5


def test_a_client_that_waits_can_be_stopped(tmp_path):
    with LLMServer(script=("429_retry_after",), retry_after=40) as server:
        found, seconds = asyncio.run(stopped(server.url, tmp_path, 0.3, concurrency=1))
    assert LLMError in {type(one) for one in found} and seconds < 20


# -- parameters that an endpoint does not know


@pytest.mark.parametrize("parameter", ["response_format", "seed", "temperature", "max_tokens"])
def test_a_parameter_the_endpoint_does_not_know_is_left_out_from_then_on(parameter, tmp_path):
    with LLMServer(rejects=(parameter,), latency=0.05) as server:
        answers(results(server, tmp_path, prompts(128), concurrency=64, ask={"schema": SCHEMA}))
    did = Counter(entry.did for entry in server.log)
    assert did["good"] == 128 and set(server.answered().values()) == {1}
    assert did[f"rejects {parameter}"] <= 64


def test_all_parameters_can_be_unknown_at_once(tmp_path):
    rejected = ("max_tokens", "seed", "temperature", "response_format")
    with LLMServer(rejects=rejected) as server:
        answers(results(server, tmp_path, prompts(64), concurrency=64, ask={"schema": SCHEMA}))
    assert Counter(entry.did for entry in server.log)["good"] == 64


def test_the_limit_of_tokens_is_kept_under_its_newer_name(tmp_path):
    with LLMServer(rejects=("max_tokens",)) as server:
        [answer] = answers(results(server, tmp_path, ["one two three four five six"], max_tokens=3))
    assert answer.finish == "length" and answer.completion_tokens == 3


def test_response_format_is_sent_for_json_only_and_not_at_all_where_it_is_off(tmp_path):
    with LLMServer(json_mode=False) as server:
        answers(results(server, tmp_path, ["hello"]))
        answers(results(server, tmp_path, ["goodbye"], structured="off", ask={"schema": SCHEMA}))
    assert [entry.did for entry in server.log] == ["good", "good"]


def test_an_answer_in_json_is_asked_for_by_its_schema():
    request = Request("m", (("user", "hello"),), 0.0, 0, 9, SCHEMA)
    form = request.wire(set())["response_format"]
    assert form["type"] == "json_schema" and form["json_schema"]["schema"] == SCHEMA and form["json_schema"]["strict"]
    assert "response_format" not in request.wire({"response_format"})


# -- what is paid is paid once


def test_an_answered_request_is_never_sent_again(tmp_path):
    texts = prompts(20)

    async def twice(url):
        async with LLM(LLMSettings(base_url=url, model="m"), KEY, tmp_path, "job") as llm:
            return [[await llm.ask(message(text)) for text in texts] for _ in range(2)]

    with LLMServer() as server:
        first, second = asyncio.run(twice(server.url))
        third = results(server, tmp_path, texts, job="another", key="another", concurrency=3)
    assert first == second == third
    assert len(server.log) == 20 and set(server.answered().values()) == {1}


def test_two_that_ask_the_same_at_once_make_one_request(tmp_path):
    with LLMServer(latency=0.1) as server:
        found = answers(results(server, tmp_path, ["hello"] * 10 + ["goodbye"] * 10))
    assert len(server.log) == 2 and len({answer.text for answer in found}) == 2


def test_asking_another_time_makes_another_request(tmp_path):
    async def ask(url):
        async with LLM(LLMSettings(base_url=url, model="m"), KEY, tmp_path, "job") as llm:
            return [await llm.ask(message("hello"), nth=nth) for nth in (0, 1, 1, 2)]

    with LLMServer() as server:
        found = asyncio.run(ask(server.url))
    assert len({answer.id for answer in found}) == 3 and len(server.log) == 3


def client_process(url, store, n):
    """A process that asks n questions, as asked() does here."""
    code = f"""
        import asyncio
        from pathlib import Path
        from deita_core.llm.client import LLM, LLMSettings

        async def main():
            settings = LLMSettings(base_url={url!r}, model="m", concurrency=16, first_pause=0.01)
            async with LLM(settings, {KEY!r}, Path({str(store)!r}), "job") as llm:
                ask = (llm.ask([{{"role": "user", "content": f"Question {{i}}."}}]) for i in range({n}))
                await asyncio.gather(*ask)

        asyncio.run(main())
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT)


@pytest.mark.slow
def test_a_killed_client_pays_nothing_twice(tmp_path):
    n, kills, chance = 400, [], random.Random(7)
    with LLMServer(latency=0.02, jitter=0.05) as server:
        for _ in range(6):
            done, started = len(server.answered()), monotonic()
            client = client_process(server.url, tmp_path, n)
            wanted = done + chance.randint(1, 50)
            while len(server.answered()) < wanted and client.poll() is None and monotonic() - started < 60:
                sleep(0.002)
            kills.append(monotonic())
            os.kill(client.pid, signal.SIGKILL)
            client.wait()
        assert 6 < len(server.answered()) < n
        client = client_process(server.url, tmp_path, n)
        assert client.wait(120) == 0
        again = answers(results(server, tmp_path, [f"Question {i}." for i in range(n)], timeout=120))
    assert len({answer.id for answer in again}) == n == len(server.answered())
    answered = {}
    for entry in server.log:
        if entry.answered is not None:
            answered.setdefault(entry.hash, []).append(entry)
    # Only what lay in the socket when its client was killed was asked a second time.
    paid_twice = [entry.answered for entries in answered.values() for entry in entries[:-1]]
    assert all(any(kill - 0.25 < moment < kill + 0.5 for kill in kills) for moment in paid_twice)
    assert len(paid_twice) <= 6 * 16
    usage = usage_of(tmp_path, "job")
    assert usage.requests == n


@given(st.data())
def test_a_request_is_known_by_what_its_answer_depends_on_and_by_nothing_else(data):
    fields = {
        "model": st.text(min_size=1),
        "messages": st.lists(st.tuples(st.sampled_from(["system", "user"]), st.text())).map(tuple),
        "temperature": st.floats(0, 2),
        "seed": st.integers(0, 2**31),
        "max_tokens": st.integers(1, 10**6),
        "schema": st.none() | st.just(SCHEMA),
    }
    one, other = ({name: data.draw(values) for name, values in fields.items()} for _ in range(2))
    assert Request(**one).id == Request(**dict(reversed(one.items()))).id
    for name in fields:
        changed = {**one, name: other[name]}
        assert (Request(**changed).id == Request(**one).id) == (changed == one)
    assert (Request(**other).id == Request(**one).id) == (other == one)


@pytest.mark.parametrize(
    ("setting", "same"),
    [
        ({"concurrency": 2}, True), ({"timeout": 33}, True), ({"attempts": 2}, True), ({"first_pause": 3}, True),
        ({"requests_per_minute": 9e5}, True), ({"input_price": 1, "output_price": 1, "spend_cap": 9}, True),
        ({"judge": "j"}, True), ({"api_key_block": "b"}, True),
        ({"model": "n"}, False), ({"temperature": 0.1}, False), ({"seed": 5}, False), ({"max_tokens": 99}, False),
    ],
)  # fmt: skip
def test_how_a_request_is_sent_does_not_make_it_another(setting, same, tmp_path):
    with LLMServer() as server, LLMServer() as elsewhere:
        answers(results(server, tmp_path, ["hello"]))
        answers(results(elsewhere, tmp_path, ["hello"], key="another", **setting))
        assert len(elsewhere.log) == (0 if same else 1)


# -- the key


def test_the_key_is_in_no_file_no_error_and_no_log(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2", "deita_core"):
        caplog.set_level(logging.DEBUG, name)
    with LLMServer(poison={"hemlock": "403"}, faults=evenly(0.2, set(QUICK_FAULTS) - {"429_date"})) as server:
        found = results(server, tmp_path, [*prompts(20), "A cup of hemlock."], first=GOOD, concurrency=2)
        assert {entry.authorization for entry in server.log} == {f"Bearer {KEY}"}
    stop = [one for one in found if isinstance(one, LLMError)]
    assert stop and all(KEY not in f"{one} {one!r}" for one in found)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "answers.db" for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert not [record.name for record in caplog.records if KEY in record.getMessage() + repr(record.args)]


def test_the_key_is_in_no_file_of_a_store_in_use(tmp_path):
    async def look(url):
        async with LLM(LLMSettings(base_url=url, model="m"), KEY, tmp_path, "job") as llm:
            await llm.ask(message("hello"))
            return {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    with LLMServer() as server:
        files = asyncio.run(look(server.url))
    assert "answers.db-wal" in files and not any(KEY.encode() in data for data in files.values())


def test_the_key_comes_from_the_block_else_the_environment(monkeypatch):
    local = LLMSettings(base_url="http://127.0.0.1:1/v1", model="m")
    for name in ("DEITA_LLM__API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    assert find_key(local)
    with pytest.raises(LLMError, match="DEITA_LLM__API_KEY"):
        find_key(LLMSettings(model="m"))
    monkeypatch.setenv("OPENAI_API_KEY", "second\n")
    assert find_key(LLMSettings(model="m")) == "second"
    monkeypatch.setenv("DEITA_LLM__API_KEY", "first")
    assert find_key(local) == "first" and find_key(local, from_block="block") == "block"


# -- the spend


@pytest.fixture(scope="module")
def paid_server():
    with LLMServer(latency=0.002, jitter=0.01) as server:
        yield server


@examples(max_examples=15)
@given(
    input_price=st.floats(0, 1e4),
    output_price=st.floats(0.1, 1e4),
    share=st.floats(0.01, 1.5),
    concurrency=st.integers(1, 32),
    seed=st.integers(0, 10**6),
)
def test_the_cap_is_never_passed(paid_server, tmp_path_factory, input_price, output_price, share, concurrency, seed):
    most = (20 * 120 * input_price + 20 * 50 * output_price) / 1e6
    cap = share * most
    prices = {"input_price": input_price, "output_price": output_price, "spend_cap": cap, "max_tokens": 50}
    store, before = tmp_path_factory.mktemp("store"), len(paid_server.log)
    found = results(paid_server, store, prompts(20, 100), seed=seed, concurrency=concurrency, **prices)
    new = paid_server.log[before:]
    paid = sum(e.prompt_tokens * input_price + e.completion_tokens * output_price for e in new) / 1e6
    assert paid <= cap * (1 + 1e-9)
    assert usage_of(store, "job").cost == pytest.approx(paid)
    if any(isinstance(one, LLMError) for one in found):
        # It stops only where the next request might pass it.
        assert paid > cap - (140 * input_price + 50 * output_price) / 1e6
        assert "--spend-cap" in sentence([one for one in found if isinstance(one, LLMError)])


@pytest.mark.parametrize("text", ["🦔" * 100, "ကောင်းပါတယ် " * 20, "Hi"], ids=["emoji", "Burmese", "short"])
def test_a_text_of_more_tokens_than_letters_does_not_pass_the_cap(text, tmp_path):
    # To a tokenizer that does not know a script every byte is a token, and the roles are some more.
    prices = {"input_price": 1_000, "output_price": 0, "max_tokens": 5}
    with LLMServer(token_bytes=1) as server:
        [answer] = answers(results(server, tmp_path, [text], first=GOOD, **prices))
        cap = usage_of(tmp_path, "job").cost + 2.9 * answer.cost
        results(server, tmp_path, [f"{text}{i}" for i in range(9)], spend_cap=cap, **prices)
    assert usage_of(tmp_path, "job").cost <= cap


def test_what_an_earlier_run_paid_counts_and_a_higher_cap_goes_on(tmp_path):
    prices = {"input_price": 100.0, "output_price": 100.0, "max_tokens": 50}
    with LLMServer() as server:
        first = results(server, tmp_path, prompts(30, 400), spend_cap=0.1, **prices)
        assert "raise --spend-cap and run the same command" in sentence([e for e in first if isinstance(e, LLMError)])
        sent, paid = len(server.log), usage_of(tmp_path, "job").cost
        assert 0 < paid <= 0.1
        results(server, tmp_path, prompts(30, 400), spend_cap=0.1, **prices)
        assert len(server.log) == sent
        answers(results(server, tmp_path, prompts(30, 400), spend_cap=5.0, **prices))
    assert len(server.answered()) == 30 and set(server.answered().values()) == {1}
    assert usage_of(tmp_path, "job").requests == 30


def test_another_job_has_a_spend_of_its_own(tmp_path):
    prices = {"input_price": 100.0, "output_price": 100.0, "max_tokens": 50, "spend_cap": 0.1}
    with LLMServer() as server:
        results(server, tmp_path, prompts(30, 400), **prices)
        found = results(server, tmp_path, [f"Another: {text}" for text in prompts(2, 400)], job="another", **prices)
    answers(found)


def test_what_nobody_counts_is_taken_to_be_the_most_it_can_be(tmp_path):
    text = "four words of prompt"
    with LLMServer(usage=False) as server:
        [answer] = answers(results(server, tmp_path, [text], input_price=1e6, output_price=1e6, max_tokens=30))
    assert (answer.prompt_tokens, answer.completion_tokens) == (None, None)
    assert answer.cost >= len(text) + 30
    assert usage_of(tmp_path, "job").cost == answer.cost


def test_a_price_unknown_is_no_price_of_nothing(tmp_path):
    with LLMServer() as server:
        [answer] = answers(results(server, tmp_path, ["hello"]))
    assert answer.cost is None and answer.completion_tokens > 0


# -- limits


def fullest(moments, seconds):
    """The most moments that any window of so many seconds holds."""
    moments = sorted(moments)
    return max(sum(first <= m < first + seconds for m in moments[i:]) for i, first in enumerate(moments))


@pytest.mark.parametrize("concurrency", [1, 5, 32])
def test_no_more_are_in_flight_than_asked_for_and_as_many_as_that(concurrency, tmp_path):
    with LLMServer(latency=0.05) as server:
        answers(results(server, tmp_path, prompts(4 * concurrency), concurrency=concurrency))
    assert server.most_in_flight == concurrency


def test_requests_per_minute_hold_in_every_window(tmp_path):
    with LLMServer(latency=0.02, faults={"500": 0.1}) as server:
        answers(results(server, tmp_path, prompts(70), concurrency=64, requests_per_minute=1_200))
    came = sorted(entry.came for entry in server.log)
    for seconds in (0.5, 1.0):
        # One second's worth may be sent ahead, and a machine that stands still for a second delivers what was sent in
        # it at once.
        assert fullest(came, seconds) <= 20 * seconds * 1.05 + 20 + 20
    # Without a limit all come within a fraction of a second; with it, 50 of the 70 wait for their turn.
    assert 1.5 < came[-1] - came[0] < 40


def test_tokens_per_minute_hold_in_every_window(tmp_path):
    with LLMServer(latency=0.02) as server:
        answers(results(server, tmp_path, prompts(40, 800), concurrency=16, tokens_per_minute=120_000))
    moments = sorted((entry.came, entry.prompt_tokens + entry.completion_tokens) for entry in server.log)
    for seconds in (1.0, 2.0):
        held = max(sum(n for came, n in moments if first <= came < first + seconds) for first, _ in moments)
        # While there is no answer to guess from, the guess of what is in flight can be wrong by as much as it is.
        assert held <= 2_000 * (seconds + 1) * 1.05 + 16 * 220
    assert moments[-1][0] - moments[0][0] < 60


# -- settings


@pytest.mark.parametrize(
    "address",
    [
        "http://sk-secret@host/v1", "https://user:sk-secret@host/v1", "https://host/v1?key=sk-secret", "host/v1",
        "ftp://host/v1", "http://", "", "http://[::1/v1",
    ],
)  # fmt: skip
def test_an_address_that_holds_a_key_or_is_none_is_refused(address):
    with pytest.raises(ValidationError) as error:
        LLMSettings(model="m", base_url=address)
    assert "secret" not in str(error.value)


def test_a_plain_address_is_taken_without_its_last_slash():
    assert LLMSettings(model="m", base_url="http://[::1]:8000/v1/").base_url == "http://[::1]:8000/v1"


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": "sk-secret"}, {"model": ""}, {"concurrency": 0}, {"timeout": 0}, {"attempts": 0}, {"spend_cap": 0},
        {"spend_cap": 1}, {"spend_cap": 1, "input_price": 1}, {"requests_per_minute": 0}, {"structured": "always"},
        {"input_price": -1, "output_price": 1}, {"temperature": 3},
        {"spend_cap": float("nan"), "input_price": 1, "output_price": 1},
        {"input_price": float("nan"), "output_price": 1, "spend_cap": 1},
        {"requests_per_minute": float("nan")}, {"timeout": float("nan")},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValidationError) as error:
        LLMSettings(**{"model": "m", **settings})
    assert "sk-secret" not in str(error.value)


def test_a_client_that_was_refused_is_not_in_the_way_of_an_interruption(tmp_path, request):
    request.addfinalizer(resume_clients)
    # Its error holds the client that was not made.
    with pytest.raises(LLMError) as refused:
        LLM(LLMSettings(base_url="http://127.0.0.1:9/v1", model="m"), "two\nlines", tmp_path, "job")
    stop_clients()
    assert refused.value


def test_after_an_interruption_no_client_asks_until_the_next_run(tmp_path, request):
    request.addfinalizer(resume_clients)
    with LLMServer() as server:
        stop_clients()
        assert "interrupted" in sentence(results(server, tmp_path, prompts(3)))
        assert not server.log
        resume_clients()
        answers(results(server, tmp_path, prompts(3)))
