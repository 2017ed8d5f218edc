"""Requests for the answers to questions: turn by turn, each with the model's own answers before it."""

from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict

from deita_core.evaluation.questions import Question
from deita_core.evolution.replies import visible
from deita_core.llm.cache import Answer
from deita_core.llm.requests import Request, valid_unicode

# Finds a kept answer by the id of its request.
Find = Callable[[str], Answer | None]
# How an answer that the endpoint held back ends.
WITHHELD = "content_filter"


class Answerer(BaseModel):
    """The model that answers, and how: everything that its answers depend on.

    `model`: the name by which an endpoint knows it, or for a model on this machine the fingerprint of its files.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    temperature: float
    seed: int
    max_tokens: int

    def request(self, question: Question, answers: Sequence[str]) -> Request:
        """The request for the answer to the turn after those answered."""
        turns = question.turns[: len(answers) + 1]
        messages = [("user", valid_unicode(turns[0]))]
        for answer, turn in zip(answers, turns[1:], strict=True):
            messages += [("assistant", answer), ("user", valid_unicode(turn))]
        return Request(self.model, tuple(messages), self.temperature, self.seed, self.max_tokens, None)

    def kept(self, question: Question, find: Find) -> list[Answer]:
        """The answers to a question's first turns that are kept already, up to the first that is missing.

        An answer that was held back is not among them: it is none, and no turn follows it.
        """
        found: list[Answer] = []
        while len(found) < len(question.turns):
            answer = find(self.request(question, texts(found)).id)
            if answer is None or answer.finish == WITHHELD:
                break
            found.append(answer)
        return found

    def missing(self, question: Question, find: Find) -> Request | None:
        """The request for the first turn without an answer, or None if there is nothing left to ask."""
        found = self.kept(question, find)
        if len(found) == len(question.turns):
            return None
        request = self.request(question, texts(found))
        return request if find(request.id) is None else None


def texts(answers: Sequence[Answer]) -> list[str]:
    """The answers without the reasoning before them, as judges and later turns see them."""
    return [visible(answer.text) for answer in answers]
