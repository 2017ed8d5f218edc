"""One evaluation by a judge: what is asked of whom, and what is kept of it already."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import file_digest
from pathlib import Path
from typing import NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict

from deita_core.config.evaluation import JudgeSettings, answering_llm, is_endpoint
from deita_core.conversation import content_id
from deita_core.errors import InputError
from deita_core.evaluation.answers import Answerer, Find, texts
from deita_core.evaluation.prompts import (
    CHOICE_SCHEMA,
    JUDGE_VERSION,
    SCORE_SCHEMA,
    compare_answers,
    score_answer,
)
from deita_core.evaluation.questions import Question, Reference, read_questions, read_reference
from deita_core.evolution.prompts import Messages
from deita_core.literals import Precision
from deita_core.llm.requests import Request, valid_unicode
from deita_core.models.chat_model import find_model
from deita_core.models.encoder_spec import best_precision


class Judgement(NamedTuple):
    """A request to the judge: on the answer to a turn (from 0), or in a comparison with the model's answer as A."""

    question: Question
    turn: int
    model_first: bool | None
    request: Request


class Failure(BaseModel):
    """A request that got no usable answer, by its id, and why; it is sent again in another run."""

    request: str
    reason: str
    detail: str


class JudgeJob(BaseModel):
    """One evaluation: its settings and files, and the model that answers. `reference`: answers to compare with."""

    model_config = ConfigDict(frozen=True)

    settings: JudgeSettings
    questions_file: str
    reference_file: str | None
    # Hashes of both files.
    contents: tuple[str, ...]
    answerer: Answerer

    @property
    def id(self) -> str:
        """Id under which the judge's replies are kept and its spend is counted."""
        asked = self.settings.llm.model_dump(include={"model", "seed", "max_tokens", "structured"})
        parts = [self.answerer.model_dump(), asked, self.contents, self.settings.limit, JUDGE_VERSION]
        return content_id(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS))

    @property
    def answers_id(self) -> str:
        """Id under which the model's answers are kept and its spend is counted."""
        parts = [self.answerer.model_dump(), self.contents[0], self.settings.limit]
        return content_id(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS))

    @cached_property
    def questions(self) -> list[Question]:
        """The questions to ask."""
        return read_questions(self.questions_file, self.settings.limit)

    @cached_property
    def reference(self) -> Reference | None:
        """The answers to compare with."""
        return read_reference(self.reference_file) if self.reference_file else None

    def judgements(self, question: Question, answers: Sequence[str]) -> Iterator[Judgement]:
        """What the judge is asked about the answers to a question's first turns."""
        if self.reference is None:
            for turn in range(len(answers)):
                messages = score_answer(question, answers[: turn + 1])
                yield Judgement(question, turn, None, self._request(messages, SCORE_SCHEMA))
        elif answers:
            pair = (answers[0], self.reference.outputs[question.turns[0]])
            for model_first in (True, False):
                messages = compare_answers(question, *(pair if model_first else reversed(pair)))
                yield Judgement(question, 0, model_first, self._request(messages, CHOICE_SCHEMA))

    def all_judgements(self, find: Find) -> list[Judgement]:
        """What the judge is asked about the answers that are kept."""
        return [
            judgement
            for question in self.questions
            for judgement in self.judgements(question, texts(self.answerer.kept(question, find)))
        ]

    def _request(self, messages: Messages, schema: dict[str, object]) -> Request:
        llm = self.settings.llm
        said = tuple((message["role"], valid_unicode(message["content"])) for message in messages)
        return Request(llm.model, said, 0.0, llm.seed, llm.max_tokens, schema if llm.structured == "auto" else None)


def prepare_job(settings: JudgeSettings, questions_file: str, reference_file: str | None) -> JudgeJob:
    """Read the files and find the model; loads and asks nothing. Raises InputError, ModelError."""
    if is_endpoint(settings.model):
        model = answering_llm(settings).model
    else:
        model = f"file:{find_model(settings.model).fingerprint(answering_precision(settings))}"
    job = JudgeJob(
        settings=settings,
        questions_file=questions_file,
        reference_file=reference_file,
        contents=tuple(_digest(file) for file in (questions_file, reference_file) if file),
        answerer=Answerer(
            model=model, temperature=settings.temperature, seed=settings.seed, max_tokens=settings.max_tokens
        ),
    )
    _check_comparable(job)
    return job


def answering_precision(settings: JudgeSettings) -> Precision:
    """What a model on this machine computes in."""
    return best_precision() if settings.precision == "auto" else settings.precision


def _check_comparable(job: JudgeJob) -> None:
    """Raise InputError if answers are to be compared, and a question has several turns or no answer to compare with."""
    for question in job.questions if job.reference else []:
        named = f"The question {question.id} of {job.questions_file}"
        if len(question.turns) > 1:
            raise InputError(f"{named} has several turns, and answers are compared on one; leave out --reference.")
        if job.reference and question.turns[0] not in job.reference.outputs:
            raise InputError(f"{named} has no answer in {job.reference_file}; give a file with answers to all.")


def _digest(file: str) -> str:
    if not Path(file).is_file():
        raise InputError(f"{file} is not a file; give a file of questions or answers.")
    with Path(file).open("rb") as opened:
        return file_digest(opened, "sha256").hexdigest()
