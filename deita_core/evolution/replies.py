"""What a model's reply offers, without the reasoning that some models leave in it before their answer."""

import re
from collections.abc import Sequence

# Blocks in which models leave their reasoning: <think>, [THINK], ◁think▷, <|begin_of_thought|>, channels of harmony.
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
# Harmony whose marks were dropped on the way, and those that may stand around an answer.
_BARE_CHANNELS = re.compile(r"\s*analysis(?![a-z]).*?assistantfinal", re.DOTALL)
_AROUND = r"(?:\s*<\|(?:return|end|im_end|endoftext|begin_of_solution|end_of_solution)\|>)+\s*"
_AT_START, _AT_END = re.compile(_AROUND, re.IGNORECASE), re.compile(rf"{_AROUND}$", re.IGNORECASE)
# Reasoning and answer as paragraphs, each with a heading.
_REASONING_HEADING = re.compile(
    r"\W{0,9}(?:reasoning|thinking|thoughts?|thought process|chain of thought|analysis|rationale)\W{0,4}[:\n]",
    re.IGNORECASE,
)
_ANSWER_HEADING = re.compile(
    r"^[^\w\n]{0,9}(?:(?:my|the) )?(?:final |actual )?(?:answer|scores?|output|result|response|ranking|json)"
    r"[^\w\n{[]{0,4}(?::[^\w\n{[<]{0,4}|$)",
    re.IGNORECASE | re.MULTILINE,
)
# The marks that were asked for, with their code; else, as models miscopy codes, any.
_MARK = re.compile(r"<(?P<end>/?)(?P<name>rewritten[^\s<>]*)[^<>]*>\n?", re.IGNORECASE)
# What stands between two marks that are only spoken of: "between <rewritten-1> and </rewritten-1>".
_NO_TEXT = re.compile(r"[\W_]*(?:(?:and|to|or|und|et|y|e)[\W_]*)?", re.IGNORECASE)

Span = tuple[re.Match[str], re.Match[str]]


def visible(reply: str) -> str:
    """A reply without the reasoning before its answer, where marks tell the two apart; empty where it never ends."""
    if bare := _BARE_CHANNELS.match(reply):
        reply = reply[bare.end() :]
    elif opening := _OPENING.match(reply, len(reply) - len(reply.lstrip())):
        closing = _CLOSING.search(reply, opening.end())
        reply = reply[closing.end() :] if closing else ""
    # A template may open the reasoning itself, so that the reply only closes it.
    elif (closing := _CLOSING.search(reply)) and not _OPENING.search(reply, 0, closing.start()):
        reply = reply[closing.end() :]
    begun = _AT_START.match(reply)
    return _AT_END.sub("", reply[begun.end() :] if begun else reply).strip()


def headed_answer(shown: str) -> str:
    """What stands under the last heading of a final answer; of any answer where a reply begins with its reasoning's."""
    is_reasoned = bool(_REASONING_HEADING.match(shown))
    headings = [found for found in _ANSWER_HEADING.finditer(shown) if is_reasoned or "final" in found[0].lower()]
    return shown[headings[-1].end() :].strip() if headings else shown


def rewritten(reply: str) -> str:
    """The text a reply offers: what stands between the last marks asked for, or all of it where there are none.

    Reasoning before the answer may quote the marks, and hold drafts between them; a text is no draft unless the
    reasoning ends only after it.
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
    # Where there are texts between marks, one that is not closed has to begin on a line of its own.
    if unclosed and (not spans or _begins_line(shown, unclosed[-1])):
        closing = next((mark for mark in _MARK.finditer(shown, unclosed[-1].end()) if mark["end"]), None)
        return shown[unclosed[-1].end() : closing.start() if closing else len(shown)].strip()
    if spans:
        return _between(shown, spans[-1])
    return headed_answer(shown) if _MARK.search(shown) else shown


def _ends_with_answer(reply: str, end: int) -> bool:
    """Whether no reasoning is left to end after a marked text, and no other text begins after it."""
    rest = _AT_END.sub("", reply[end:]).strip("\n `")
    if any(not mark["end"] and _begins_line(rest, mark) for mark in _MARK.finditer(rest)):
        return False
    if closings := list(_CLOSING.finditer(rest)):
        return not rest[closings[-1].end() :].strip()
    is_reasoning = _OPENING.match(reply, len(reply) - len(reply.lstrip())) and not _CLOSING.search(reply)
    return not (is_reasoning and rest)


def _spans(text: str) -> list[Span]:
    """Pairs of marks around a text, outermost ones; not those that are only spoken of.

    A mark that is opened once more before it is closed was only spoken of as well.
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
    """Whether a mark stands on a line of its own."""
    before = text[text.rfind("\n", 0, mark.start()) + 1 : mark.start()]
    return not before.strip() and (mark[0].endswith("\n") or mark.end() == len(text))
