import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.evolution.replies import headed_answer, rewritten, visible

PLAIN = st.text().map(str.strip).filter(lambda text: not re.search(r"(?i)</?(rewritten|think)", text))


@given(PLAIN)
def test_what_stands_between_the_marks_is_the_text_whatever_stands_around_it(text):
    mark = f"<rewritten-1234abcd>\n{text}\n</rewritten-1234abcd>"
    assert rewritten(mark) == text
    assert rewritten(f"Here it is:\n\n{mark}\n\nI hope that this helps.") == text
    assert rewritten(f"<think>\nHm, between <rewritten-1234abcd>?\n</think>\n\n{mark}") == text
    assert rewritten(f"```\n{mark}\n```") == text
    assert rewritten(mark.replace("\n</rewritten-1234abcd>", "")) == text
    assert rewritten(f"<rewritten-1234abcd>{text}</rewritten-1234abcd>") == text


@given(PLAIN)
def test_a_reply_without_marks_is_all_text(text):
    assert rewritten(text) == text


@given(st.text())
def test_no_reply_is_too_odd_to_be_read(reply):
    assert isinstance(rewritten(reply), str) and isinstance(visible(reply), str)


@pytest.mark.parametrize(
    "text",
    [
        "Write this in Python:\n\n```python\nprint('<b>')\n```\n\nand explain it.",
        "Explain what <think> means in the output of some models, and what </think> does.",
        "Why does the model print <thinking> here, and how do I stop it?",
        "Use the tags <a>, <text> and </rewritten> in an example of XML.",
        "    indented = True\n    return indented",
    ],
)
def test_a_text_about_marks_comes_back_whole(text):
    assert rewritten(f"<rewritten-1234abcd>\n{text}\n</rewritten-1234abcd>") == text.strip()


@pytest.mark.parametrize(
    ("reply", "shown"),
    [
        ("<think>a</think>b", "b"),
        ("<thinking>\na\n</thinking>\n\nb", "b"),
        ("<THINK>a</THINK>b", "b"),
        ("<think>never ends", ""),
        ("<think></think>", ""),
        # Where the template of a model opens the thought, the reply has only its end.
        ("I should write <rewritten-1234abcd> first.\n</think>\n\nb", "b"),
        ("b", "b"),
    ],
)
def test_thoughts_are_not_part_of_a_reply(reply, shown):
    assert visible(reply) == shown


# -- reasoning that quotes what was asked for

CODE = "rewritten-1234abcd"
SPOKEN = f"I have to write it between <{CODE}> and </{CODE}>. "
DRAFT = f"<{CODE}>\nDraft that is no good.\n</{CODE}>"
ANSWER = f"<{CODE}>\nName a tree, and say why.\n</{CODE}>"
TEXT = "Name a tree, and say why."
REASONING = {
    "think": "<think>{}</think>{}",
    "thinking": "<thinking>\n{}\n</thinking>\n\n{}",
    "thought": "<thought>{}</thought>\n{}",
    "reasoning": "<reasoning>{}</reasoning>\n{}",
    "reflection": "<reflection>{}</reflection>\n{}",
    "brackets": "[THINK]{}[/THINK]{}",
    "kimi": "◁think▷{}◁/think▷{}",
    "seed": "<seed:think>{}</seed:think>{}",
    "thought marks": "<|begin_of_thought|>{}<|end_of_thought|>\n<|begin_of_solution|>{}<|end_of_solution|>",
    "harmony": "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>",
    "harmony without marks": "analysis{}assistantfinal{}",
    "closed only": "{}\n</think>\n\n{}",
}
HEADED = {
    "heading": "Reasoning: {}\n\nAnswer: {}",
    "bold heading": "**Reasoning:**\n{}\n\n**Final answer:**\n{}",
    "markdown": "## Thought process\n{}\n\n## Answer\n{}",
}
UNMARKED = {"prose": "{}\n\n{}"}


@pytest.mark.parametrize("form", [*REASONING, *HEADED, *UNMARKED])
@pytest.mark.parametrize("quoted", [SPOKEN, DRAFT, f"{SPOKEN}{DRAFT} Or so: {DRAFT}", f"It begins with <{CODE}>, then"])
def test_the_last_marked_text_counts_whatever_the_reasoning_quotes(form, quoted):
    reply = {**REASONING, **HEADED, **UNMARKED}[form].format(quoted, ANSWER)
    assert rewritten(reply) == TEXT
    assert rewritten(f"{reply}\n\nI put it between <{CODE}> and </{CODE}> as asked.") == TEXT


@pytest.mark.parametrize("form", REASONING)
@pytest.mark.parametrize("quoted", [SPOKEN, DRAFT])
def test_an_answer_without_marks_after_a_reasoning_is_the_text(form, quoted):
    assert rewritten(REASONING[form].format(quoted, TEXT)) == TEXT


@pytest.mark.parametrize("form", [*REASONING, *UNMARKED])
def test_an_answer_whose_mark_is_not_closed_after_a_reasoning_is_the_text(form):
    reply = {**REASONING, **UNMARKED}[form].format(SPOKEN, ANSWER.replace(f"\n</{CODE}>", ""))
    assert rewritten(reply) == TEXT


@pytest.mark.parametrize("opening", ["<think>", "<thinking>", "[THINK]", "<|channel|>analysis<|message|>"])
def test_a_reasoning_that_never_ends_offers_a_text_only_at_its_very_end(opening):
    assert rewritten(f"{opening}{DRAFT} That is not good enough yet, so") == ""
    assert rewritten(f"{opening}{SPOKEN}\n\n{ANSWER}") == TEXT


def test_a_code_that_was_miscopied_is_read_as_well():
    assert rewritten(f"<think>{SPOKEN}</think>\n<{CODE}>\n{TEXT}\n</rewritten-1234abce>") == TEXT
    assert rewritten(f"It begins with <rewritten-00000000>.\n{ANSWER}") == TEXT


def test_marks_within_the_text_are_part_of_it():
    text = "Say what <rewritten-99999999> and </rewritten-99999999> mean, and what <think> and </think> do."
    assert rewritten(f"<{CODE}>\n{text}\n</{CODE}>") == text
    assert rewritten(f"<think>{DRAFT}</think><{CODE}>\n{text}\n</{CODE}>") == text


def test_marks_with_nothing_between_them_are_an_empty_text():
    assert rewritten(f"<{CODE}>\n</{CODE}>") == "" == rewritten(f"<think>{SPOKEN}</think><{CODE}></{CODE}>")


@pytest.mark.parametrize("form", HEADED)
def test_what_stands_under_the_last_heading_is_the_answer_of_a_reply_that_begins_with_one(form):
    assert headed_answer(HEADED[form].format("The answer: not yet.", TEXT)) == TEXT
    assert headed_answer(f"Water boils.\n\nAnswer: {TEXT}") == f"Water boils.\n\nAnswer: {TEXT}"
