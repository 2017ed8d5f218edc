"""Two rows have one id only if every trainer would see the same: held against three chat templates with tools."""

import json
from collections import defaultdict
from contextlib import suppress
from hashlib import blake2b

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from deita_core.conversation import conversation
from deita_core.errors import InputError
from deita_core.export.layouts import in_layout
from deita_core.reading.layouts import parse_row
from deita_core.reading.rows import BadRow

# The three as their publishers have them in outline, without dates and default system prompts.
LLAMA = """<|begin|>{% if tools is defined and tools is not none %}Environment: ipython
{% for tool in tools %}{{ tool | tojson(indent=4) }}
{% endfor %}{% endif %}{% for message in messages %}{% if message.tool_calls %}<|header|>assistant<|end_header|>
{% for call in message.tool_calls %}{"name": "{{ call.function.name }}", "parameters": {{
call.function.arguments | tojson }}}{% endfor %}<|eom|>
{% elif message.role in ("tool", "ipython", "function") %}<|header|>ipython<|end_header|>
{{ message.content | tojson }}<|eot|>{% else %}<|header|>{{ message.role }}<|end_header|>
{{ message.content }}<|eot|>{% endif %}{% endfor %}"""
QWEN = """{% if tools %}<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}</tools>{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>
{% endif %}{% if message.content %}{{ message.content }}{% endif %}{% for call in message.tool_calls or [] %}
<tool_call>
{{ call | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}"""
CHATML = """{% for message in messages %}<|im_start|>{{ message["role"] }}{%
if message.name %} name={{ message.name }}{% endif %}{% if message.tool_call_id %} id={{ message.tool_call_id }}{%
endif %}
{{ message["content"] }}{% if message.thinking %}<thinking>{{ message.thinking }}</thinking>{% endif %}{%
if message.reasoning %}<r>{{ message.reasoning }}</r>{% endif %}{%
if message.function_call %}{{ message.function_call | tojson }}{% endif %}<|im_end|>
{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"""


def rendered(row):
    """The row in the three templates, and the flags that a loss reads.

    Files with columns fill in nulls, and libraries of training take them out again, so a null is no field.
    """
    messages = [{n: v for n, v in m.items() if v is not None or n == "content"} for m in row["messages"]]
    texts = [
        render_jinja_template([messages], tools=row.get("tools"), chat_template=template)[0][0]
        for template in (LLAMA, QWEN, CHATML)
    ]
    return (*texts, json.dumps([message.get("weight") for message in messages]))


TEXTS = st.sampled_from(["", "a", "b", "a\n", "<think>b</think>a", '[{"name":"f"}]', "None", "é"])
VALUES = st.sampled_from([0, 1, 1.0, "1", None, True, {"x": 1, "y": 2}, {"y": 2, "x": 1}, [], ["a"]])
ARGUMENTS = st.dictionaries(st.sampled_from("ab"), VALUES, max_size=2)
CALL = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": st.sampled_from("fg"), "arguments": ARGUMENTS | st.just("{}")})},
    optional={"id": st.sampled_from(["1", "2"]), "type": st.just("function")},
)
PARTS = st.lists(
    st.sampled_from([{"type": "text", "text": "a"}, {"type": "image"}, {"type": "thinking", "thinking": "b"}]),
    max_size=2,
)
USER = st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "developer"]), "content": TEXTS | PARTS})
TOOL = st.fixed_dictionaries(
    {"role": st.sampled_from(["tool", "function", "ipython"]), "content": TEXTS},
    optional={"tool_call_id": st.sampled_from("12"), "name": st.sampled_from("fg")},
)
ASSISTANT = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": TEXTS | PARTS | st.none()},
    optional={
        "tool_calls": st.lists(CALL, max_size=2),
        "function_call": st.fixed_dictionaries({"name": st.sampled_from("fg"), "arguments": st.just("{}")}),
        "reasoning_content": TEXTS,
        "reasoning": TEXTS,
        "thinking": TEXTS,
        "name": st.sampled_from("fg"),
        "weight": st.sampled_from([0, 1]),
    },
)
TOOLS = st.lists(st.fixed_dictionaries({"name": st.sampled_from("fg"), "parameters": ARGUMENTS}), max_size=2)
ASKED = {"role": "user", "content": "Why?"}
ANSWERED = {"role": "assistant", "content": "So."}
MIDDLE = st.lists(USER | TOOL | ASSISTANT, max_size=2)
ROWS = st.builds(
    lambda middle, tools: {"messages": [ASKED, *middle, ANSWERED], **tools},
    MIDDLE,
    st.fixed_dictionaries({}, optional={"tools": TOOLS}),
)


def id_of(row, layout="messages"):
    try:
        return parse_row(json.loads(json.dumps(row)), layout).id
    except BadRow:
        return None


def neighbours(row):
    """The row, and every row that differs from it in one field of a message or of the row."""
    yield row
    for i, message in enumerate(row["messages"]):
        for name in message:
            less = {key: value for key, value in message.items() if key != name}
            others = [less, *(less | {name: value} for value in ("other", None))] if name != "role" else []
            for other in others:
                yield {**row, "messages": [*row["messages"][:i], other, *row["messages"][i + 1 :]]}
    if "tools" in row:
        yield {"messages": row["messages"]}


@settings(deadline=None, max_examples=150)
@given(ROWS)
def test_rows_that_render_differently_have_different_ids(row):
    looks = defaultdict(set)
    for other in neighbours(row):
        if identity := id_of(other):
            # A template that fails on a row shows nothing.
            with suppress(TemplateError):
                looks[identity].add(rendered(other))
    assert all(len(found) <= 1 for found in looks.values())


def with_answer(**fields):
    return {"messages": [ASKED, {"role": "assistant", "content": "So.", **fields}]}


CALLS = [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]
DIFFERENT = [
    with_answer(),
    with_answer(tool_calls=CALLS),
    with_answer(tool_calls=[{**CALLS[0], "id": "2"}]),
    with_answer(tool_calls=[{"function": CALLS[0]["function"], "id": "1"}]),
    with_answer(tool_calls=CALLS, content=None),
    with_answer(tool_calls=CALLS, content=""),
    with_answer(function_call=CALLS[0]["function"]),
    with_answer(name="Ada"),
    with_answer(reasoning_content="Since."),
    with_answer(reasoning="Since."),
    with_answer(thinking="Since."),
    with_answer(content="<think>Since.</think>So."),
    with_answer(content=[{"type": "text", "text": "So."}]),
    with_answer(content=[{"type": "text", "text": "So."}, {"type": "image", "image": "a.png"}]),
    with_answer(content=[{"type": "text", "text": "So."}, {"type": "image", "image": "b.png"}]),
    with_answer(content=[{"type": "thinking", "thinking": "Since."}, {"type": "text", "text": "So."}]),
    with_answer(weight=1),
    with_answer(train=True),
    {**with_answer(), "tools": [{"name": "f"}]},
    {**with_answer(), "tools": [{"name": "g"}]},
    {**with_answer(), "tools": [{"name": "f", "strict": None}]},
    {**with_answer(), "functions": [{"name": "f"}]},
    {**with_answer(), "images": ["a.png"]},
    {**with_answer(), "images": ["b.png"]},
    {**with_answer(), "chat_template_kwargs": {"enable_thinking": False}},
    {**with_answer(), "documents": [{"text": "x"}]},
    {"messages": [{"role": "system", "content": "Be brief."}, *with_answer()["messages"]]},
    {"messages": [{"role": "developer", "content": "Be brief."}, *with_answer()["messages"]]},
    {"messages": [{"role": "system", "content": "Be brief."}, *with_answer()["messages"]], "system": "Be long."},
]


def test_each_thing_that_a_trainer_sees_makes_another_id():
    ids = [id_of(row) for row in DIFFERENT]
    assert None not in ids
    assert len(set(ids)) == len(DIFFERENT)


SAME = [
    (with_answer(), with_answer(tool_calls=None, reasoning_content=None, weight=None)),
    (with_answer(), {**with_answer(), "tools": None, "images": [], "score": 0.5}),
    (with_answer(), with_answer(timestamp="2026-01-01")),
    ({**with_answer(), "tools": CALLS}, {**with_answer(), "tools": json.dumps(CALLS)}),
    (with_answer(tool_calls=CALLS), with_answer(tool_calls=json.dumps(CALLS, indent=2))),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_no_trainer_sees_makes_no_other_id(one, other):
    assert id_of(one) == id_of(other)


def test_an_id_is_the_hash_of_the_canonical_json():
    plain = b'[{"role":"user","content":"Why?"},{"role":"assistant","content":"So."}]'
    assert id_of(with_answer()) == conversation([("user", "Why?"), ("assistant", "So.")]).id == hashed(plain)
    named = b'[{"role":"user","content":"Why?"},{"role":"assistant","content":"So.","extra":"{\\"name\\":\\"Ada\\"}"}]'
    assert id_of(with_answer(name="Ada")) == hashed(named)
    assert id_of({**with_answer(), "tools": []}) == hashed(b'{"messages":' + plain + b',"extra":"{\\"tools\\":[]}"}')


def hashed(data):
    return blake2b(data, digest_size=16).hexdigest()


@settings(deadline=None, max_examples=300)
@given(ROWS)
def test_a_conversation_survives_in_every_layout_that_can_hold_it(row):
    try:
        found = parse_row(row, "messages")
    except BadRow:
        return
    for format_, layout in (("messages", "messages"), ("sharegpt", "sharegpt"), ("alpaca", "alpaca")):
        try:
            written = in_layout(found, format_, row)
        except InputError as error:
            assert format_ == "alpaca" and found.id in str(error) and "cannot hold" in str(error)
            continue
        again = parse_row(orjson.loads(orjson.dumps(written)), layout)
        if format_ == "alpaca":
            assert [(m.role, m.content) for m in again.messages if not m.is_blank] == joined(found)
        else:
            assert again.id == found.id
            assert again == found


def joined(found):
    """The messages that are not blank, consecutive ones of a role in one, and the system's first."""
    spoken: list[tuple[str, str]] = []
    for message in sorted((m for m in found.messages if not m.is_blank), key=lambda m: m.role != "system"):
        if spoken and spoken[-1][0] == message.role:
            spoken[-1] = (message.role, spoken[-1][1] + "\n\n" + message.content)
        else:
            spoken.append((message.role, message.content))
    return spoken
