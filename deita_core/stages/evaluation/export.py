"""Reads the judge's replies into figures, and writes the files of an evaluation."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel

from deita_core.evaluation.answers import WITHHELD, Find, texts
from deita_core.evaluation.figures import (
    Compared,
    Figure,
    PairFigures,
    Scored,
    ScoreFigures,
    pair_figures,
    score_figures,
)
from deita_core.evaluation.questions import Question
from deita_core.evaluation.verdicts import read_choice, read_score
from deita_core.evolution.ranking import UnreadableError
from deita_core.export.markdown import markdown_table
from deita_core.export.placing import Write, place_files, prepare_files
from deita_core.llm.cache import Answer, Answers, Usage
from deita_core.stages.evaluation.job import Failure, JudgeJob, Judgement
from deita_core.store import Store

ANSWERS, JUDGEMENTS, CARD, FIGURES = "answers.jsonl", "judgements.jsonl", "README.md", "figures.json"
POINTS = {"model": 1.0, "tie": 0.5, "reference": 0.0}


class JudgeReport(BaseModel):
    """The results of an evaluation by a judge.

    `quarantined`: verdicts that are missing, by reason; `of_answers`: answers that are missing, by reason. `cut_off`:
    answers that end at the limit of tokens, and are judged as they are.
    """

    job: JudgeJob
    protocol: Literal["single", "pairwise"]
    figures: ScoreFigures | PairFigures
    questions: int
    answers: int
    verdicts: int
    of_answers: dict[str, int]
    quarantined: dict[str, int]
    cut_off: int
    usage: dict[str, Usage]
    asked: dict[str, int]
    seconds: dict[str, float]

    def failure(self) -> str | None:
        """A sentence if there is no verdict at all, else None."""
        if self.verdicts:
            return None
        reasons = Counter(self.of_answers) + Counter(self.quarantined)
        listed = ", ".join(f"{reason} {n:,}" for reason, n in reasons.most_common())
        return f"No verdict could be read ({listed}); {JUDGEMENTS} has every reply and reason."

    def table(self) -> list[tuple[str, str, str, str]]:
        """Rows of the summary: figure, mean, standard error, number of values."""
        return [
            (name, f"{found.mean:.3f}", "-" if found.error is None else f"{found.error:.3f}", f"{found.n:,}")
            for name, found in self._named()
            if found is not None
        ]

    def _named(self) -> Iterator[tuple[str, Figure | None]]:
        figures = self.figures
        if isinstance(figures, ScoreFigures):
            yield "score, all turns", figures.overall
            yield from ((f"score, turn {turn}", found) for turn, found in figures.turns.items())
            yield from ((f"score, {name}", found) for name, found in figures.categories.items())
            return
        controlled, win_rate = figures.length_controlled, figures.win_rate
        yield "win rate", win_rate
        if controlled and win_rate:
            yield "win rate, length-controlled", Figure(mean=controlled.win_rate, error=controlled.error, n=win_rate.n)
        yield from ((f"win rate, {name}", found) for name, found in figures.categories.items())
        yield "position bias", figures.position_bias
        yield "length of the answers", figures.length
        yield "length of the reference", figures.reference_length


def judge_report(
    store: Store,
    job: JudgeJob,
    failures: Sequence[Failure],
    usage: dict[str, Usage],
    before: dict[str, Usage],
    seconds: dict[str, float],
) -> JudgeReport:
    """The results, from what the store keeps; usage of answers and judge before the run (`before`) and after it."""
    with closing(Answers(store.side)) as answers:
        given, verdicts = answer_rows(job, answers.get, failures), judgement_rows(job, answers.get, failures)
    missing = [row["reason"] for row in given if row["reason"]]
    unread = [row["reason"] for row in verdicts if row["reason"]]
    return JudgeReport(
        job=job,
        protocol="pairwise" if job.reference else "single",
        figures=_figures(job, given, verdicts),
        questions=len(job.questions),
        answers=sum(len(row["answers"]) for row in given),
        verdicts=len(verdicts) - len(unread),
        of_answers=dict(Counter(missing).most_common()),
        quarantined=dict(Counter(unread).most_common()),
        cut_off=sum(row["finishes"].count("length") for row in given),
        usage=usage,
        asked={name: used.requests - before[name].requests for name, used in usage.items()},
        seconds=seconds,
    )


def answer_rows(job: JudgeJob, find: Find, failures: Sequence[Failure]) -> list[dict[str, Any]]:
    """One row per question: its turns, the answers to the first of them, and why further ones are missing.

    `instruction`, `output` and `generator` make the file one that alpaca_eval and --reference read.
    """
    why = {failure.request: failure for failure in failures}

    def row(question: Question) -> dict[str, Any]:
        kept = job.answerer.kept(question, find)
        said = texts(kept)
        reason, detail = None, ""
        if len(kept) < len(question.turns):
            reason, detail = _reason(find, why, job.answerer.request(question, said).id)
        return {
            "question_id": question.id,
            "category": question.category,
            "turns": question.turns,
            "answers": said,
            "finishes": [answer.finish for answer in kept],
            "reason": reason,
            "detail": detail,
            "instruction": question.turns[0],
            "output": said[0] if said else None,
            "generator": job.settings.model,
        }

    return [row(question) for question in job.questions]


def judgement_rows(job: JudgeJob, find: Find, failures: Sequence[Failure]) -> list[dict[str, Any]]:
    """One row per request to the judge: the verdict, or the reason why there is none, and the reply.

    `score`: 1 to 10; in a comparison `verdict` in its place: model, reference or tie.
    """
    why = {failure.request: failure for failure in failures}
    return [_judgement_row(judgement, find, why) for judgement in job.all_judgements(find)]


def _judgement_row(judgement: Judgement, find: Find, why: dict[str, Failure]) -> dict[str, Any]:
    question, reply = judgement.question, find(judgement.request.id)
    verdict, reason, detail = None, None, ""
    if reply is None or reply.finish == WITHHELD:
        reason, detail = _reason(find, why, judgement.request.id)
    else:
        verdict, reason, detail = _read(judgement, reply)
    shown = {"turn": judgement.turn + 1} if judgement.model_first is None else {"model_first": judgement.model_first}
    return {
        "question_id": question.id,
        "category": question.category,
        **shown,
        "score" if judgement.model_first is None else "verdict": verdict,
        "reason": reason,
        "detail": detail,
        "reply": reply.text if reply else None,
    }


def _read(judgement: Judgement, reply: Answer) -> tuple[int | str | None, str | None, str]:
    """The verdict in a reply, or None with the reason and its detail."""
    try:
        if judgement.model_first is None:
            return read_score(reply.text), None, ""
        choice = read_choice(reply.text)
        if choice == "tie":
            return choice, None, ""
        return "model" if (choice == "A") == judgement.model_first else "reference", None, ""
    except UnreadableError as error:
        return None, "cut_off" if reply.finish == "length" else "unreadable", str(error)


def _reason(find: Find, why: dict[str, Failure], request: str) -> tuple[str, str]:
    if request in why:
        return why[request].reason, why[request].detail
    assert find(request) is not None
    return WITHHELD, "the endpoint's filter held the answer back"


def _figures(
    job: JudgeJob, given: Sequence[dict[str, Any]], verdicts: Sequence[dict[str, Any]]
) -> ScoreFigures | PairFigures:
    read = [row for row in verdicts if row["reason"] is None]
    if job.reference is None:
        return score_figures([Scored(r["question_id"], r["category"], r["turn"], r["score"]) for r in read])
    points = {(row["question_id"], row["model_first"]): POINTS[row["verdict"]] for row in read}
    outputs = {row["question_id"]: row["output"] for row in given}
    return pair_figures(
        [
            Compared(
                q.id,
                q.category,
                shown_first=points[q.id, True],
                shown_second=points[q.id, False],
                length=len(outputs[q.id]),
                reference_length=len(job.reference.outputs[q.turns[0]]),
                difficulty=q.difficulty,
            )
            for q in job.questions
            if (q.id, True) in points and (q.id, False) in points
        ]
    )


def export_evaluation(store: Store, report: JudgeReport, failures: Sequence[Failure], folder: Path) -> list[str]:
    """Write the files of an evaluation, all or none, figures.json last; returns their names."""
    with closing(Answers(store.side)) as answers:
        given = answer_rows(report.job, answers.get, failures)
        verdicts = judgement_rows(report.job, answers.get, failures)
    card = _card(report).encode()
    figures = orjson.dumps(figures_record(report), option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS) + b"\n"
    files: dict[str, Write] = {
        ANSWERS: _lines(given),
        JUDGEMENTS: _lines(verdicts),
        CARD: lambda path: path.write_bytes(card),
        FIGURES: lambda path: path.write_bytes(figures),
    }
    names = prepare_files(folder, files)
    place_files(folder, names)
    return names


def figures_record(report: JudgeReport) -> dict[str, Any]:
    """The content of figures.json; all but `run` is the same however often a run was interrupted."""
    job = report.job
    return {
        "protocol": report.protocol,
        "figures": report.figures.model_dump(),
        "counts": report.model_dump(
            include={"questions", "answers", "verdicts", "of_answers", "quarantined", "cut_off"}
        ),
        "model": job.settings.model,
        "fingerprint": job.answerer.model,
        "judge": job.settings.llm.model,
        "reference": job.reference.generator if job.reference else None,
        "files": {"questions": job.questions_file, "reference": job.reference_file, "sha256": job.contents},
        "settings": job.settings.model_dump(),
        "job": job.id,
        "run": {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "usage": report.usage,
            "requests": report.asked,
            "seconds": report.seconds,
        },
    }


def _lines(rows: Iterable[dict[str, Any]]) -> Write:
    lines = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    return lambda path: path.write_bytes(lines)


def _card(report: JudgeReport) -> str:
    """A README.md with the table of figures, and how they came about."""
    job, figures = report.job, report.figures
    against = f" against {job.reference.generator}" if job.reference else ""
    counts: list[tuple[str, Any]] = [
        ("questions", f"{report.questions:,}"),
        ("answers", f"{report.answers:,}"),
        ("answers cut off at the limit of tokens", f"{report.cut_off:,}"),
        ("verdicts read", f"{report.verdicts:,}"),
        *((f"answers missing: {reason}", f"{n:,}") for reason, n in report.of_answers.items()),
        *((f"verdicts quarantined: {reason}", f"{n:,}") for reason, n in report.quarantined.items()),
    ]
    if isinstance(figures, PairFigures):
        counts += [
            ("questions won in both orders", f"{figures.wins:,}"),
            ("questions tied in both orders", f"{figures.ties:,}"),
            ("questions lost in both orders", f"{figures.losses:,}"),
            ("questions on which the orders disagree", f"{figures.split:,}"),
        ]
    sections = [
        f"# {job.settings.model}{against}, judged by {job.settings.llm.model}",
        markdown_table(("figure", "mean", "standard error", "values"), report.table()),
        markdown_table(("count", ""), counts),
        "Scores are 1 to 10. A win rate is a share of 1, and a tie is half a win. figures.json has everything needed "
        "to run this again.",
    ]
    return "\n\n".join(sections) + "\n"
