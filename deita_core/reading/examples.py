"""Reads examples of the tasks that one wants data for: conversations, questions without answers, or plain texts."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from deita_core.conversation import Conversation, Message
from deita_core.errors import InputError, cause
from deita_core.reading.files import file_rows
from deita_core.reading.hub import HUB, hub_rows
from deita_core.reading.layouts import judge_rows
from deita_core.reading.messages import NEEDED, QUESTIONS, list_of_messages
from deita_core.reading.pool import expand
from deita_core.reading.rows import BadRow, Reject, Row, Sample

# The name of the only task where the rows name none.
ONLY_TASK = "all"
PLAIN = ".txt"
LISTS = (*NEEDED["messages"][0], *NEEDED["sharegpt"][0])


class Example(NamedTuple):
    """A text of a task, as a conversation that may lack an answer."""

    task: str
    conversation: Conversation


def read_examples(path: str, task_field: str = "task") -> list[Example]:
    """The examples in a file, in order.

    A row is a conversation of any layout, or has a question without an answer, or a text; a file that ends in .txt has
    one example a line. A text is read as what a user says. The row's `task_field` names its task; without one all
    examples are of one task. Raises InputError for a file or a row that cannot be read, and if only some rows name
    their task.
    """
    examples = _lines(path) if path.lower().endswith(PLAIN) else list(_rows(path, task_field))
    if not examples:
        raise InputError(f"{path} holds no example; give one of each task at least.")
    if unnamed := sum(not example.task for example in examples):
        if unnamed < len(examples):
            raise InputError(
                f"{unnamed:,} of the {len(examples):,} rows of {path} have no {task_field}; name it in all."
            )
        examples = [example._replace(task=ONLY_TASK) for example in examples]
    return examples


def _lines(path: str) -> list[Example]:
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({cause(error)}); give a file of examples in UTF-8.") from None
    return [Example("", _asked(line.strip())) for line in lines if line.strip()]


def _rows(path: str, task_field: str) -> Iterator[Example]:
    for file in expand(path):
        rows = list(hub_rows(file) if file.startswith(HUB) else file_rows(file))
        for row, read in zip(rows, judge_rows(iter(rows)), strict=True):
            value = row.value if isinstance(row, Row) else None
            sample = read.conversation if isinstance(read, Sample) else _unanswered(value)
            if sample is None:
                why = read.detail if isinstance(read, Reject) else "it is empty"
                raise InputError(f"{file}, line {row.line}, is no example: {why}; give a conversation, or a text.")
            task = value.get(task_field) if isinstance(value, dict) else None
            yield Example("" if task is None else str(task).strip(), sample)


def _unanswered(row: object) -> Conversation | None:
    """The conversation of a row without an answer; None if the row holds no text."""
    if isinstance(row, str):
        return _asked(row) if row.strip() else None
    if not isinstance(row, Mapping):
        return None
    for name in (*LISTS, *QUESTIONS, "text"):
        value = row.get(name)
        if isinstance(value, str) and value.strip() and name not in LISTS:
            return _asked(value)
        if isinstance(value, list):
            try:
                messages = tuple(list_of_messages(value, name))
            except BadRow:
                continue
            if any(not message.is_blank for message in messages):
                return Conversation(messages)
    return None


def _asked(text: str) -> Conversation:
    return Conversation((Message("user", text),))
