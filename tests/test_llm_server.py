import json
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from deita_core.evolution.checks import instruction_problem, response_problem, words
from deita_core.evolution.prompts import OPERATIONS, evolve_instruction, evolve_response, rank_variants
from deita_core.evolution.replies import rewritten
from tests.support.llm_rules import CLAUSES, CONTENT_FAULTS, SENTENCES
from tests.support.llm_server import QUICK_FAULTS, SLOW_FAULTS, LLMServer, ServerProcess, evenly

INSTRUCTION = "Name a good book about gardens and say who it is for."
ANSWER = "The Well-Tempered Garden by Christopher Lloyd suits anyone who has a garden and an opinion."


def post(url, messages=({"role": "user", "content": "hello"},), key="k", timeout=10, **fields):
    """Status and body of a request; the status is 0 where no whole answer comes."""
    body = {"model": "m", "messages": list(messages), "temperature": 0.7, "seed": 0, **fields}
    headers = {"Authorization": f"Bearer {key}"}
    try:
        with urlopen(Request(f"{url}/chat/completions", json.dumps(body).encode(), headers), timeout=timeout) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        return error.code, error.read()
    except Exception as error:
        return 0, type(error).__name__.encode()


def said(url, messages, **fields):
    status, body = post(url, messages, **fields)
    assert status == 200
    return json.loads(body)["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def server():
    with LLMServer() as server:
        yield server


@pytest.mark.parametrize("operation", OPERATIONS["complexity"])
def test_an_instruction_grows_by_a_clause_of_10_to_20_words(server, operation):
    new = rewritten(said(server.url, evolve_instruction(operation, INSTRUCTION)))
    assert new.startswith(INSTRUCTION)
    assert 10 <= len(words(new)) - len(words(INSTRUCTION)) <= 20
    assert instruction_problem(INSTRUCTION, new) is None


@pytest.mark.parametrize("operation", OPERATIONS["quality"])
def test_an_answer_grows_by_a_sentence_or_two(server, operation):
    new = rewritten(said(server.url, evolve_response(operation, INSTRUCTION, ANSWER)))
    assert new.startswith(ANSWER) and len(new) > len(ANSWER)
    assert response_problem(INSTRUCTION, ANSWER, new) is None


@pytest.mark.parametrize(("axis", "bank"), [("complexity", CLAUSES), ("quality", SENTENCES)])
def test_every_operation_has_its_own_clauses(axis, bank):
    found = [[word for word in bank if word in sentence] for sentence in OPERATIONS[axis].values()]
    assert sorted(map(len, found)) == [1] * len(bank)
    assert sorted(word for [word] in found) == sorted(bank)


def test_a_reply_depends_on_the_request_alone(server):
    messages = evolve_instruction("deepen", INSTRUCTION)
    first = said(server.url, messages)
    with LLMServer() as other:
        assert said(other.url, messages) == first
    replies = {said(server.url, messages, seed=seed) for seed in range(20)}
    assert len(replies) > 5


def test_scores_follow_the_length_and_not_the_place(server):
    variants = ["One.", "One two.", "One two three.", "One two.", "One two three four five."]
    for axis, instruction in (("complexity", None), ("quality", INSTRUCTION)):
        forward = json.loads(said(server.url, rank_variants(axis, variants, instruction)))["scores"]
        backward = json.loads(said(server.url, rank_variants(axis, variants[::-1], instruction)))["scores"]
        assert [entry["index"] for entry in forward] == [1, 2, 3, 4, 5]
        assert [entry["score"] for entry in forward] == [entry["score"] for entry in backward][::-1]
        assert [entry["score"] for entry in forward] == [1, 3, 4, 3, 6]


def test_a_noisy_judge_minds_the_place():
    variants = ["The same."] * 6
    with LLMServer(noise=0.5) as server:
        scores = {
            entry["score"]
            for seed in range(5)
            for entry in json.loads(said(server.url, rank_variants("complexity", variants), seed=seed))["scores"]
        }
    assert len(scores) > 1 and scores <= set(range(1, 7))


@pytest.mark.parametrize("fault", QUICK_FAULTS)
def test_a_transport_fault_comes_once_and_the_answer_after_it(fault):
    with LLMServer(script=(fault,)) as server:
        first, second = post(server.url), post(server.url)
    useless = fault in ("broken_json", "wrong_type", "empty_choices", "null_message")
    assert first[0] == (200 if useless else int(fault[:3]) if fault[0].isdecimal() else 0)
    assert second[0] == 200 and json.loads(second[1])["usage"]["total_tokens"] > 0
    assert [entry.did for entry in server.log] == [fault, "good"]
    assert set(server.answered().values()) == {1}


@pytest.mark.parametrize("fault", SLOW_FAULTS)
def test_a_slow_fault_takes_longer_than_patience(fault):
    with LLMServer(script=(fault,)) as server:
        assert post(server.url, timeout=0.2)[0] == 0
        assert post(server.url)[0] == 200


def test_a_reset_is_a_reset():
    with LLMServer(script=("reset",)) as server, socket.create_connection(("127.0.0.1", server._port)) as raw:
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        with pytest.raises(ConnectionResetError):
            raw.recv(1)


def test_transport_faults_come_by_their_share_and_a_retry_can_pass():
    with LLMServer(faults={"500": 0.3}) as server:
        with ThreadPoolExecutor(8) as pool:
            for _ in range(2):
                list(pool.map(lambda seed: post(server.url, seed=seed), range(150)))
        first, second = ([e for e in server.log if e.seen == seen] for seen in (0, 1))
    shares = [sum(e.did == "500" for e in part) / len(part) for part in (first, second)]
    assert all(0.15 < share < 0.45 for share in shares)
    assert {e.hash for e in first if e.did == "500"} != {e.hash for e in second if e.did == "500"}


@pytest.mark.parametrize("fault", CONTENT_FAULTS)
def test_a_fault_of_content_stays_the_answer(fault):
    prompts = [evolve_instruction("deepen", INSTRUCTION), rank_variants("complexity", [INSTRUCTION, ANSWER, "Three."])]
    with LLMServer(faults={fault: 1.0}) as server:
        replies = [[post(server.url, messages) for _ in range(2)] for messages in prompts]
        assert all(first == second and first[0] == 200 for first, second in replies)
        assert fault in {entry.did for entry in server.log}


def test_settings_refuse_what_they_say():
    with LLMServer(keys=["right"], models=["m"], json_mode=False, rejects=("seed",), usage=False) as server:
        status, body = post(server.url, key="sk-wrong-one")
        assert status == 401 and b"sk-wrong-one" in body
        assert post(server.url, key="right", model="other")[0] == 404
        status, body = post(server.url, key="right", response_format={"type": "json_object"}, seed=1)
        assert status == 400 and json.loads(body)["error"]["param"] == "seed"
    with LLMServer(json_mode=False, usage=False, poison={"hell": "500"}) as server:
        assert b"response_format" in post(server.url, response_format={"type": "json_object"})[1]
        assert [post(server.url)[0] for _ in range(3)] == [500] * 3
        assert "usage" not in json.loads(post(server.url, [{"role": "user", "content": "good day"}])[1])


def test_the_limit_per_minute_is_kept():
    with LLMServer(requests_per_minute=5, minute=30) as server:
        assert [post(server.url, seed=n)[0] for n in range(8)] == [200] * 5 + [429] * 3


def test_the_server_counts_what_is_in_flight():
    with LLMServer(latency=0.2) as server, ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda seed: post(server.url, seed=seed), range(16)))
        assert server.most_in_flight == 16


def test_a_process_of_its_own_tells_its_log():
    with ServerProcess(faults=evenly(0.0), latency=0.01) as server:
        assert post(server.url, key="mine")[0] == 200
        [entry], most = server.report()
    assert entry.authorization == "Bearer mine" and entry.did == "good" and most == 1
    assert entry.answered > entry.came
