"""Converts rows of any layout to samples, or to rejects with a reason. Reads no files."""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from deita_core.conversation import Conversation, Message
from deita_core.literals import Layout, Modality, Side
from deita_core.reading.marked_text import marked_messages
from deita_core.reading.messages import (
    ANSWERS,
    MAX_CHARS,
    NEEDED,
    QUESTIONS,
    Names,
    as_list,
    as_string,
    field_of,
    from_json,
    history,
    list_of_messages,
    row_extra,
    with_context,
)
from deita_core.reading.options import ReadOptions
from deita_core.reading.plain import plain_sample
from deita_core.reading.rows import BadRow, Reject, Row, Sample, check_depth, fields_json, short

PEEK = 100

DEFAULT = ReadOptions()


def parse_row(row: object, layout: Layout, options: ReadOptions = DEFAULT) -> Conversation:
    """The row's conversation, with all texts unchanged; of two answers the preferred one. Raises BadRow."""
    return parse_sides(row, layout, options)[0][1]


def parse_sides(row: object, layout: Layout, options: ReadOptions = DEFAULT) -> list[tuple[Side | None, Conversation]]:
    """The row's conversations, each with the side it is on if the row has a preference. Raises BadRow."""
    return _read(_named(row, options), layout, options)


def _named(row: object, options: ReadOptions) -> dict:
    """The row with this project's names. Raises BadRow if it has no names."""
    if not isinstance(row, dict):
        raise BadRow("not_an_object", f"the row is of type {type(row).__name__}, not an object with named fields")
    return _lowered(options.renamed(row))


def _read(row: dict, layout: Layout, options: ReadOptions) -> list[tuple[Side | None, Conversation]]:
    row = _unwrapped(row, layout)
    return [
        (side, _checked(Conversation(tuple(messages), row_extra(row, messages)), options.modality))
        for side, messages in _sides(row, layout, options)
    ]


def _sides(row: dict, layout: Layout, options: ReadOptions) -> list[tuple[Side | None, list[Message]]]:
    match layout:
        case "preference":
            sides: tuple[Side, ...] = ("chosen",) if options.preference == "chosen" else ("chosen", "rejected")
            return [(side, _preferred(row, side)) for side in sides]
        case "alpaca":
            return [(None, _alpaca(row))]
        case "prompt-response":
            return [(_labelled(row, options), _prompt_response(row))]
        case "text":
            return [(None, marked_messages(_text(row, ("text",))))]
    return [(None, _listed(row, NEEDED[layout][0]))]


def detect_layout(rows: Sequence[object]) -> Layout | None:
    """The layout that most rows fit, by their fields; None if no row fits any.

    Null fields count, unless a layout's fields are null in every row and another layout has values.
    """
    objects = [_lowered(row) for row in rows if isinstance(row, dict)]
    present = {layout: sum(_fits(row, layout) for row in objects) for layout in NEEDED}
    filled = [layout for layout in NEEDED if any(_fits(_without_nulls(row), layout) for row in objects)]
    best = max(filled or NEEDED, key=lambda layout: present[layout])
    return best if present[best] else None


def judge_rows(rows: Iterator[Row | Reject], options: ReadOptions = DEFAULT) -> Iterator[Sample | Reject]:
    """The samples or the reject of each row, in order; the layout is detected from the first PEEK rows unless given.

    Rows that fit no layout are rejects, and detection continues, so that bad rows at the start do not lose the file. A
    row that does not fit the detected layout, but exactly one other, is read in that one.
    """
    layout = options.expected
    for row in rows:
        waiting = [row, *islice(rows, PEEK - 1)] if layout is None and isinstance(row, Row) else [row]
        layout = layout or detect_layout([options.renamed(each.value) for each in waiting if isinstance(each, Row)])
        for each in waiting:
            yield from _fates(each, layout, options) if isinstance(each, Row) else [each]


def _fates(row: Row, layout: Layout | None, options: ReadOptions) -> Iterable[Sample | Reject]:
    try:
        named = _named(row.value, options)
        if layout is None:
            raise BadRow("unknown_layout", f"its fields fit no layout: {short(list(named)[:20])}")
        if plain := plain_sample(row, named, layout):
            return [plain]
        check_depth(row.value)
        own = layout if options.layout else _own_layout(named, layout)
        sides = _read(named, own, options)
        fields = row.text or fields_json(row.value)
        return [
            Sample(row.line, found, found.id, found.is_multimodal, found.n_turns, found.n_chars, own, fields, side)
            for side, found in sides
        ]
    except BadRow as bad:
        return [Reject(row.line, bad.reason, bad.detail)]


def _own_layout(row: dict, layout: Layout) -> Layout:
    """The file's layout, or the only other one that the row fits if it does not fit that."""
    if all(any(row.get(name) is not None for name in names) for names in NEEDED[layout]):
        return layout
    row = _without_nulls(row)
    # A row with an instruction and an output is always a prompt and a response as well.
    others = [other for other in NEEDED if _fits(row, other)]
    return others[0] if len(others) == 1 or others == ["alpaca", "prompt-response"] else layout


def _lowered(row: dict) -> dict:
    """The row with names in small letters, if it has others and no two become the same."""
    names = _small(tuple(row))
    return dict(zip(names, row.values(), strict=True)) if names else row


@lru_cache(maxsize=64)
def _small(names: tuple) -> tuple | None:
    """The names in small letters, None if they are so already or two would become the same. Rows share their names."""
    small = tuple(name.strip().lower() if isinstance(name, str) else name for name in names)
    return small if small != names and len(set(small)) == len(names) else None


def _alpaca(row: dict) -> list[Message]:
    question = with_context(_text(row, ("instruction",)), _optional(row, ("input",)))
    answer = _text(row, ("output",))
    return [*_system(row), *_history(row), Message("user", question), Message("assistant", answer)]


def _prompt_response(row: dict) -> list[Message]:
    """A prompt and its completion, each a text or a list of messages, as TRL has them."""
    asked, answered = field_of(row, QUESTIONS), field_of(row, ANSWERS)
    prompt, answer = _side_messages(row[asked], asked), _side_messages(row[answered], answered)
    if prompt is None:
        context = _optional(row, ("context", "input") if asked == "instruction" else ("context",))
        prompt = [Message("user", with_context(_text(row, (asked,)), context))]
    if answer is None:
        # The reasons that a data set has beside a short answer are part of what is learnt, and come before it.
        reasons = row.get("rationale")
        text = _text(row, (answered,))
        answer = [Message("assistant", with_context(reasons, text) if isinstance(reasons, str) else text)]
    before = [] if any(m.role == "system" for m in prompt) else _system(row)
    return [*before, *_history(row), *prompt, *answer]


def _labelled(row: dict, options: ReadOptions) -> Side | None:
    """The side of a row with a label that is true or false (KTO). Raises BadRow for a false one that is not wanted."""
    label = row.get("label")
    if isinstance(label, str) and label.strip().lower() in ("true", "false"):
        label = label.strip().lower() == "true"
    if not isinstance(label, bool):
        return None
    if not label and options.preference == "chosen":
        raise BadRow("not_preferred", "its label is false; --preference both reads such answers too")
    return "chosen" if label else "rejected"


def _preferred(row: dict, side: Side) -> list[Message]:
    """The conversation of one side: a whole one, or the prompt and an answer."""
    name = field_of(row, NEEDED["preference"][0 if side == "chosen" else 1])
    answer = _side_messages(row[name], name)
    if answer is None:
        text = _text(row, (name,))
        asked = [question for question in QUESTIONS if row.get(question) is not None]
        if not asked:
            return [*_system(row), *marked_messages(text)]
        answer = [Message("assistant", text)]
    if any(message.role == "user" for message in answer):
        return _with_system(row, answer)
    asked_by = field_of(row, ("messages", *QUESTIONS))
    prompt = _side_messages(row[asked_by], asked_by) or [Message("user", _text(row, (asked_by,)))]
    return [*_with_system(row, [*_history(row), *prompt]), *answer]


def _unwrapped(row: dict, layout: Layout) -> dict:
    """The row with what OpenAI's files have one level deeper at its top: `input` of a preference, `body` of a request.

    An answer to the request beside it is the last message.
    """
    asked = row.get("input")
    if layout == "preference" and isinstance(asked, dict) and "messages" in asked:
        return {**row, **asked}
    body = row.get("body")
    if layout != "messages" or "messages" in row or not isinstance(body, dict):
        return row
    return {**row, **body, "messages": [*as_list(body.get("messages"), "messages of body"), *_answer_beside(row)]}


def _answer_beside(row: dict) -> list:
    answered = row.get("response")
    inner = answered.get("body") if isinstance(answered, dict) else None
    answered = inner if isinstance(inner, dict) else answered
    choices = answered.get("choices") if isinstance(answered, dict) else None
    return [choices[0].get("message")] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else []


def _side_messages(value: object, name: str) -> list[Message] | None:
    """The messages of a field that holds a list of them, also as JSON text; None if it holds a text."""
    if isinstance(value, str):
        parsed = from_json(value) if value.lstrip().startswith("[{") else None
        first = parsed[0] if isinstance(parsed, list) and parsed else None
        if not isinstance(first, dict) or not {"role", "from"} & first.keys():
            return None
        value = parsed
    return list_of_messages(value, name, f"message {{}} of {name}") if isinstance(value, (list, tuple, dict)) else None


def _listed(row: dict, lists: Names) -> list[Message]:
    name = field_of(row, lists)
    messages = list_of_messages(row[name], name)
    return _with_system(row, [*_history(row), *messages]) if messages else messages


def _with_system(row: dict, messages: list[Message]) -> list[Message]:
    if any(message.role == "system" for message in messages):
        return messages
    return [*_system(row), *messages]


def _history(row: dict) -> Iterator[Message]:
    return history(row.get("history"))


def _system(row: dict) -> list[Message]:
    text = _optional(row, ("system", "system_prompt"))
    return [Message("system", text)] if text.strip() else []


def _text(row: dict, names: Names) -> str:
    name = field_of(row, names)
    return as_string(row[name], f"{name} of the row")


def _optional(row: dict, names: Names) -> str:
    value = next((row[name] for name in names if row.get(name) is not None), "")
    return as_string(value, " or ".join(names))


def _checked(found: Conversation, modality: Modality) -> Conversation:
    answers = [message for message in found.messages if message.role == "assistant"]
    if not found.messages:
        raise BadRow("empty_conversation", "the conversation has no messages")
    if not answers:
        raise BadRow("no_assistant_turn", "no message is the assistant's")
    if found.n_chars > MAX_CHARS:
        raise BadRow("too_large", f"the conversation has {found.n_chars:,} characters; at most {MAX_CHARS:,} are read")
    if modality == "text" and found.is_multimodal:
        raise BadRow("unsupported_content", "the row has images, audio, video or files, and the modality is text")
    if not found.n_turns:
        raise _unanswered(found)
    try:
        # orjson refuses text that UTF-8 cannot encode. The id is needed anyway.
        found.id  # noqa: B018
    except TypeError:
        raise BadRow("bad_unicode", "a message holds half of a surrogate pair, which UTF-8 cannot hold") from None
    return found


def _unanswered(found: Conversation) -> BadRow:
    spoken = {message.role for message in found.messages if not message.is_blank}
    if "assistant" not in spoken:
        return BadRow("empty_answer", "every message of the assistant is blank")
    if "user" not in spoken and any(message.role == "user" for message in found.messages):
        return BadRow("empty_instruction", "every message of the user is blank")
    if not any(m.is_trained for m in found.messages if m.role == "assistant" and not m.is_blank):
        return BadRow("nothing_trained", "a weight, train or loss flag excludes every answer from training")
    return BadRow("no_assistant_turn", "no user message is answered by an assistant")


def _fits(row: dict[str, Any], layout: Layout) -> bool:
    if layout == "sharegpt" and _is_openai(row.get("conversation")):
        return False
    if layout == "messages" and isinstance(row.get("body"), str):
        row = {name: value for name, value in row.items() if name != "body"}
    if layout == "preference" and any(isinstance(row.get(name), (bool, int, float)) for name in ("chosen", "rejected")):
        return False
    return all(any(name in row for name in names) for names in NEEDED[layout])


def _is_openai(messages: object) -> bool:
    """True for a list of OpenAI messages: both layouts use `conversation`, and the first message tells them apart."""
    first = messages[0] if isinstance(messages, list) and messages else None
    return isinstance(first, dict) and "role" in first and "from" not in first


def _without_nulls(row: dict) -> dict:
    return {name: value for name, value in row.items() if value is not None}
