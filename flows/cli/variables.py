"""Variables of the environment that look like settings and are none."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

PREFIX = "DEITA_"
# What is no setting: where settings and caches are, and whether a traceback is shown.
OTHERS = ("DEITA_CONFIG", "DEITA_CACHE", "DEITA_DEBUG")


def unknown_variables(names: Iterable[str]) -> Iterator[str]:
    """A sentence on each variable that begins with DEITA_ and has no effect, with the known one that is most like it.

    The settings are imported, which takes a moment, only where there is a variable that they may have.
    """
    from flows.ops.deploy_steps import VARIABLES

    others = {*OTHERS, *VARIABLES}
    if left := sorted(name for name in names if name.startswith(PREFIX) and name not in others):
        known = {*others, *_of_settings()}
        yield from (_sentence(name, known) for name in left if name not in known)


def _of_settings() -> Iterator[str]:
    from deita_core.config.loader import variables_of
    from deita_core.config.settings import EvolutionSettings, SelectionSettings, TrainingSettings
    from deita_core.llm.errors import KEY_VARIABLES

    yield from KEY_VARIABLES
    for model in (SelectionSettings, EvolutionSettings, TrainingSettings):
        yield from variables_of(model)


def _sentence(name: str, known: set[str]) -> str:
    # What they all begin with makes none like another.
    near = get_close_matches(name.removeprefix(PREFIX), sorted(one.removeprefix(PREFIX) for one in known), 1, 0.5)
    hint = f"; did you mean {PREFIX}{near[0]}?" if near else "."
    return f"The variable {name} is not known, so it is ignored{hint}"
