"""The public names of deita_core: complete, lazy, and typed."""

import subprocess
import sys

import pytest

import deita_core
from tests.support.paths import ROOT

HEAVY = ("torch", "lancedb", "polars", "transformers", "sentence_transformers", "pandera", "prefect")


def loaded_after(program: str) -> list[str]:
    """Heavy libraries that a program has loaded, in an interpreter of its own."""
    program += f"\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return eval(done.stdout)


def test_importing_the_library_loads_nothing_heavy():
    assert loaded_after("import deita_core\ndir(deita_core)") == []


def test_selecting_loads_no_model_and_no_store():
    assert loaded_after("from deita_core import select_diverse") == ["polars"]


@pytest.mark.parametrize("name", deita_core.__all__)
def test_a_public_name_is_that_of_its_module(name):
    found = getattr(deita_core, name)
    assert found.__name__ == name
    assert found.__doc__
    assert found.__module__.startswith("deita_core.")
    assert name in dir(deita_core)


def test_every_public_name_has_a_module_and_nothing_else_has():
    assert set(deita_core.__all__) == set(deita_core._MODULES)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'selekt'"):
        deita_core.selekt  # noqa: B018
    with pytest.raises(ImportError):
        exec("from deita_core import selekt")


def test_type_checkers_are_told_that_the_library_is_typed():
    assert (ROOT / "deita_core" / "py.typed").is_file()
