"""Scores texts by asking a chat model for a score with a rubric: the paper's direct scoring."""

from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import polars as pl

from deita_core.conversation import content_id
from deita_core.errors import ModelError
from deita_core.evolution.ranking import UnreadableError
from deita_core.literals import Axis
from deita_core.llm.client import LLM, LLMSettings, find_key
from deita_core.llm.requests import Request, valid_unicode
from deita_core.scorers.endpoint import EndpointScorer, Outcome, ServedLimits, endpoint_settings
from deita_core.scorers.heads import SCORE_SCHEMA
from deita_core.scorers.judge_prompts import JUDGE_SCORE_VERSION, SCHEMA, judge_text, read_level

PREFIX = "judge+"
JUDGED_SCHEMA = {**SCORE_SCHEMA, "spread": pl.Float64, "votes": pl.Int32}


class Judge(NamedTuple):
    """A judge: the settings of its endpoint and model; `votes`: how often each text is asked about."""

    settings: LLMSettings
    votes: int

    @property
    def fingerprint(self) -> str:
        """A hash of the model's name and of how it is asked, without its address, as for a served scorer."""
        asked = self.settings.model_dump(include={"seed", "max_tokens", "structured"})
        parts = ["judge", self.settings.model, str(self.votes), str(sorted(asked.items())), str(JUDGE_SCORE_VERSION)]
        return content_id("\n".join(parts).encode())

    def requests(self, axis: Axis, texts: tuple[str, ...]) -> list[Request]:
        """What is asked about a turn, once for each vote; `texts` as `texts_of` returns them."""
        settings = self.settings
        schema = SCHEMA if settings.structured == "auto" else None
        found = []
        for vote in range(self.votes):
            said = tuple((m["role"], valid_unicode(m["content"])) for m in judge_text(axis, texts, vote))
            found.append(Request(settings.model, said, 0.0, settings.seed, settings.max_tokens, schema))
        return found


def is_judge(name: str) -> bool:
    """Whether a scorer's name is that of a judge."""
    return name.lower().startswith(PREFIX)


def find_judge(name: str, axis: Axis, votes: int = 1, limits: ServedLimits | None = None) -> Judge:
    """Parse a judge's `name`: judge+http://HOST:PORT/v1#MODEL, or judge+MODEL for a model at OpenAI.

    Sends nothing. Raises ModelError for an invalid name, InputError for an invalid address, LLMError without a key for
    OpenAI.
    """
    address, mark, model = name[len(PREFIX) :].strip().partition("#")
    if not mark and "://" not in address:
        address, model = "", address
    if not model.strip():
        raise ModelError(
            f"The {axis} judge's name has no model; write it as {PREFIX}http://HOST:PORT/v1#MODEL, or as {PREFIX}MODEL "
            f"if it is at OpenAI."
        )
    settings = endpoint_settings(address or None, model.strip(), limits)
    # Raise for a missing key here, before any work is done.
    find_key(settings)
    return Judge(settings, votes)


class JudgedScorer(EndpointScorer):
    """A chat model behind an OpenAI-compatible endpoint that is asked for a score, named as in `find_judge`.

    With several votes it is asked as often, each time with the criteria in another order. The score is the mean of the
    votes that can be read, if they are more than half. The frame has `spread` as well, the largest less the smallest of
    them (null for fewer than two), and `votes`, how many could be read.
    """

    schema = JUDGED_SCHEMA
    unreadable = (None, "unreadable", None, 0)

    def __init__(
        self, name: str, axis: Axis, votes: int = 1, store: Path | None = None, limits: ServedLimits | None = None
    ) -> None:
        self._judge = find_judge(name, axis, votes, limits)
        super().__init__(axis, self._judge.fingerprint, self._judge.settings, store)

    async def _outcome(self, llm: LLM, texts: tuple[str, ...], status: str) -> Outcome:
        """Return (score, status, spread, votes), unreadable unless more than half of the votes can be read."""
        levels: list[int] = []
        for request in self._judge.requests(self.axis, texts):
            answer = await llm.answer(request)
            # A reply that is cut off may end within its score.
            if answer.finish not in ("length", "content_filter"):
                with suppress(UnreadableError):
                    levels.append(read_level(answer.text))
        spread = float(max(levels) - min(levels)) if len(levels) > 1 else None
        if 2 * len(levels) <= self._judge.votes:
            return (None, "unreadable", spread, len(levels))
        return (fmean(levels), status, spread, len(levels))
