"""Reads examples of the tasks that one wants data for: conversations, questions without answers, or plain texts."""

from typing import NamedTuple

from deita_core.conversation import Conversation, Message
from deita_core.errors import InputError
from deita_core.reading.benchmarks import asked_texts, benchmark_files, rows_of
from deita_core.reading.layouts import judge_rows
from deita_core.reading.rows import BadRow, Reject, Row, Sample

# The name of the only task where the rows name none.
ONLY_TASK = "all"


class Example(NamedTuple):
    """A text of a task, as a conversation that may lack an answer."""

    task: str
    conversation: Conversation


def read_examples(path: str, task_field: str = "task") -> list[Example]:
    """The examples in a file, or in the files of a folder or glob, in order.

    A row is a conversation of any layout, or asks a question as `read_benchmark` finds it; each line of a .txt file is
    one. A row without an answer is read as what a user says. The row's `task_field` names its task; without one all
    examples are of one task. Raises InputError for a file or a row that cannot be read, and if only some rows name
    their task.
    """
    examples = []
    for file in benchmark_files([path]):
        for place, found in rows_of(file):
            rows = list(found)
            for row, read in zip(rows, judge_rows(iter(rows)), strict=True):
                sample = read.conversation if isinstance(read, Sample) else _unanswered(place, row, read)
                examples.append(Example(_task(row, task_field), sample))
    if not examples:
        raise InputError(f"{path} holds no example; give one of each task at least.")
    if unnamed := sum(not example.task for example in examples):
        if unnamed < len(examples):
            raise InputError(
                f"{unnamed:,} of the {len(examples):,} rows of {path} have no {task_field}; name it in all."
            )
        return [example._replace(task=ONLY_TASK) for example in examples]
    return examples


def _task(row: Row | Reject, field: str) -> str:
    """The task that a row names; empty if it names none."""
    task = row.value.get(field) if isinstance(row, Row) and isinstance(row.value, dict) else None
    return "" if task is None else str(task).strip()


def _unanswered(place: str, row: Row | Reject, read: Reject) -> Conversation:
    """The conversation of a row without an answer. Raises InputError if the row asks nothing."""
    value = row.value if isinstance(row, Row) else None
    try:
        texts = [value] if isinstance(value, str) else list(asked_texts(value))
        "".join(texts).encode()
    except (BadRow, UnicodeEncodeError):
        texts = []
    if not any(text.strip() for text in texts):
        raise InputError(f"{place}:{row.line} is no example: {read.detail}; give a conversation, a question or a text.")
    return Conversation(tuple(Message("user", text) for text in texts if text.strip()))
