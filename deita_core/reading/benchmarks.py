"""Reads the questions of benchmarks and other held-out sets: rows of any usual columns or layout, or lines of text."""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deita_core.errors import InputError
from deita_core.reading.compression import UNPACKING, as_utf8, unpacked, without_packing
from deita_core.reading.files import broken_from
from deita_core.reading.lines import lines
from deita_core.reading.messages import NEEDED, ROLE_KEYS, as_list, list_of_messages, with_context
from deita_core.reading.pool import expand, file_parts
from deita_core.reading.rows import BadRow, Reject, Row

# Fields that hold a conversation, and those that hold a question, the first that is there.
LISTS = (*NEEDED["messages"][0], *NEEDED["sharegpt"][0], "chosen", "turns")
QUESTIONS = (
    *("question", "prompt", "problem", "query", "instruction", "turns", "question_stem", "problem_statement"),
    *("question_content", "goal", "ctx", "premise", "sentence", "input", "text"),
)
TEXT = ".txt"


class BenchmarkRow(NamedTuple):
    """A row of a held-out set: the file, or the file in an archive, its line, and the texts that were asked in it."""

    place: str
    line: int
    texts: tuple[str, ...]


def benchmark_files(names: Sequence[str]) -> list[str]:
    """The files that names stand for: files of lines (.txt), and whatever a pool may consist of.

    Raises InputError if a name stands for nothing that can be read.
    """
    files = list[str]()
    for name in names:
        files += [name] if _is_lines(name) and Path(name).is_file() else expand(name)
    return list(dict.fromkeys(files))


def read_benchmark(file: str) -> list[BenchmarkRow]:
    """The rows of a file: what the user says in a conversation, or the question of a row, without its answer.

    Columns are found by name, as in GSM8K, MATH, ARC, MMLU, MT-Bench and others; an `input` beside an instruction is a
    part of it. Each line of a .txt file that is not blank is a row. Raises InputError that names file and line for a
    row without a question, because what it asks would not be found.
    """
    found = list[BenchmarkRow]()
    for place, rows in rows_of(file):
        for row in rows:
            if isinstance(row, Reject):
                raise InputError(f"{place}:{row.line}: {row.detail.rstrip('.')}; correct the file.")
            found.append(BenchmarkRow(place, row.line, _asked(place, row)))
    if not found:
        raise InputError(f"{file} holds no row; give a file of questions, or leave it out.")
    return found


def rows_of(file: str) -> Iterable[tuple[str, Iterator[Row | Reject]]]:
    """The rows of a file, or of each file in an archive, with its place; a line of a .txt file is a row of text."""
    return [(file, _lines(file))] if _is_lines(file) else file_parts(file)


def _is_lines(file: str) -> bool:
    return without_packing(file).endswith(TEXT)


def _lines(file: str) -> Iterator[Row | Reject]:
    number = 0
    try:
        with io.BufferedReader(io.FileIO(file)) as packed:
            for number, line in lines(as_utf8(file, unpacked(file, packed))):
                text = "" if line is None else line.decode()
                if text.strip():
                    yield Row(number, text.strip())
    except UnicodeDecodeError:
        yield Reject(number, "wrong_encoding", "the line is not UTF-8")
    except UNPACKING as error:
        yield broken_from(number, error)


def _asked(place: str, row: Row) -> tuple[str, ...]:
    """The texts of a row. Raises InputError if there is none."""
    try:
        texts = [row.value] if isinstance(row.value, str) else list(asked_texts(row.value))
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise InputError(f"{place}:{row.line}: the question holds half of a surrogate pair; correct the row.") from None
    except BadRow as bad:
        raise InputError(f"{place}:{row.line}: {bad.detail}; correct the row.") from None
    if asked := tuple(text for text in texts if text.strip()):
        return asked
    raise InputError(
        f"{place}:{row.line}: there is no question; give rows with messages or one of {', '.join(QUESTIONS)}."
    )


def asked_texts(value: object) -> Iterable[str]:
    """What a row asks; empty if no field of it is known. Raises BadRow."""
    if not isinstance(value, dict):
        return []
    fields = {str(name).strip().lower(): content for name, content in value.items() if content is not None}
    talk = next((fields[name] for name in (*LISTS, "prompt") if _is_talk(fields.get(name))), None)
    if talk is not None:
        return [message.text for message in list_of_messages(talk, "messages") if message.role == "user"]
    asked = next((fields[name] for name in QUESTIONS if name in fields), None)
    if isinstance(asked, dict):
        # As in ARC's own files: {"question": {"stem": ..., "choices": [...]}}.
        asked = next((asked[name] for name in ("stem", "text", "question") if name in asked), None)
    if isinstance(asked, str):
        given = fields.get("input") if "instruction" in fields else None
        return [with_context(asked, given if isinstance(given, str) and given != asked else "")]
    return _all_texts(asked)


def _all_texts(asked: object) -> list[str]:
    """The texts of a list of turns: texts, or objects with a content."""
    turns = asked if isinstance(asked, list | tuple) else []
    texts = [turn.get("content") if isinstance(turn, dict) else turn for turn in turns]
    return [text for text in texts if isinstance(text, str)]


def _is_talk(value: Any) -> bool:
    """Whether a field holds a list of messages, also as JSON text."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return False
    try:
        first = next(iter(as_list(value, "messages")), None)
    except BadRow:
        return False
    return isinstance(first, dict) and any(key in first for key in ROLE_KEYS)
