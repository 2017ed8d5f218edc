"""Cache of language model answers in the store's folder, written as each answer arrives, so none is paid for twice."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deita_core.errors import StoreError, cause

FILE = "answers.db"
_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    id TEXT PRIMARY KEY, job TEXT NOT NULL, model TEXT NOT NULL, text TEXT NOT NULL, finish TEXT NOT NULL,
    prompt_tokens INTEGER, completion_tokens INTEGER, seconds REAL NOT NULL, cost REAL
) WITHOUT ROWID
"""
_INSERT = "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer. Token counts are None if the endpoint reports none; cost is None if no price is set."""

    id: str
    text: str
    finish: str
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    cost: float | None


@dataclass(frozen=True, slots=True)
class Usage:
    """Totals over all answers of a job, from all its runs."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0


class Answers:
    """A SQLite file of answers by request id, one short transaction each: a killed process loses no answer.

    A LanceDB table would need a commit of about 15 ms and a new file for every answer.
    """

    def __init__(self, store: Path) -> None:
        self._file = store / FILE
        try:
            store.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self._file, timeout=60, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            # A power cut may lose the last answers; a killed process loses none.
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(_TABLE)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"The answers in {self._file} cannot be opened ({cause(error)}).") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def get(self, id_: str) -> Answer | None:
        """Return the cached answer to a request, or None."""
        columns = "id, text, finish, prompt_tokens, completion_tokens, seconds, cost"
        row = self._execute(f"SELECT {columns} FROM answers WHERE id = ?", id_)  # noqa: S608
        return None if row is None else Answer(*row)

    def put(self, job: str, model: str, answer: Answer) -> None:
        """Save an answer; the first answer to a request stays."""
        self._execute(_INSERT, *_values(job, model, answer))

    def put_all(self, job: str, model: str, answers: Iterable[Answer]) -> None:
        """Save answers, all of them or none."""
        try:
            with self._db:
                self._db.execute("BEGIN")
                self._db.executemany(_INSERT, [_values(job, model, answer) for answer in answers])
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def usage(self, job: str) -> Usage:
        """Return the totals of a job's answers."""
        sums = ", ".join(
            f"coalesce(sum({name}), 0)" for name in ("prompt_tokens", "completion_tokens", "cost", "seconds")
        )
        return Usage(*self._execute(f"SELECT count(*), {sums} FROM answers WHERE job = ?", job))  # noqa: S608

    def _execute(self, statement: str, *values: Any) -> Any:
        try:
            return self._db.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> StoreError:
        return StoreError(f"The answers in {self._file} cannot be used ({cause(error)}); check the disk.")


def _values(job: str, model: str, answer: Answer) -> tuple[Any, ...]:
    row = (answer.id, job, model, answer.text, answer.finish, answer.prompt_tokens, answer.completion_tokens)
    return (*row, answer.seconds, answer.cost)


def usage_of(store: Path, job: str) -> Usage:
    """Return what a job has used so far, read without a client; zeros if the job has not started."""
    if not (store / FILE).exists():
        return Usage()
    with closing(Answers(store)) as answers:
        return answers.usage(job)
