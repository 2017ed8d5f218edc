import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.evolution.constraints import DEMANDS, lost_constraint

LONG = "The long answer goes on and on with a great many words about a great many things that nobody asked for."
JSON = '{"name": "Ana", "age": 3}'
LIST = "- one\n- two\n- three"


@pytest.mark.parametrize(
    ("instruction", "kept", "lost"),
    [
        ("Answer in at most 10 words.", "Ten words at most stand in this one.", LONG),
        ("Explain it in no more than ten words, please.", "Because of the salt.", LONG),
        ("Describe a fox. Use 12 words or fewer.", "A small red dog that is not a dog.", LONG),
        ("Positive or negative? Answer with one word.", "Negative.", "It is negative."),
        ("Reply in a single word.", "Yes", "Yes, it is."),
        ("Explain it in one sentence.", "It rusts.", "It rusts. It is iron. It is wet."),
        ("Use exactly two sentences.", "It rusts. It is iron.", "It rusts. It is iron. It is wet."),
        ("Summarise it in two short sentences.", "It rusts. It is iron.", "It rusts! Is it iron? It is wet."),
        ("Give three tips for better sleep.", LIST, f"{LIST}\n- four"),
        ("List 3 reasons.", LIST, "1. one\n2. two"),
        ("Suggest three good ideas.", LIST, f"{LIST}\n* four"),
        ("Return it as JSON.", JSON, f"Here it is: {JSON}"),
        ("Give only valid JSON.", f"```json\n{JSON}\n```", JSON[:-1]),
        ("Write a function that adds two numbers.", "```py\ndef f(a, b): return a + b\n```", "Add them."),
        ("Is it iron? Answer yes or no.", "No.", "It is not."),
        ("True or false: iron rusts.", "**True**: it does.", "It does, so that is right."),
        ("用30个字以内解释。", "铁会生锈是因为它和水与氧气反应。", "铁" * 31),
        ("请用一句话回答。", "铁会生锈。", "铁会生锈。水也有关系。氧气也是。"),
    ],
)
def test_a_demand_met_before_and_not_after_is_lost(instruction, kept, lost):
    assert lost_constraint(instruction, kept, lost)
    assert lost_constraint(instruction, kept, kept) is None
    # What the earlier answer did not meet either is not asked of the later one.
    assert lost_constraint(instruction, lost, lost) is None
    assert lost_constraint(instruction, lost, kept) is None


@pytest.mark.parametrize(
    ("instruction", "before", "after"),
    [
        ("Why is the sky blue?", "Scattering.", LONG),
        ("Write an essay of at least 10 words.", "Too short.", LONG),
        ("What is the function of the heart?", "It pumps.", LONG),
        ("How many sentences are there in a paragraph?", "Three.", "It depends. Some have one. Some have ten. Ask."),
        ("Give three tips.", "Sleep more, eat less and walk.", f"Here they are:\n{LIST}"),
        ("Give three tips.", LIST, "Sleep more, eat less and walk."),
        ("Give three tips.", LIST, "1. one\n2. two\n3. three"),
        ("Is it iron, yes or no?", "Yes.", "Yes, because it rusts."),
        ("Explain it in one sentence.", "It rusts.", "It rusts because it is iron, which water and oxygen attack."),
        ("Convert it to JSON.", "```json\n[1]\n```", "[1, 2]"),
        ("Name one of the ten commandments.", "Honour them.", LONG),
        ("What does 'in other words' mean?", "Put differently.", LONG),
    ],
)
def test_what_is_no_demand_or_is_still_met_is_not_lost(instruction, before, after):
    assert lost_constraint(instruction, before, after) is None


@given(
    st.lists(
        st.sampled_from(["in", "at most", "99", "²", "٣", "three", "words", "one word", "JSON", "一句话", "code"])
    ),
    st.text(),
    st.text(),
)
def test_no_text_is_too_odd_to_be_checked(parts, before, after):
    found = lost_constraint(" ".join(parts) + before, before, after)
    assert found is None or found in {demand.name for demand in DEMANDS}


def test_a_number_too_long_for_python_is_no_trouble():
    assert lost_constraint(f"Answer in at most {'9' * 5_000} words.", "Short.", LONG) is None
    assert lost_constraint("9" * 100_000, "Short.", LONG) is None
