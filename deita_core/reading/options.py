"""How rows are read: the layout, names of columns, preference pairs, and what may stand beside text."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator
from pydantic_core import PydanticCustomError

from deita_core.literals import Layout, Modality, Preference, Role
from deita_core.reading.messages import ROLE_KEYS, from_json

COLUMNS = (
    *("messages", "system", "tools", "history", "prompt", "completion", "chosen", "rejected", "label"),
    *("instruction", "input", "output", "response", "text"),
)
KEYS = ("role", "content", "tool_calls", "tool_call_id", "name", "reasoning_content", "weight")
SPEAKERS: dict[str, Role] = {"user": "user", "assistant": "assistant", "tool": "tool"}
# The columns of a layout that a mapping of any of them stands for.
LAYOUT_OF: dict[str, Layout] = {
    "messages": "messages",
    "chosen": "preference",
    "rejected": "preference",
    "output": "alpaca",
    "completion": "prompt-response",
    "response": "prompt-response",
    "text": "text",
}


class ReadOptions(BaseModel):
    """How rows become samples; the options are part of a file's id in the store.

    `columns` names the pool's own columns and keys of messages, and what its roles are called: {"messages": "dialog",
    "role": "from", "content": "value", "user": "Patient"}.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Layout | None = None
    preference: Preference = "chosen"
    modality: Modality = "any"
    columns: dict[str, str] = {}

    @field_validator("columns")
    @classmethod
    def _known(cls, columns: dict[str, str]) -> dict[str, str]:
        return known_columns(columns)

    @property
    def expected(self) -> Layout | None:
        """The layout that is given, or that the mapped columns make."""
        return self.layout or next((LAYOUT_OF[name] for name in LAYOUT_OF if name in self.columns), None)

    def renamed(self, row: Any) -> Any:
        """The row with this project's names of columns, keys and roles."""
        if not self.columns or not isinstance(row, dict):
            return row
        row = _renamed(row, {name: own for name, own in self.columns.items() if name in COLUMNS})
        keys = {name: own for name, own in self.columns.items() if name in KEYS}
        speakers = {own.lower(): name for name, own in self.columns.items() if name in SPEAKERS}
        return {name: _with_names(value, keys, speakers) for name, value in row.items()} if keys or speakers else row


def _with_names(value: Any, keys: dict[str, str], speakers: dict[str, str]) -> Any:
    """A list of messages, also as JSON text, with this project's keys and roles; any other value unchanged."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        parsed = from_json(value)
        return value if not isinstance(parsed, list) else _with_names(parsed, keys, speakers)
    if not isinstance(value, list):
        return value
    messages = [_renamed(message, keys) if isinstance(message, dict) else message for message in value]
    for message in messages:
        for role in ROLE_KEYS if isinstance(message, dict) else ():
            if (own := str(message.get(role)).lower()) in speakers:
                message[role] = speakers[own]
    return messages


def known_columns(columns: dict[str, str]) -> dict[str, str]:
    """The mapping, unchanged. Raises a pydantic error for a name that is none of this project's."""
    if unknown := [name for name in columns if name not in (*COLUMNS, *KEYS, *SPEAKERS)]:
        known = ", ".join([*COLUMNS, *KEYS, *SPEAKERS])
        raise PydanticCustomError("columns", "{name} is none of {known}", {"name": unknown[0][:60], "known": known})
    return columns


def _renamed(row: Mapping[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The row with the values of other names under the given ones, which take the place of fields so named."""
    found = {name: own for name, own in names.items() if own in row}
    rest = {name: value for name, value in row.items() if name not in found and name not in found.values()}
    return {name: row[own] for name, own in found.items()} | rest
