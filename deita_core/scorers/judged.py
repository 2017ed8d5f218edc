"""Scores texts by asking a chat model for a score with a rubric: the paper's direct scoring."""

from collections import Counter
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import polars as pl

from deita_core.conversation import content_id
from deita_core.errors import ModelError
from deita_core.literals import Axis, Unread
from deita_core.llm.cache import Answer, Answers
from deita_core.llm.client import LLM, LLMSettings, find_key
from deita_core.llm.requests import Request, valid_unicode
from deita_core.scorers.causal import is_readable
from deita_core.scorers.endpoint import EndpointScorer, Outcome, ServedLimits, endpoint_settings, shortened
from deita_core.scorers.heads import SCORE_SCHEMA
from deita_core.scorers.judge_prompts import JUDGE_SCORE_VERSION, SCHEMA, UnreadScoreError, judge_text, read_level

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

    def why_unread(self, axis: Axis, texts: tuple[str, ...], kept: Answers) -> Unread:
        """Why a turn has no score, by the replies that are `kept`: of several votes the most frequent reason."""
        if not all(map(is_readable, texts)):
            return "blank"
        shorter: tuple[str, ...] | None = texts
        while shorter:
            replies = [kept.get(request.id) for request in self.requests(axis, shorter)]
            if any(replies):
                reasons = Counter(reason for reply in replies if (reason := _why_unread(reply)))
                # None where another machine asked, and the replies kept here can be read.
                return reasons.most_common(1)[0][0] if reasons else "no_reply"
            # A text that was too long for the endpoint has its replies under a shorter one.
            shorter = shortened(shorter)
        return "no_reply"


def is_judge(name: str) -> bool:
    """Whether a scorer's name is that of a judge."""
    return name.lower().startswith(PREFIX)


def find_judge(name: str, axis: Axis, votes: int = 1, limits: ServedLimits | None = None) -> Judge:
    """Parse a judge's `name`: judge+http://HOST:PORT/v1#MODEL, or judge+MODEL for a model at OpenAI.

    Sends nothing. Raises ModelError for an invalid name, InputError for an invalid address, LLMError without a key for
    OpenAI.
    """
    judge = judge_named(name, axis, votes, limits)
    # Raise for a missing key here, before any work is done.
    find_key(judge.settings)
    return judge


def judge_named(name: str, axis: Axis, votes: int = 1, limits: ServedLimits | None = None) -> Judge:
    """As `find_judge`, also without a key."""
    address, mark, model = name[len(PREFIX) :].strip().partition("#")
    if not mark and "://" not in address:
        address, model = "", address
    if not model.strip():
        raise ModelError(
            f"The {axis} judge's name has no model; write it as {PREFIX}http://HOST:PORT/v1#MODEL, or as {PREFIX}MODEL "
            f"if it is at OpenAI."
        )
    return Judge(endpoint_settings(address or None, model.strip(), limits), votes)


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
            with suppress(UnreadScoreError):
                levels.append(read_reply(await llm.answer(request)))
        spread = float(max(levels) - min(levels)) if len(levels) > 1 else None
        if 2 * len(levels) <= self._judge.votes:
            return (None, "unreadable", spread, len(levels))
        return (fmean(levels), status, spread, len(levels))


def read_reply(reply: Answer) -> int:
    """The score from 1 to 6 in a judge's reply; raises UnreadScoreError, also for a reply that did not end."""
    # A reply that is cut off may end within its score.
    if reply.finish == "length":
        raise UnreadScoreError("cut_off")
    if reply.finish == "content_filter":
        raise UnreadScoreError("held_back")
    return read_level(reply.text)


def _why_unread(reply: Answer | None) -> Unread | None:
    if reply is None:
        return "no_reply"
    try:
        read_reply(reply)
    except UnreadScoreError as error:
        return error.reason
    return None
