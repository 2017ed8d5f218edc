"""Extracts the answer from a model's reply and removes any reasoning before it."""

import re
from collections.abc import Sequence

# Marks of reasoning blocks: <think>, [THINK], ◁think▷, <|begin_of_thought|>, channels of harmony.
_NAME = r"(?:seed:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad|internal_monologue)"
_OPENING = re.compile(
    rf"<\|?{_NAME}\|?>|\[{_NAME}\]|◁{_NAME}▷|<\|begin_of_{_NAME}\|>|"
    r"(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)\b",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    rf"<(?:/\|?|\|/){_NAME}\|?>|\[/{_NAME}\]|◁/{_NAME}▷|<\|end_of_{_NAME}\|>|<\|channel\|>\s*final\b[^<]*<\|message\|>",
    re.IGNORECASE,
)
# Harmony output without its marks, and marks that may surround an answer.
_BARE_CHANNELS = re.compile(r"\s*analysis(?![a-z]).*?assistantfinal", re.DOTALL)
_AROUND = r"(?:\s*<\|(?:return|end|im_end|endoftext|begin_of_solution|end_of_solution)\|>)+\s*"
_AT_START, _AT_END = re.compile(_AROUND, re.IGNORECASE), re.compile(rf"{_AROUND}$", re.IGNORECASE)
# Reasoning and answer as paragraphs with headings.
_REASONING_HEADING = re.compile(
    r"\W{0,9}(?:reasoning|thinking|thoughts?|thought process|chain of thought|analysis|rationale)\W{0,4}[:\n]",
    re.IGNORECASE,
)
_ANSWER_HEADING = re.compile(
    r"^[^\w\n]{0,9}(?:(?:my|the) )?(?:final |actual )?(?:answer|scores?|output|result|response|ranking|json)"
    r"[^\w\n{[]{0,4}(?::[^\w\n{[<]{0,4}|$)",
    re.IGNORECASE | re.MULTILINE,
)
# The requested marks with any code, because models miscopy codes.
_MARK = re.compile(r"<(?P<end>/?)(?P<name>rewritten[^\s<>]*)[^<>]*>\n?", re.IGNORECASE)
# Text between two marks that are only mentioned: "between <rewritten-1> and </rewritten-1>".
_NO_TEXT = re.compile(r"[\W_]*(?:(?:and|to|or|und|et|y|e)[\W_]*)?", re.IGNORECASE)

Span = tuple[re.Match[str], re.Match[str]]


def visible(reply: str) -> str:
    """Return a reply without marked reasoning before its answer; empty if the reasoning never ends."""
    if bare := _BARE_CHANNELS.match(reply):
        reply = reply[bare.end() :]
    elif opening := _OPENING.match(reply, len(reply) - len(reply.lstrip())):
        closing = _CLOSING.search(reply, opening.end())
        reply = reply[closing.end() :] if closing else ""
    # A template may open the reasoning, so that the reply contains only the closing mark.
    elif (closing := _CLOSING.search(reply)) and not _OPENING.search(reply, 0, closing.start()):
        reply = reply[closing.end() :]
    begun = _AT_START.match(reply)
    return _AT_END.sub("", reply[begun.end() :] if begun else reply).strip()


def headed_answer(shown: str) -> str:
    """Return the text under the last final-answer heading, or any answer heading if the reply starts with reasoning."""
    is_reasoned = bool(_REASONING_HEADING.match(shown))
    headings = [found for found in _ANSWER_HEADING.finditer(shown) if is_reasoned or "final" in found[0].lower()]
    return shown[headings[-1].end() :].strip() if headings else shown


def rewritten(reply: str) -> str:
    """Return the rewritten text: between the last requested marks, or the whole answer if there are none.

    Reasoning may quote the marks and contain drafts between them. A marked text counts as a draft only if reasoning
    ends after it.
    """
    if bare := _BARE_CHANNELS.match(reply):
        reply = reply[bare.end() :]
    spans = _spans(reply)
    if spans and _ends_with_answer(reply, spans[-1][1].end()):
        return _between(reply, spans[-1])
    shown = visible(reply)
    spans = _spans(shown)
    start = spans[-1][1].end() if spans else 0
    unclosed = [mark for mark in _MARK.finditer(shown, start) if not mark["end"]]
    # If other texts have closed marks, an unclosed mark must be on its own line.
    if unclosed and (not spans or _begins_line(shown, unclosed[-1])):
        closing = next((mark for mark in _MARK.finditer(shown, unclosed[-1].end()) if mark["end"]), None)
        return shown[unclosed[-1].end() : closing.start() if closing else len(shown)].strip()
    if spans:
        return _between(shown, spans[-1])
    return headed_answer(shown) if _MARK.search(shown) else shown


def _ends_with_answer(reply: str, end: int) -> bool:
    """Whether a marked text is final: no other marked text follows, and no answer after the end of reasoning."""
    rest = _AT_END.sub("", reply[end:]).strip("\n `")
    if any(not mark["end"] and _begins_line(rest, mark) for mark in _MARK.finditer(rest)):
        return False
    if closings := list(_CLOSING.finditer(rest)):
        return not rest[closings[-1].end() :].strip()
    is_reasoning = _OPENING.match(reply, len(reply) - len(reply.lstrip())) and not _CLOSING.search(reply)
    return not (is_reasoning and rest)


def _spans(text: str) -> list[Span]:
    """Return the outermost pairs of marks around a text, without marks that are only mentioned.

    A mark that is opened twice before it is closed was only mentioned the first time.
    """
    opened: dict[str, re.Match[str]] = {}
    found: list[Span] = []
    for mark in _MARK.finditer(text):
        name = mark["name"].lower()
        if not mark["end"]:
            opened[name] = mark
        elif name in opened:
            begin = opened.pop(name)
            found = [*(span for span in found if span[0].start() < begin.start()), (begin, mark)]
    return [span for span in found if _is_text(text, span)]


def _is_text(text: str, span: Span) -> bool:
    alone = not f"{text[: span[0].start()]}{text[span[1].end() :]}".strip()
    return alone or _begins_line(text, span[0]) or not _NO_TEXT.fullmatch(_between(text, span))


def _between(text: str, span: Sequence[re.Match[str]]) -> str:
    return text[span[0].end() : span[1].start()].strip()


def _begins_line(text: str, mark: re.Match[str]) -> bool:
    """Whether a mark is on its own line."""
    before = text[text.rfind("\n", 0, mark.start()) + 1 : mark.start()]
    return not before.strip() and (mark[0].endswith("\n") or mark.end() == len(text))
