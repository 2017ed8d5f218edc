"""Reads questions and reference answers: MT-Bench's files, those of alpaca_eval, and plain rows.

MT-Bench: question_id, category, turns, and reference where there is one. alpaca_eval: instruction, output, generator
and dataset. Plain rows: an instruction or a prompt. Files may be JSON, JSON Lines, CSV or Parquet, compressed or not.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from deita_core.errors import InputError
from deita_core.reading.files import SUPPORTED, file_rows
from deita_core.reading.rows import Reject

# The name that alpaca_eval gives to the difficulty that its length-controlled win rate uses.
DIFFICULTY = "instruction_difficulty"
ASKED = ("turns", "instruction", "prompt")
NO_CATEGORY = "all"


class Question(NamedTuple):
    """A question of one or more turns.

    `references`: a right answer to each turn, empty where there is none. `difficulty`: see length_control.
    """

    id: str
    turns: tuple[str, ...]
    category: str = NO_CATEGORY
    references: tuple[str, ...] = ()
    difficulty: float | None = None

    def reference(self, turn: int) -> str:
        """The right answer to a turn (from 0), or an empty text."""
        return self.references[turn] if turn < len(self.references) else ""


class Reference(NamedTuple):
    """The answers of a reference model by instruction, and its name."""

    generator: str
    outputs: dict[str, str]


def read_questions(file: str, limit: int | None = None) -> list[Question]:
    """The questions of a file in order; `limit`: only so many of the first.

    A question without question_id gets its number in the file, one without category or dataset the category "all".
    Raises InputError that names file and line for a row that is no question, or an id that stands twice.
    """
    found: dict[str, Question] = {}
    for number, (line, row) in enumerate(islice(_rows(file), limit), start=1):
        question = _question(file, line, row, str(number))
        if question.id in found:
            raise InputError(f"{file}:{line}: the question_id {question.id} stands twice; give each its own.")
        found[question.id] = question
    if not found:
        raise InputError(f"{file} holds no questions; give rows with turns, instruction or prompt.")
    return list(found.values())


def read_reference(file: str) -> Reference:
    """The answers of one model, as alpaca_eval and `deita evaluate judge` write them: rows of instruction and output.

    Of an instruction that stands twice the first answer counts. Raises InputError that names file and line for a row
    without a text as instruction and output, or with another generator than the first.
    """
    outputs: dict[str, str] = {}
    generator: str | None = None
    for line, row in _rows(file):
        output = row.get("output")
        if not isinstance(output, str):
            raise InputError(
                f"{file}:{line}: there is no output; a reference file has rows with instruction and output."
            )
        [instruction] = _turns(file, line, {"instruction": row.get("instruction")})
        named = str(row.get("generator") or "reference")
        if generator not in (None, named):
            raise InputError(f"{file}:{line}: the answer is by {named} and not by {generator}; give one model's file.")
        generator = named
        outputs.setdefault(instruction, output)
    if generator is None:
        raise InputError(f"{file} holds no answers; give rows with instruction and output.")
    return Reference(generator, outputs)


def _rows(file: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if not Path(file).is_file():
        raise InputError(f"{file} is not a file; give a file of questions or answers.")
    if not file.lower().endswith(SUPPORTED):
        raise InputError(f"{file} is of no known kind; give a .jsonl, .json, .csv or .parquet file.")
    for row in file_rows(file):
        if isinstance(row, Reject):
            raise InputError(f"{file}:{row.line}: {row.detail.rstrip('.')}; correct the file.")
        if not isinstance(row.value, Mapping):
            raise InputError(f"{file}:{row.line}: the row is no object; give rows with turns, instruction or prompt.")
        yield row.line, row.value


def _question(file: str, line: int, row: Mapping[str, Any], number: str) -> Question:
    turns = _turns(file, line, row)
    references = row.get("reference") or []
    # Some files give one reference as a text.
    references = [references] if isinstance(references, str) else list(references)
    if len(references) > len(turns) or not all(isinstance(text, str | None) for text in references):
        raise InputError(f"{file}:{line}: reference is not a list with one text for each turn; correct the row.")
    given = row.get("question_id")
    return Question(
        id=number if given is None else str(given),
        turns=turns,
        category=str(row.get("category") or row.get("dataset") or NO_CATEGORY),
        references=tuple(text or "" for text in references),
        difficulty=_difficulty(file, line, row.get(DIFFICULTY)),
    )


def _turns(file: str, line: int, row: Mapping[str, Any]) -> tuple[str, ...]:
    asked = next((row[name] for name in ASKED if row.get(name) is not None), None)
    turns = [asked] if isinstance(asked, str) else asked
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise InputError(f"{file}:{line}: there is no question; give turns (a list of texts), instruction or prompt.")
    return tuple(turns)


def _difficulty(file: str, line: int, value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not isfinite(number):
        raise InputError(f"{file}:{line}: {DIFFICULTY} is not a number; correct the row.")
    return number
