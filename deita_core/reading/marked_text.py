"""Finds the turns in a text that has them all, by its marks: ChatML, "### Instruction:", "### Human:" or "Human:"."""

import re

from deita_core.conversation import Message
from deita_core.literals import Role
from deita_core.reading.messages import ROLE_OF
from deita_core.reading.rows import BadRow, short

CHATML = re.compile(r"<\|im_start\|>([^\n]{0,40})\n(.*?)<\|im_end\|>", re.DOTALL)
CHATML_MARK = re.compile(r"<\|im_(?:start|end)\|>")
END_OF_TEXT = re.compile(r"\s*(?:<\|endoftext\|>|</s>)?\s*")
SPACE = re.compile(r"\s*")
HEADING = re.compile(
    r"^### ?(System|Instruction|Input|Response|Human|User|Assistant|Question|Answer):[ \t]*", re.M | re.I
)
HEADING_ROLES: dict[str, Role] = {
    "system": "system",
    "instruction": "user",
    "input": "user",
    "human": "user",
    "user": "user",
    "question": "user",
    "response": "assistant",
    "assistant": "assistant",
    "answer": "assistant",
}
SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant): ?")
NO_MARKS = (
    "the text has no marks of turns that are certain (<|im_start|>, ### Instruction:, ### Human:, or "
    "Human: and Assistant:)"
)


def marked_messages(text: str) -> list[Message]:
    """The messages of a text, without the marks and the white space around them. Raises BadRow if any mark is unclear.

    Every mark must be where it begins a turn, and the turns must alternate; a text before the first heading is the
    system's.
    """
    if CHATML_MARK.search(text):
        return _chatml(text)
    if HEADING.search(text):
        return _alternating(_sections(text, HEADING))
    if SPEAKER.match(text.lstrip()):
        return _alternating(_sections("\n\n" + text.strip(), SPEAKER))
    raise BadRow("unmarked_text", NO_MARKS)


def _chatml(text: str) -> list[Message]:
    messages, at = [], 0
    for found in CHATML.finditer(text):
        name, content = found[1].strip().lower(), found[2]
        if SPACE.fullmatch(text, at, found.start()) is None or CHATML_MARK.search(content):
            raise BadRow("unclear_marks", "a mark of ChatML stands within a message, or a text outside of them")
        if name not in ROLE_OF:
            raise BadRow("unknown_role", f"a message has the role {short(found[1])}")
        messages.append(Message(ROLE_OF[name], content))
        at = found.end()
    if END_OF_TEXT.fullmatch(text, at) is None:
        raise BadRow("unclear_marks", "the last message of the ChatML has no end, or a text follows it")
    return messages


def _sections(text: str, mark: re.Pattern[str]) -> list[tuple[str, str]]:
    """Name and text of each marked section; what stands before the first is named system."""
    marks = list(mark.finditer(text))
    ends = [*(found.start() for found in marks[1:]), len(text)]
    before = text[: marks[0].start()].strip()
    sections = [(found[1].lower(), text[found.end() : end].strip()) for found, end in zip(marks, ends, strict=True)]
    return [("system", before), *sections] if before else sections


def _alternating(sections: list[tuple[str, str]]) -> list[Message]:
    messages: list[Message] = []
    for name, text in sections:
        role = HEADING_ROLES[name]
        if name == "input" and messages and messages[-1].role == "user":
            joined = f"{messages[-1].content}\n\n{text}" if text else messages[-1].content
            messages[-1] = Message("user", joined)
            continue
        if (messages and messages[-1].role == role) or (role == "system" and messages):
            raise BadRow("unclear_marks", f"the marks do not alternate: a second one of {name}, or one out of order")
        messages.append(Message(role, text.removesuffix("</s>").rstrip() if role == "assistant" else text))
    spoken = [message.role for message in messages if message.role != "system"]
    if not spoken or spoken[0] != "user" or spoken[-1] != "assistant":
        raise BadRow("unclear_marks", "the marks do not begin with a question and end with an answer")
    return messages
