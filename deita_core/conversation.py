"""Conversations: messages, turns, canonical form and content ids. Imports only `literals` of this project."""

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import groupby
from typing import Any, NamedTuple

import orjson

from deita_core.literals import Reasoning, Role

JOINT = "\n\n"
# What a chat template or a loss reads of a message besides role and content, in the order of the canonical form. `role`
# is the role's own name if templates render it as such, `content` the content if it is not a text.
CALLS = ("tool_calls", "function_call")
REASONING = ("reasoning_content", "reasoning", "thinking")
FLAGS = ("weight", "train", "training", "loss")
MESSAGE_FIELDS = ("role", "content", *CALLS, "tool_call_id", "name", *REASONING, *FLAGS)
# What a chat template or a processor reads of a row besides its messages.
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
TOOLS = ("tools", "functions")
ROW_FIELDS = ("system", *TOOLS, "documents", "chat_template_kwargs", *MEDIA)

THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
TEXT_PARTS = ("text", "input_text", "output_text")
THOUGHT_PARTS = ("thinking", "reasoning", "redacted_thinking")
TOOL_PARTS = ("tool_use", "tool_call", "tool_result")
MEDIA_KIND = re.compile(r"image|audio|video|file|document")


def content_id(data: bytes) -> str:
    """BLAKE2b-128 of the bytes, as 32 hex digits: the id of all content-addressed data."""
    return blake2b(data, digest_size=16).hexdigest()


def text_id(text: str) -> str:
    """The id of one message's text, the key of the vectors tables."""
    return content_id(text.encode())


def canonical(value: object) -> str:
    """A value as one line of JSON, with the order of its keys, since chat templates render it.

    Types that JSON lacks become text, as in `as_text`; NaN and infinities keep the names that Python gives them.
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=as_text)


def as_text(value: object) -> str:
    """A value that JSON lacks: dates and times in ISO 8601, bytes in base64, others as `str` gives them."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def extra_json(fields: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """Those of the named fields that are there, as canonical JSON; None if there are none. A null is not there."""
    # A content that is null is a value of its own: a template renders it otherwise than an empty text.
    found = {name: fields[name] for name in names if name in fields and (fields[name] is not None or name == "content")}
    return canonical(found) if found else None


class Message(NamedTuple):
    """One message; `content` is its text as read, `extra` what else a trainer sees of it (MESSAGE_FIELDS), as JSON."""

    role: Role
    content: str
    extra: str | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """What else a trainer sees of the message, by name."""
        return json.loads(self.extra) if self.extra else {}

    @property
    def is_plain(self) -> bool:
        """True for a content without reasoning and without anything beside it, as nearly all messages are."""
        return self.extra is None and (self.role != "assistant" or "<think>" not in self.content)

    @property
    def text(self) -> str:
        """What is encoded and scored: the content without its reasoning, then the tool calls as one line of JSON."""
        if self.is_plain:
            return self.content
        said = self.content[thought.end() :] if (thought := self._thought()) else self.content
        if not self.extra:
            return said
        calls = [canonical(self.fields[name]) for name in CALLS if self.fields.get(name)]
        return "\n".join([said, *calls] if said.strip() else calls or [said])

    @property
    def reasoning(self) -> str:
        """The reasoning before the answer: from its own field, parts of the content, or <think> at the start."""
        if self.is_plain:
            return ""
        thought = self._thought()
        if not self.extra:
            return thought[1].strip() if thought else ""
        fields, content = self.fields, self.fields.get("content")
        found = [fields[name] for name in REASONING if isinstance(fields.get(name), str)]
        found += [thought_of(part) for part in content if is_thought(part)] if isinstance(content, list) else []
        found += [thought[1].strip()] if thought else []
        return JOINT.join(text for text in found if text.strip())

    def _thought(self) -> re.Match[str] | None:
        return THOUGHT.match(self.content) if self.role == "assistant" else None

    def read_text(self, reasoning: Reasoning = "score") -> str:
        """The text, with the reasoning before it unless that is to be ignored."""
        if reasoning == "ignore" or self.is_plain:
            return self.text
        return JOINT.join(filter(None, (self.reasoning, self.text)))

    @property
    def is_blank(self) -> bool:
        """True if the text is only whitespace, so there is nothing to encode."""
        return not self.text.strip()

    @property
    def is_trained(self) -> bool:
        """False if a weight, train or loss flag excludes the message from the loss."""
        return self.extra is None or all(self.fields.get(name, True) for name in FLAGS)

    @property
    def is_multimodal(self) -> bool:
        """True if a part of the content is neither text nor reasoning nor a tool call."""
        content = self.fields.get("content") if self.extra else None
        return isinstance(content, list) and any(part_kind(part) == "media" for part in content)


def part_kind(part: object) -> str:
    """What a typed part of a content is: text, thought, tool, or media."""
    kind = part.get("type") if isinstance(part, dict) else "text" if isinstance(part, str) else None
    if kind in TEXT_PARTS or (kind is None and isinstance(part, dict) and isinstance(part.get("text"), str)):
        return "text"
    return "thought" if kind in THOUGHT_PARTS else "tool" if kind in TOOL_PARTS else "media"


def is_thought(part: object) -> bool:
    """True for a part that holds reasoning."""
    return part_kind(part) == "thought"


def thought_of(part: Mapping[str, Any]) -> str:
    """The text of a part that holds reasoning."""
    return next((part[name] for name in ("thinking", "reasoning", "text") if isinstance(part.get(name), str)), "")


def placeholder(part: object) -> str:
    """What stands in a text for a part that has none, such as [image]."""
    kind = str(part.get("type") or next(iter(part), "part")) if isinstance(part, dict) else type(part).__name__
    known = MEDIA_KIND.search(kind)
    return f"[{known[0] if known else kind[:30]}]"


@dataclass(frozen=True, slots=True)
class Turn:
    """One or more consecutive user messages and the answer; positions index the conversation's messages."""

    user: tuple[int, ...]
    assistant: tuple[int, ...]
    instruction: str
    response: str


@dataclass(frozen=True)
class Conversation:
    """A sample: its messages in order, and what else a trainer sees of its row (ROW_FIELDS), as JSON."""

    messages: tuple[Message, ...]
    extra: str | None = None

    @cached_property
    def id(self) -> str:
        """Content id of the canonical JSON: role, content and `extra` of each message, exact text; `extra` of the row.

        Raises TypeError for text that UTF-8 cannot encode.
        """
        messages = [
            {"role": role, "content": content, "extra": extra} if extra else {"role": role, "content": content}
            for role, content, extra in self.messages
        ]
        return content_id(orjson.dumps({"messages": messages, "extra": self.extra} if self.extra else messages))

    @cached_property
    def turns(self) -> tuple[Turn, ...]:
        """The turns to score; see `pair_turns`."""
        return self.turns_with("ignore")

    def turns_with(self, reasoning: Reasoning) -> tuple[Turn, ...]:
        """The turns to score, with the reasoning before each answer unless that is to be ignored."""
        texts = [m.read_text(reasoning) for m in self.messages]
        return tuple(
            Turn(user, assistant, JOINT.join(texts[i] for i in user), JOINT.join(texts[i] for i in assistant))
            for user, assistant in pair_turns((m.role, m.is_blank, m.is_trained) for m in self.messages)
        )

    @cached_property
    def n_turns(self) -> int:
        """Number of the turns to score."""
        return sum(1 for _ in pair_turns((m.role, m.is_blank, m.is_trained) for m in self.messages))

    @property
    def fields(self) -> dict[str, Any]:
        """What else a trainer sees of the row, by name."""
        return json.loads(self.extra) if self.extra else {}

    @property
    def is_multimodal(self) -> bool:
        """True if there is more than text: images, audio, video or files."""
        return any(map(self.fields.get, MEDIA)) or any(m.is_multimodal for m in self.messages if m.extra)

    @cached_property
    def n_chars(self) -> int:
        """Characters over all messages, with their reasoning."""
        return sum(len(m.text) + len(m.reasoning) for m in self.messages)


def conversation(pairs: Iterable[tuple[Role, str]]) -> Conversation:
    """A conversation from (role, content) pairs."""
    return Conversation(tuple(Message(role, content) for role, content in pairs))


def stored_conversation(messages: Iterable[Mapping[str, Any]], extra: str | None = None) -> Conversation:
    """A conversation from a row of the samples table."""
    return Conversation(tuple(Message(m["role"], m["content"], m["extra"]) for m in messages), extra)


def pair_turns(messages: Iterable[tuple[str, bool, bool]]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Positions of the (user, assistant) messages of each turn, from (role, is blank, is trained) of each message.

    System, tool and blank messages are ignored. Consecutive messages of one role are joined. An initial assistant
    message and a trailing user message belong to no turn, and neither does an answer that is not trained.
    """
    spoken = [
        (role, i, trained)
        for i, (role, blank, trained) in enumerate(messages)
        if role in ("user", "assistant") and not blank
    ]
    asked: tuple[int, ...] = ()
    for role, run in groupby(spoken, key=lambda message: message[0]):
        if role == "user":
            asked = tuple(i for _, i, _ in run)
        elif asked and (answered := tuple(i for _, i, trained in run if trained)):
            yield asked, answered
