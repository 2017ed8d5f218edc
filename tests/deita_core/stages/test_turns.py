"""The turns and texts of stored samples are those that a conversation itself has."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deita_core.conversation import Conversation, Message, pair_turns
from deita_core.literals import ROLES
from deita_core.reading.frames import Conversations
from deita_core.reading.rows import Sample
from deita_core.stages.turns import as_read, indexed_messages, joined_turns, read_messages, turns_of

CONTENTS = st.sampled_from(["", " \n", "hi", "ho\u2028", "<think>why</think>so", "<think></think>", "😀", "\u0130"])
EXTRAS = st.sampled_from(
    [None, None, None, '{"weight":0}', '{"reasoning":"because"}', '{"tool_calls":[{"name":"bake"}]}', '{"name":"Bo"}']
)
CONVERSATIONS = st.lists(
    st.lists(st.builds(Message, st.sampled_from(ROLES), CONTENTS, EXTRAS), min_size=1, max_size=9).map(
        lambda messages: Conversation(tuple(messages))
    ),
    max_size=5,
    unique_by=lambda conversation: conversation.id,
)


def stored(conversations):
    """Conversations as rows of the samples table, in their order."""
    found = Conversations()
    for line, c in enumerate(conversations, 1):
        found.add(Sample(line, c, c.id, c.is_multimodal, c.n_turns, c.n_chars, "messages", "{}"))
    return found.frame()


@settings(deadline=None)
@given(CONVERSATIONS, st.sampled_from(["ignore", "score"]))
def test_stored_turns_are_those_of_the_conversations(conversations, reasoning):
    found = joined_turns(turns_of(read_messages(stored(conversations), reasoning))).sort("owner", "turn")
    expected = [
        (owner, number, turn.instruction, turn.response)
        for owner, conversation in enumerate(conversations)
        for number, turn in enumerate(conversation.turns_with(reasoning))
    ]
    assert found.rows() == expected


@settings(deadline=None)
@given(CONVERSATIONS)
def test_the_messages_of_turns_are_those_that_pair(conversations):
    messages = indexed_messages(stored(conversations))
    numbered = messages.with_columns(place=pl.int_range(pl.len()).over("owner"))
    found = {}
    for owner, turn, role, place in turns_of(numbered).select("owner", "turn", "role", "place").iter_rows():
        found.setdefault((owner, turn), {"user": (), "assistant": ()})[role] += (place,)
    for owner, conversation in enumerate(conversations):
        spoken = [(m.role, m.is_blank, m.is_trained) for m in conversation.messages if not m.is_blank]
        for number, (user, assistant) in enumerate(pair_turns(spoken)):
            assert found.pop((owner, number)) == {"user": user, "assistant": assistant}
    assert not found


@settings(deadline=None)
@given(CONVERSATIONS, st.sampled_from(["ignore", "score"]))
def test_texts_are_as_read_and_named_by_their_ids(conversations, reasoning):
    samples = stored(conversations)
    messages = read_messages(samples, reasoning)
    assert messages["text"].to_list() == [
        m.read_text(reasoning) for conversation in conversations for m in conversation.messages if not m.is_blank
    ]
    assert messages.drop("text").equals(indexed_messages(as_read(samples, reasoning)))


@pytest.mark.parametrize("reasoning", ["ignore", "score"])
def test_no_samples_have_no_turns(reasoning):
    messages = read_messages(stored([]), reasoning)
    assert turns_of(messages).is_empty() and joined_turns(turns_of(messages)).is_empty()
