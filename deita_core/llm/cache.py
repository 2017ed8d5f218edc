"""Answers of language models, kept in the store's folder from the moment they arrive, so that none is paid twice."""

import sqlite3
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


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered; tokens are None where the endpoint does not count them, cost where no price is known."""

    id: str
    text: str
    finish: str
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    cost: float | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a job has been answered so far, in all its runs."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0


class Answers:
    """A SQLite file of answers by request id: one short transaction each, which a killed process cannot lose.

    A LanceDB table would need a commit of some 15 ms, and a file, for every answer.
    """

    def __init__(self, store: Path) -> None:
        self._file = store / FILE
        try:
            store.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self._file, timeout=60, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            # A power cut may take the last answers, a killed process none.
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(_TABLE)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"The answers in {self._file} cannot be opened ({cause(error)}).") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def get(self, id_: str) -> Answer | None:
        """The answer to a request, if there is one."""
        columns = "id, text, finish, prompt_tokens, completion_tokens, seconds, cost"
        row = self._execute(f"SELECT {columns} FROM answers WHERE id = ?", id_)  # noqa: S608
        return None if row is None else Answer(*row)

    def put(self, job: str, model: str, answer: Answer) -> None:
        """Keep an answer; the first one to a request stays."""
        row = (answer.id, job, model, answer.text, answer.finish, answer.prompt_tokens, answer.completion_tokens)
        values = (*row, answer.seconds, answer.cost)
        self._execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", *values)

    def usage(self, job: str) -> Usage:
        """What a job's answers have used."""
        sums = ", ".join(
            f"coalesce(sum({name}), 0)" for name in ("prompt_tokens", "completion_tokens", "cost", "seconds")
        )
        return Usage(*self._execute(f"SELECT count(*), {sums} FROM answers WHERE job = ?", job))  # noqa: S608

    def _execute(self, statement: str, *values: Any) -> Any:
        try:
            return self._db.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise StoreError(f"The answers in {self._file} cannot be used ({cause(error)}); check the disk.") from error


def usage_of(store: Path, job: str) -> Usage:
    """What a job has used so far, as seen from outside; nothing if it has not begun."""
    if not (store / FILE).exists():
        return Usage()
    with closing(Answers(store)) as answers:
        return answers.usage(job)
