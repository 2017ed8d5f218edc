"""The client against a server that nobody here wrote: transformers' own OpenAI-compatible one, with a tiny model."""

import asyncio
import os
import socket
import subprocess
import sys
import time

import httpx
import pytest

from deita_core.errors import LLMError
from deita_core.evolution.ranking import SCHEMA
from deita_core.llm.cache import Answers
from deita_core.llm.client import LLM, LLMSettings
from tests.support.tiny_llama import make_tiny_llama

pytestmark = pytest.mark.slow

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}<assistant>"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny Llama that can chat, in a folder."""
    from transformers import AutoTokenizer

    folder = make_tiny_llama(tmp_path_factory.mktemp("served") / "tiny")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def endpoint(model, tmp_path_factory):
    """The address of `transformers serve` on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from transformers.cli.transformers import main; main()"
    line = [sys.executable, "-c", code, "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
    log = (tmp_path_factory.mktemp("log") / "serve.log").open("w+")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*line, "--device", "cpu"], stdout=log, stderr=log, env=env)
    try:
        for _ in range(240):
            assert process.poll() is None, (log.seek(0), log.read())[1][-2_000:]
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def ask(settings, store, *questions, **how):
    async def run():
        async with LLM(settings, "no-key", store, "job") as llm:
            return await asyncio.gather(*(llm.ask([{"role": "user", "content": q}], **how) for q in questions))

    return asyncio.run(run())


def test_a_real_server_answers_and_is_asked_once(endpoint, model, tmp_path):
    settings = LLMSettings(base_url=endpoint, model=str(model), max_tokens=8, concurrency=2, temperature=0.5)
    questions = ["What is bread?", "Name a fox.", "面包?"]
    answers = ask(settings, tmp_path, *questions)
    assert len({answer.id for answer in answers}) == 3
    assert all(answer.finish in ("length", "stop") for answer in answers)
    assert all(answer.prompt_tokens > 0 and 0 < answer.completion_tokens <= 8 for answer in answers)
    assert Answers(tmp_path).usage("job").requests == 3
    # The second client asks an address at which nothing listens: it needs nobody.
    nowhere = settings.model_copy(update={"base_url": "http://127.0.0.1:9/v1"})
    assert ask(nowhere, tmp_path, *questions) == answers


def test_a_real_server_is_asked_for_json_and_may_not_know_how(endpoint, model, tmp_path):
    settings = LLMSettings(base_url=endpoint, model=str(model), max_tokens=8, first_pause=0.01)
    [answer] = ask(settings, tmp_path, "The scores, as JSON.", schema=SCHEMA, temperature=0.0)
    assert answer.completion_tokens


def test_a_model_a_real_server_does_not_have_stops_the_run(endpoint, tmp_path):
    settings = LLMSettings(base_url=endpoint, model="nobody/has-this", first_pause=0.01, attempts=2)
    with pytest.raises(LLMError, match=r"^The endpoint http://127\.0\.0\.1") as stopped:
        ask(settings, tmp_path, "Hello?")
    assert "\n" not in str(stopped.value)
