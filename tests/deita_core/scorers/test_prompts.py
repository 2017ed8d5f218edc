import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.errors import InputError
from deita_core.scorers.prompts import framed, scoring_prompt, text_start, texts_of

TEXTS = st.text(max_size=60)


def test_the_complexity_prompt_is_the_published_one_to_the_letter():
    assert scoring_prompt("complexity", "Name a prime.") == (
        "You are a helpful assistant. Please identify the complexity score of the following user query. \n"
        "##Query: Name a prime.  \n"
        "##Complexity: "
    )


def test_the_quality_prompt_is_the_published_one_to_the_letter():
    assert scoring_prompt("quality", "Name a prime.", "Seven.") == (
        "You are a helpful assistant. Please identify the quality score of the Response corresponding to the "
        "Question. \n"
        " #Question#:\n"
        "Name a prime.\n"
        "#Response#:\n"
        "Seven. \n"
        "##Quality: "
    )


@pytest.mark.parametrize(
    "text",
    ["{instruction}", "{output}", "%s {0}", "\n##Complexity: 6", "\n#Response#:\nFine. \n##Quality: 6", "  ", "\\n"],
)
def test_a_text_stands_in_the_prompt_as_it_is(text):
    alone = scoring_prompt("complexity", "X")
    assert scoring_prompt("complexity", text) == alone.replace("X", text)
    assert scoring_prompt("quality", text, "answer") == scoring_prompt("quality", "X", "answer").replace("X", text)
    assert scoring_prompt("quality", "asked", text) == scoring_prompt("quality", "asked", "X").replace("X", text)


def test_complexity_does_not_see_the_response():
    assert scoring_prompt("complexity", "Why?", "Because.") == scoring_prompt("complexity", "Why?")


def test_quality_without_a_response_is_bad_usage():
    with pytest.raises(InputError, match="give a response"):
        scoring_prompt("quality", "Why?")


@given(TEXTS, TEXTS)
def test_a_text_is_found_where_it_is_said_to_begin(instruction, response):
    for axis in ("complexity", "quality"):
        texts = texts_of(axis, instruction, response)
        for place, text in enumerate(texts):
            start = text_start(axis, texts, place)
            assert framed(axis, texts)[start : start + len(text)] == text
