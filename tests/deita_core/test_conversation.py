import hashlib
import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deita_core.conversation import JOINT, conversation, text_id
from deita_core.literals import ROLES

TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["", " ", "\n\t", "\x00", "\x7f", '"\\/', "é", "\u2028", "😀"]))
MESSAGES = st.lists(st.tuples(st.sampled_from(ROLES), TEXTS), max_size=12)


@st.composite
def indices(draw):
    """Roles in any order; each text names its place, so that no two are alike, and some are blank."""
    roles = draw(st.lists(st.sampled_from(ROLES), max_size=14))
    return [
        (role, draw(st.sampled_from([f"<{i} {role}>", f"<{i} {role}>", "", " \n"]))) for i, role in enumerate(roles)
    ]


def exchanges(*pairs):
    return [(turn.instruction, turn.response) for turn in conversation(pairs).turns]


def canonical(pairs):
    return json.dumps(
        [{"role": role, "content": content} for role, content in pairs], ensure_ascii=False, separators=(",", ":")
    ).encode()


# -- ids


@given(MESSAGES)
def test_the_id_is_the_blake2b_128_of_the_canonical_json(pairs):
    assert conversation(pairs).id == hashlib.blake2b(canonical(pairs), digest_size=16).hexdigest()


def test_the_id_of_a_known_conversation_never_changes():
    talk = conversation([("system", "Be brief."), ("user", 'Grüße,\n"you"\t\x01/\x7f😀'), ("assistant", " Hi. ")])
    assert talk.id == "a8104cb1ff80feeb1530983103c79e2f"


def test_the_id_of_a_known_text_never_changes():
    assert text_id("Grüße") == "c483baa27a9abd2202924662a88aaf32"


@pytest.mark.parametrize(
    "other",
    [
        [("user", "Café? "), ("assistant", "Yes.")],
        [("user", unicodedata.normalize("NFD", "Café?")), ("assistant", "Yes.")],
        [("user", "café?"), ("assistant", "Yes.")],
        [("system", "Café?"), ("assistant", "Yes.")],
        [("user", "Café?"), ("assistant", "Yes."), ("user", "")],
        [("assistant", "Yes."), ("user", "Café?")],
        [("user", "Café?Yes.")],
    ],
    ids=["space", "normal form", "case", "role", "an empty message more", "order", "one message"],
)
def test_any_difference_gives_another_id(other):
    assert conversation(other).id != conversation([("user", "Café?"), ("assistant", "Yes.")]).id


@given(MESSAGES)
def test_equal_messages_are_equal_conversations(pairs):
    assert conversation(pairs) == conversation(iter(pairs))
    assert conversation(pairs).n_chars == sum(len(content) for _, content in pairs)


# -- turns


def test_a_question_and_its_answer_are_a_turn():
    assert exchanges(("user", "Why?"), ("assistant", "So.")) == [("Why?", "So.")]


def test_a_system_message_shifts_nothing():
    talk = [("system", "Be kind."), ("user", "a"), ("assistant", "b"), ("system", "Now be brief."), ("user", "c")]
    assert exchanges(*talk, ("assistant", "d")) == [("a", "b"), ("c", "d")]


def test_a_tool_message_is_no_part_of_an_answer():
    talk = [("user", "Weather?"), ("assistant", "I look."), ("tool", "{rain}"), ("assistant", "Rain.")]
    assert exchanges(*talk) == [("Weather?", "I look.\n\nRain.")]


def test_messages_of_one_role_in_a_row_are_joined():
    talk = [("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"), ("user", "e"), ("assistant", "f")]
    assert exchanges(*talk) == [("a\n\nb", "c\n\nd"), ("e", "f")]


def test_a_trailing_question_is_no_turn():
    assert exchanges(("user", "a"), ("assistant", "b"), ("user", "c")) == [("a", "b")]


def test_an_opening_answer_is_no_turn_and_shifts_nothing():
    assert exchanges(("assistant", "Welcome!"), ("user", "a"), ("assistant", "b")) == [("a", "b")]


def test_an_answer_without_a_question_is_no_turn():
    assert exchanges(("assistant", "b")) == []
    assert exchanges(("system", "a"), ("tool", "b"), ("assistant", "c")) == []


@pytest.mark.parametrize("blank", ["", " ", "\n\t ", "\u3000"])
def test_a_blank_message_counts_as_absent(blank):
    assert exchanges(("user", blank), ("assistant", "b")) == []
    assert exchanges(("user", "a"), ("assistant", blank)) == []
    assert exchanges(("user", "a"), ("assistant", blank), ("user", "b"), ("assistant", "c")) == [("a\n\nb", "c")]


def test_texts_are_kept_exactly_as_they_are():
    assert exchanges(("user", " a \n"), ("assistant", "\tb\r\n")) == [(" a \n", "\tb\r\n")]


@given(indices())
def test_a_turn_holds_only_what_the_user_and_the_assistant_said(pairs):
    for turn in conversation(pairs).turns:
        assert turn.instruction == JOINT.join(pairs[i][1] for i in turn.user)
        assert turn.response == JOINT.join(pairs[i][1] for i in turn.assistant)
        assert {pairs[i][0] for i in turn.user} == {"user"}
        assert {pairs[i][0] for i in turn.assistant} == {"assistant"}
        assert "system>" not in turn.instruction + turn.response
        assert "tool>" not in turn.instruction + turn.response


@given(indices())
def test_there_are_at_most_as_many_turns_as_answers_and_as_questions(pairs):
    spoken = [role for role, content in pairs if content.strip()]
    assert len(conversation(pairs).turns) <= min(spoken.count("user"), spoken.count("assistant"))


@given(indices())
def test_every_answered_question_and_every_answer_to_one_is_in_exactly_one_turn(pairs):
    said = [(i, role) for i, (role, content) in enumerate(pairs) if content.strip()]
    first_question = min((i for i, role in said if role == "user"), default=len(pairs))
    last_answer = max((i for i, role in said if role == "assistant"), default=-1)
    expected = [
        i for i, role in said if (role == "user" and i < last_answer) or (role == "assistant" and i > first_question)
    ]
    assert [i for turn in conversation(pairs).turns for i in (*turn.user, *turn.assistant)] == expected


@settings(max_examples=50)
@given(indices(), st.integers(0, 14), st.sampled_from(["system", "tool"]))
def test_a_system_or_tool_message_anywhere_changes_no_turn(pairs, place, role):
    more = [*pairs[:place], (role, "An aside."), *pairs[place:]]
    assert exchanges(*more) == exchanges(*pairs)
