from datetime import date, datetime
from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.literals import LAYOUTS, ROLES
from deita_core.reading.layouts import MAX_CHARS, detect_layout, parse_row
from deita_core.reading.messages import CALL_ROLES, ROLE_OF
from deita_core.reading.rows import BadRow, fields_json

ALPACA = {"instruction": "Add.", "input": "1 + 1", "output": "2"}
ASKED = {"from": "human", "value": "Hi"}
SAID = {"from": "gpt", "value": "Hello"}


def pairs(row, layout):
    return [(m.role, m.content) for m in parse_row(row, layout).messages]


def refusal(row, layout):
    with pytest.raises(BadRow) as caught:
        parse_row(row, layout)
    assert 0 < len(caught.value.detail) <= 300
    return caught.value.reason


def test_alpaca_joins_instruction_and_input_by_an_empty_line():
    assert pairs(ALPACA, "alpaca") == [("user", "Add.\n\n1 + 1"), ("assistant", "2")]


@pytest.mark.parametrize("nothing", [{}, {"input": None}, {"input": ""}, {"input": " \n"}])
def test_alpaca_without_input_is_the_instruction_alone(nothing):
    assert pairs({"instruction": " Add. ", "output": "2\n", **nothing}, "alpaca")[0] == ("user", " Add. ")


def test_alpaca_puts_system_and_history_before_the_question():
    row = {**ALPACA, "system": "Be brief.", "history": [["a", "b"], ["c", "d"]]}
    assert pairs(row, "alpaca") == [
        ("system", "Be brief."),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "d"),
        ("user", "Add.\n\n1 + 1"),
        ("assistant", "2"),
    ]


@pytest.mark.parametrize("empty", [None, "", []])
def test_an_empty_system_and_history_add_nothing(empty):
    row = {**ALPACA, "system": "" if empty == [] else empty, "history": empty}
    assert pairs(row, "alpaca") == pairs(ALPACA, "alpaca")


@pytest.mark.parametrize("name", ["conversations", "conversation", "items"])
@pytest.mark.parametrize("text", ["value", "content", "text"])
@pytest.mark.parametrize("role", ["from", "role"])
def test_sharegpt_goes_by_several_names(name, text, role):
    row = {name: [{role: "human", text: "Hi"}, {role: "gpt", text: "Hello"}]}
    assert pairs(row, "sharegpt") == [("user", "Hi"), ("assistant", "Hello")]


def test_messages_may_have_text_in_parts():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "three"}]}
    assert pairs(row, "messages") == [("user", "one\ntwo"), ("assistant", "three")]


@pytest.mark.parametrize("content", [{"content": None}, {"content": ""}, {}])
def test_a_tool_call_without_content_is_its_json(content):
    calls = [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": calls, **content}]}
    answer = parse_row(row, "messages").messages[1]
    assert answer.content == "" and answer.text == '[{"id":"1","function":{"name":"f","arguments":"{}"}}]'


def test_a_top_level_system_comes_first_unless_the_messages_have_one():
    row = {"system": "top", "conversations": [ASKED, SAID]}
    assert pairs(row, "sharegpt")[0] == ("system", "top")
    row["conversations"] = [{"from": "system", "value": "own"}, ASKED, SAID]
    assert [p for p in pairs(row, "sharegpt") if p[0] == "system"] == [("system", "own")]


def test_a_list_of_messages_may_be_json_text_as_in_a_csv_cell():
    assert len(pairs({"conversations": orjson.dumps([ASKED, SAID]).decode()}, "sharegpt")) == 2


@pytest.mark.parametrize("asked", ["prompt", "question", "query", "instruction", "input"])
@pytest.mark.parametrize("answered", ["response", "answer", "completion", "output"])
def test_prompt_response_goes_by_several_names(asked, answered):
    assert pairs({asked: "q", answered: "a"}, "prompt-response") == [("user", "q"), ("assistant", "a")]


def test_dollys_context_is_joined_like_alpacas_input():
    row = {"instruction": "Who?", "context": "Ada.", "response": "Ada", "category": "qa"}
    assert pairs(row, "prompt-response")[0] == ("user", "Who?\n\nAda.")
    assert pairs({**row, "context": None}, "prompt-response")[0] == ("user", "Who?")


def test_no_text_is_lost_where_an_instruction_has_an_input_and_a_response():
    row = {"instruction": "Add.", "input": "1 + 1", "response": "2"}
    assert pairs(row, "prompt-response")[0] == ("user", "Add.\n\n1 + 1")


@pytest.mark.parametrize(("name", "role"), ROLE_OF.items())
def test_roles_are_known_by_many_names_in_any_case(name, role):
    row = {"conversations": [{"from": name.upper(), "value": "x"}, ASKED, SAID]}
    first = parse_row(row, "sharegpt").messages[0]
    assert (first.role, first.text) == (role, '"x"' if name in CALL_ROLES else "x")


BAD = [
    ("not_an_object", "text", "alpaca"),
    ("not_an_object", [ALPACA], "alpaca"),
    ("missing_field", {"instruction": "q"}, "alpaca"),
    ("missing_field", {"text": "q"}, "sharegpt"),
    ("missing_field", {"messages": [{"content": "q"}]}, "messages"),
    ("missing_field", {"prompt": "q"}, "prompt-response"),
    ("null_field", {"instruction": "q", "output": None}, "alpaca"),
    ("null_field", {**ALPACA, "history": [["q", None]]}, "alpaca"),
    ("null_field", {"conversations": None}, "sharegpt"),
    ("null_field", {"conversations": [ASKED, {"from": "gpt", "value": None}]}, "sharegpt"),
    ("null_field", {"conversations": [ASKED, {"from": None, "value": "a"}]}, "sharegpt"),
    ("wrong_type", {"instruction": "q", "output": 2}, "alpaca"),
    ("wrong_type", {**ALPACA, "input": 5}, "alpaca"),
    ("wrong_type", {**ALPACA, "history": ["q", "a"]}, "alpaca"),
    ("wrong_type", {"conversations": {"from": "human"}}, "sharegpt"),
    ("wrong_type", {"conversations": "not a list"}, "sharegpt"),
    ("wrong_type", {"conversations": ["Hi"]}, "sharegpt"),
    ("unsupported_content", {"conversations": [{"from": "human", "value": [7]}]}, "sharegpt"),
    ("missing_field", {"prompt": [{"role": "user"}], "response": "a"}, "prompt-response"),
    ("unknown_role", {"conversations": [{"from": "narrator", "value": "x"}]}, "sharegpt"),
    ("unsupported_content", {"messages": [{"role": "user", "content": [["q"]]}]}, "messages"),
    ("wrong_type", {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages"),
    ("not_preferred", {"prompt": "q", "completion": "a", "label": False}, "prompt-response"),
    ("unmarked_text", {"text": "Once upon a time."}, "text"),
    ("empty_conversation", {"messages": [], "system": "s"}, "messages"),
    ("empty_conversation", {"conversations": ""}, "sharegpt"),
    ("no_assistant_turn", {"conversations": [ASKED]}, "sharegpt"),
    ("no_assistant_turn", {"conversations": [SAID]}, "sharegpt"),
    ("no_assistant_turn", {"conversations": [SAID, ASKED]}, "sharegpt"),
    ("empty_answer", {"instruction": "q", "output": " \n"}, "alpaca"),
    ("empty_answer", {"instruction": "", "output": ""}, "alpaca"),
    ("empty_instruction", {"instruction": " ", "output": "a"}, "alpaca"),
    ("too_large", {"instruction": "q", "output": "a" * MAX_CHARS}, "alpaca"),
    ("bad_unicode", {"instruction": "q", "output": "a\ud800"}, "alpaca"),
]


@pytest.mark.parametrize(("reason", "row", "layout"), BAD, ids=[f"{b[0]}-{i}" for i, b in enumerate(BAD)])
def test_a_bad_row_says_why(reason, row, layout):
    assert refusal(row, layout) == reason


def test_a_conversation_of_just_the_largest_size_passes():
    assert parse_row({"instruction": "q", "output": "a" * (MAX_CHARS - 1)}, "alpaca").n_chars == MAX_CHARS


def test_a_detail_quotes_at_most_sixty_characters_and_can_be_written():
    with pytest.raises(BadRow) as caught:
        parse_row({"conversations": [{"from": "\ud800" * 500, "value": "x"}]}, "sharegpt")
    assert len(caught.value.detail.encode()) < 120


DETECTED = [
    ("alpaca", ALPACA),
    ("alpaca", {"instruction": "q", "output": None}),
    ("prompt-response", {"instruction": "q", "context": None, "response": "a"}),
    ("prompt-response", {"input": "q", "output": "a"}),
    ("sharegpt", {"conversations": [ASKED, SAID]}),
    ("sharegpt", {"conversation": [ASKED, SAID]}),
    ("messages", {"conversation": [{"role": "user", "content": "q"}]}),
    ("messages", {"messages": [], "prompt": "q"}),
    ("messages", {"messages": [], "prompt": "q", "response": "a"}),
    ("messages", {"messages": [], "instruction": "q", "output": "a"}),
    ("alpaca", {"messages": None, "instruction": "q", "output": "a"}),
    ("text", {"text": "q"}),
    (None, {"page": "q"}),
    (None, ["instruction", "output"]),
]


@pytest.mark.parametrize(("layout", "row"), DETECTED)
def test_the_layout_follows_from_the_fields(layout, row):
    assert detect_layout([row]) == layout


def test_the_layout_of_most_rows_wins():
    assert detect_layout([{"conversations": []}, ALPACA, ALPACA, None, "x"]) == "alpaca"
    assert detect_layout([]) is None


def test_fields_come_back_as_json():
    row = {"id": 7, "tags": ["a", None], "score": 0.5, "meta": {"x": True}, "text": 'é\n"\x00'}
    assert orjson.loads(fields_json(row)) == row


def test_fields_that_json_does_not_know_become_text():
    row = {
        "at": datetime(2024, 5, 6, 7, 8, 9),
        "day": date(2024, 5, 6),
        "raw": b"\xff\x00",
        "price": Decimal("1.10"),
        "nan": float("nan"),
        "inf": float("inf"),
    }
    expected = {
        "at": "2024-05-06T07:08:09",
        "day": "2024-05-06",
        "raw": "/wA=",
        "price": "1.10",
        "nan": None,
        "inf": None,
    }
    assert orjson.loads(fields_json(row)) == expected
    assert orjson.loads(fields_json({**row, "big": 2**80})) == {**expected, "big": float(2**80)}


def test_integers_keep_all_their_digits():
    assert fields_json({"id": 123456789012345678901234567890}) == '{"id":123456789012345678901234567890}'


def test_fields_that_no_file_can_hold_are_a_bad_row():
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    for row in ({"meta": "\ud83d"}, {"meta": deep}):
        with pytest.raises(BadRow):
            fields_json(row)


FIELDS = ("instruction", "input", "output", "history", "system", "conversations", "messages", "prompt", "response")
KEYS = st.sampled_from([*FIELDS, "from", "value", "role", "content", "type", "text", "tool_calls"])
TEXTS = st.text(st.characters()) | st.sampled_from(["user", "gpt", "text", "tool", '["x"]', "\ud800", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES, st.sampled_from(LAYOUTS))
def test_any_json_is_a_conversation_or_a_bad_row(value, layout):
    try:
        found = parse_row(value, layout)
    except BadRow as bad:
        assert bad.detail.encode() and bad.reason.replace("_", "").isalpha()
    else:
        assert found.turns and all(m.role in ROLES for m in found.messages)


@given(st.lists(VALUES, max_size=4))
def test_detection_takes_any_json(rows):
    assert detect_layout(rows) in (None, *LAYOUTS)


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_fields_json_takes_any_json(row):
    try:
        assert orjson.loads(fields_json(row)) is not None
    except BadRow as bad:
        assert bad.reason == "bad_unicode"
