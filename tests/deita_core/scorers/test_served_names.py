from time import sleep

import pytest

from deita_core.errors import InputError, ModelError
from deita_core.scorers import ServedScorer, find_scorer, load_scorer
from tests.support.llm_completions import SURE, Scripted
from tests.support.llm_server import LLMServer


def test_finding_a_served_scorer_asks_nobody(laptop):
    with LLMServer(completions=Scripted(SURE)) as server:
        files = find_scorer(f"{server.url}#scorer", "complexity", laptop.files)
        sleep(0.05)
        assert not server.log
    assert (
        files.kind == "served" and files.path is None and isinstance(load_scorer(files.name, "quality"), ServedScorer)
    )


def test_a_served_scorer_is_known_by_its_model_and_not_by_its_address(tiny_llama):
    names = ["http://a:1/v1#m", "https://b/v1#m", "http://a:1/v1#n", f"http://a:1/v1#m#{tiny_llama}"]
    one, moved, other, favoured = (load_scorer(name, "complexity").fingerprint for name in names)
    assert one == moved and len({one, other, favoured}) == 3


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("http://host:1/v1", ModelError),
        ("http://host:1/v1#", ModelError),
        ("http://host:1/v1# #x", ModelError),
        ("http://#m", InputError),
        ("http://me:hunter2@host/v1#m", InputError),
        ("http://host/v1?key=hunter2#m", InputError),
        ("http://host/v1#m#/no/such/tokenizer", ModelError),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_in_a_sentence_without_secrets(name, error, laptop):
    for found in (lambda: find_scorer(name, "complexity", laptop.files), lambda: load_scorer(name, "complexity")):
        with pytest.raises(error) as raised:
            found()
        said = str(raised.value)
        assert "hunter2" not in said and said.endswith(".") and "\n" not in said
