"""Conversations: messages, turns, canonical form and content ids. Imports only `literals` of this project."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import groupby

import orjson

from deita_core.literals import Role

JOINT = "\n\n"


def content_id(data: bytes) -> str:
    """BLAKE2b-128 of the bytes, as 32 hex digits: the id of all content-addressed data."""
    return blake2b(data, digest_size=16).hexdigest()


def text_id(text: str) -> str:
    """The id of one message's text, the key of the vectors tables."""
    return content_id(text.encode())


@dataclass(frozen=True, slots=True)
class Message:
    """One message, with its text exactly as read."""

    role: Role
    content: str

    @property
    def is_blank(self) -> bool:
        """True if the text is only whitespace, so there is nothing to encode."""
        return not self.content.strip()


@dataclass(frozen=True, slots=True)
class Turn:
    """One or more consecutive user messages and the answer; positions index the conversation's messages."""

    user: tuple[int, ...]
    assistant: tuple[int, ...]
    instruction: str
    response: str


@dataclass(frozen=True)
class Conversation:
    """A sample: its messages in order."""

    messages: tuple[Message, ...]

    @cached_property
    def id(self) -> str:
        """Content id of the canonical JSON of the messages: role and content, exact text, no normalization."""
        return content_id(orjson.dumps([{"role": m.role, "content": m.content} for m in self.messages]))

    @cached_property
    def turns(self) -> tuple[Turn, ...]:
        """The turns to score; see `pair_turns`."""
        return tuple(
            Turn(user, assistant, self._text(user), self._text(assistant))
            for user, assistant in pair_turns((m.role, m.is_blank) for m in self.messages)
        )

    def _text(self, positions: tuple[int, ...]) -> str:
        return JOINT.join(self.messages[i].content for i in positions)

    @property
    def n_chars(self) -> int:
        """Characters over all messages."""
        return sum(len(m.content) for m in self.messages)


def conversation(pairs: Iterable[tuple[Role, str]]) -> Conversation:
    """A conversation from (role, content) pairs."""
    return Conversation(tuple(Message(role, content) for role, content in pairs))


def pair_turns(message_index: Iterable[tuple[str, bool]]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Positions of the (user, assistant) messages of each turn, from (role, is blank) of each message.

    System, tool and blank messages are ignored. Consecutive messages of one role are joined. An initial assistant
    message and a trailing user message belong to no turn.
    """
    spoken = [(role, i) for i, (role, blank) in enumerate(message_index) if role in ("user", "assistant") and not blank]
    asked: tuple[int, ...] = ()
    for role, run in groupby(spoken, key=lambda pair: pair[0]):
        positions = tuple(i for _, i in run)
        if role == "user":
            asked = positions
        elif asked:
            yield asked, positions
