"""Finds environment variables that look like settings but are unknown."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

PREFIX = "DEITA_"
# Variables that are not settings: paths of settings and caches, the debug switch, and the reports of `deita up`.
OTHERS = ("DEITA_CONFIG", "DEITA_CACHE", "DEITA_DEBUG", "DEITA_REPORTS_URL")


def unknown_variables(names: Iterable[str]) -> Iterator[str]:
    """Yield a sentence on each unknown DEITA_ variable, with the most similar known one.

    The settings import slowly, so they are imported only if a variable is left to check.
    """
    from flows.ops.deploy_steps import VARIABLES

    others = {*OTHERS, *VARIABLES}
    if left := sorted(name for name in names if name.startswith(PREFIX) and name not in others):
        known = {*others, *_of_settings()}
        yield from (_sentence(name, known) for name in left if name not in known)


def _of_settings() -> Iterator[str]:
    from deita_core.alignment.settings import DpoSettings, SftSettings
    from deita_core.config.evaluation import ANSWERING_KEY, BenchmarkSettings, JudgeSettings
    from deita_core.config.loader import variables_of
    from deita_core.config.proof import ProofSettings
    from deita_core.config.settings import EvolutionSettings, SelectionSettings, TrainingSettings
    from deita_core.llm.errors import KEY_VARIABLES

    yield from (*KEY_VARIABLES, ANSWERING_KEY)
    evaluation = (JudgeSettings, BenchmarkSettings, ProofSettings)
    for model in (SelectionSettings, EvolutionSettings, TrainingSettings, SftSettings, DpoSettings, *evaluation):
        yield from variables_of(model)


def _sentence(name: str, known: set[str]) -> str:
    # Compare without the common prefix, which makes all names similar.
    near = get_close_matches(name.removeprefix(PREFIX), sorted(one.removeprefix(PREFIX) for one in known), 1, 0.5)
    hint = f"; did you mean {PREFIX}{near[0]}?" if near else "."
    return f"The variable {name} is not known, so it is ignored{hint}"
