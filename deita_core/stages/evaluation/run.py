"""Answers the questions of an evaluation and has the answers judged; only what is not kept in the store is asked."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing
from time import monotonic
from typing import Any

from deita_core.config.evaluation import answering_llm, is_endpoint
from deita_core.evaluation.answers import WITHHELD, Find, texts
from deita_core.evaluation.questions import Question
from deita_core.llm.cache import Answer, Answers
from deita_core.llm.client import LLM, PermanentRequestError
from deita_core.llm.requests import Request
from deita_core.llm.settings import LLMSettings
from deita_core.models.cancellation import check_cancelled
from deita_core.models.chat_model import ChatModel, Generated, find_model
from deita_core.stages.evaluation.job import Failure, JudgeJob, answering_precision
from deita_core.stages.shards import Shard
from deita_core.store import Store

Prompts = dict[str, list[int]]


def plan_answers(store: Store, job: JudgeJob) -> list[Shard]:
    """One shard with the number of answers that are not kept; none if there is nothing to ask."""
    with closing(Answers(store.side)) as answers:
        due = [question for question in job.questions if job.answerer.missing(question, answers.get)]
        rows = sum(len(question.turns) - len(job.answerer.kept(question, answers.get)) for question in due)
    return [Shard(key="answers", rows=rows)] if rows else []


def plan_judgements(store: Store, job: JudgeJob) -> list[Shard]:
    """One shard with the number of replies of the judge that are not kept; none if there is nothing to ask."""
    with closing(Answers(store.side)) as answers:
        rows = len(_unjudged(job, answers.get))
    return [Shard(key="judgements", rows=rows)] if rows else []


def answer_questions(store: Store, job: JudgeJob, key: str) -> list[Failure]:
    """Have the model answer what it has not answered; returns the requests that it cannot answer.

    Raises LLMError if its endpoint fails, ModelError if it cannot be loaded.
    """
    if not is_endpoint(job.settings.model):
        return _answer_here(store, job)

    async def answer(llm: LLM, question: Question) -> Failure | None:
        given: list[Answer] = []
        while len(given) < len(question.turns):
            request = job.answerer.request(question, texts(given))
            try:
                given.append(await llm.answer(request))
            except PermanentRequestError as error:
                return Failure(request=request.id, reason=error.reason, detail=error.detail)
            if given[-1].finish == WITHHELD:
                break
        return None

    return _ask_all(answering_llm(job.settings), key, store, job.answers_id, answer, job.questions)


def judge_answers(store: Store, job: JudgeJob, key: str) -> list[Failure]:
    """Have the judge judge what it has not judged; returns the requests that it does not answer. Raises LLMError."""
    with closing(Answers(store.side)) as answers:
        requests = _unjudged(job, answers.get)

    async def judge(llm: LLM, request: Request) -> Failure | None:
        try:
            await llm.answer(request)
        except PermanentRequestError as error:
            return Failure(request=request.id, reason=error.reason, detail=error.detail)
        return None

    return _ask_all(job.settings.llm, key, store, job.id, judge, requests)


def _unjudged(job: JudgeJob, find: Find) -> list[Request]:
    requests = {judgement.request.id: judgement.request for judgement in job.all_judgements(find)}
    return [request for id_, request in requests.items() if find(id_) is None]


def _ask_all(
    settings: LLMSettings,
    key: str,
    store: Store,
    job: str,
    ask: Callable[[LLM, Any], Coroutine[Any, Any, Failure | None]],
    items: Sequence[Any],
) -> list[Failure]:
    """Ask for all items concurrently, within the client's limits; raises after all others are answered and kept."""

    async def run() -> list[Failure | BaseException | None]:
        async with LLM(settings, key, store.side, job) as llm:
            return await asyncio.gather(*(ask(llm, item) for item in items), return_exceptions=True)

    found = asyncio.run(run())
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return [one for one in found if isinstance(one, Failure)]


def _answer_here(store: Store, job: JudgeJob) -> list[Failure]:
    """Answer with a model on this machine: first turns, then second ones and so on.

    The batches of a turn are cut from its missing answers, longest first, and each is kept as a whole. So a run that
    goes on after a kill has the batches that were left, and its answers are those of an undisturbed one.
    """
    failures: list[Failure] = []
    model: ChatModel | None = None
    with closing(Answers(store.side)) as answers:
        for turn in range(max(len(question.turns) for question in job.questions)):
            due: dict[str, Request] = {}
            for question in job.questions:
                request = job.answerer.missing(question, answers.get)
                if request and len(job.answerer.kept(question, answers.get)) == turn:
                    due[request.id] = request
            if not due:
                continue
            model = model or ChatModel(find_model(job.settings.model), answering_precision(job.settings))
            prompts = {id_: model.prompt(_messages(request)) for id_, request in due.items()}
            longest, _ = model.longest(job.answerer.max_tokens)
            too_long = [id_ for id_, prompt in prompts.items() if longest is not None and len(prompt) > longest]
            failures += [_too_long(id_, prompts.pop(id_), longest) for id_ in too_long]
            _answer_batches(job, model, prompts, answers)
    return failures


def _too_long(id_: str, prompt: Sequence[int], longest: int | None) -> Failure:
    detail = f"the prompt has {len(prompt):,} tokens, and the model reads {longest:,} before its answer"
    return Failure(request=id_, reason="too_long", detail=detail)


def _messages(request: Request) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in request.messages]


def _answer_batches(job: JudgeJob, model: ChatModel, prompts: Prompts, answers: Answers) -> None:
    order = sorted(prompts, key=lambda id_: (-len(prompts[id_]), id_))
    _, most = model.longest(job.answerer.max_tokens)
    for start in range(0, len(order), job.settings.batch):
        check_cancelled()
        batch, began = order[start : start + job.settings.batch], monotonic()
        # The request's id depends on the seed.
        seed = int(batch[0][:15], 16)
        made = model.generate([prompts[id_] for id_ in batch], most, job.answerer.temperature, seed)
        seconds = (monotonic() - began) / len(batch)
        answers.put_all(
            job.answers_id,
            job.answerer.model,
            [_answer(id_, one, seconds) for id_, one in zip(batch, made, strict=True)],
        )


def _answer(id_: str, made: Generated, seconds: float) -> Answer:
    finish = "length" if made.is_cut else "stop"
    return Answer(id_, made.text, finish, made.prompt_tokens, made.completion_tokens, round(seconds, 3), None)
