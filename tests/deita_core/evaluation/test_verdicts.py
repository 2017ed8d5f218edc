import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.evaluation.prompts import CHOICES, SCORES
from deita_core.evaluation.verdicts import read_choice, read_score
from deita_core.evolution.ranking import UnreadableError


@pytest.mark.parametrize(
    "reply",
    [
        '{"reason": "Right.", "score": 7}',
        '{"score": "7"}',
        '{"score": 7.0, "reason": "{not 8}"}',
        'Here:\n```json\n{"reason": "Right.", "score": 7}\n```\nDone.',
        '<think>{"score": 3}? No.</think>{"reason": "Right.", "score": 7}',
        'The form is {"reason": "two or three sentences", "score": X}.\n{"reason": "", "score": 7}',
        '{"score": 7}\n{"score": 7}',
    ],
)
def test_a_score_is_read_wherever_the_object_stands(reply):
    assert read_score(reply) == 7


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("", "no score"),
        ("7", "no score"),
        ("Rating: [[7]]", "no score"),
        ('{"reason": "Seven."}', "no score"),
        ('{"reason": {"score": 7}}', "no score"),
        ('<think>{"score": 7}', "no score"),
        ('{"score": 0}', "the score is 0"),
        ('{"score": 11}', "the score is 11"),
        ('{"score": 7.5}', "the score is 7.5"),
        ('{"score": "7/10"}', "the score is 7/10"),
        ('{"score": true}', "the score is True"),
        ('{"score": null}', "the score is None"),
        ('{"score": 7}\n{"score": 8}', "several values"),
        ('{"score": 7, "score": 8}', "twice"),
    ],
)
def test_a_reply_without_exactly_one_score_is_unreadable(reply, why):
    with pytest.raises(UnreadableError, match=why):
        read_score(reply)


@pytest.mark.parametrize(("said", "read"), [("A", "A"), ("b", "B"), (" Tie ", "tie")])
def test_a_choice_is_read(said, read):
    assert read_choice(json.dumps({"reason": "", "better": said})) == read


@pytest.mark.parametrize(
    "reply", ['{"better": "C"}', '{"better": "Answer A"}', '{"better": 1}', "A", '{"better": "A"}{"better": "B"}']
)
def test_a_reply_without_exactly_one_choice_is_unreadable(reply):
    with pytest.raises(UnreadableError):
        read_choice(reply)


@given(st.text(max_size=300))
def test_any_text_is_read_or_unreadable(reply):
    for read, valid in ((read_score, SCORES), (read_choice, CHOICES)):
        try:
            assert read(reply) in valid
        except UnreadableError as error:
            assert str(error)


@given(st.sampled_from(SCORES), st.text(max_size=80))
def test_a_score_comes_back_whatever_the_reason(score, reason):
    # The words "final answer:" in a reason are those of a heading.
    if "answer" not in reason.lower():
        assert read_score(json.dumps({"reason": reason, "score": score})) == score
