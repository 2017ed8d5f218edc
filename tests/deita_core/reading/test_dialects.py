"""Layouts of today's data sets: preference pairs, labels, lists of messages, marked texts, columns of one's own."""

import json
import zipfile

import pytest

from deita_core.errors import InputError
from deita_core.export.layouts import in_layout
from deita_core.reading.layouts import detect_layout, judge_rows, parse_row, parse_sides
from deita_core.reading.options import ReadOptions
from deita_core.reading.pool import read_pool, stream_file
from deita_core.reading.rows import BadRow, Reject, Row, Sample
from deita_core.stages.ingest import describe_pool, ingest_file, pool_files
from deita_core.store import Store
from deita_core.tables import SOURCES
from tests.support.dialects import ASKED, BAD, CHOSEN, GOOD, PLAIN, A, B, Q
from tests.support.paths import SHARED

CASES = SHARED / "cases"
BOTH = ReadOptions(preference="both")
PAIR = [("user", Q), ("assistant", A)]
REJECTED = [("user", Q), ("assistant", B)]
SYSTEM = ("system", "Be brief.")


def said(row, layout=None, options=ReadOptions()):  # noqa: B008
    """Role and text of each message of each side, in the layout that is detected."""
    [*samples] = judge_rows(iter([Row(1, row)]), options.model_copy(update={"layout": layout}))
    assert all(isinstance(sample, Sample) for sample in samples), samples
    return [[(m.role, m.text) for m in sample.conversation.messages] for sample in samples]


def reason(row, options=ReadOptions()):  # noqa: B008
    [reject] = judge_rows(iter([Row(1, row)]), options)
    assert isinstance(reject, Reject)
    return reject.reason


@pytest.mark.parametrize("row", PLAIN.values(), ids=PLAIN)
def test_a_question_and_its_answer_are_read_from_every_layout(row):
    assert said(row) == [PAIR]


@pytest.mark.parametrize("row", CHOSEN.values(), ids=CHOSEN)
def test_of_a_preference_the_chosen_answer_is_read_or_both(row):
    assert detect_layout([row]) == "preference"
    assert said(row) == [PAIR]
    assert said(row, options=BOTH) == [PAIR, REJECTED]
    assert [side for side, _ in parse_sides(row, "preference", BOTH)] == ["chosen", "rejected"]


def test_both_sides_are_samples_of_one_line_and_a_bad_side_costs_the_row(tmp_path):
    rows = [CHOSEN["texts"], {"prompt": Q, "chosen": A, "rejected": " "}, CHOSEN["lists"]]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = list(stream_file(tmp_path / "a.jsonl", BOTH))
    assert [(row.line, getattr(row, "side", row)) for row in found] == [
        (1, "chosen"), (1, "rejected"), (2, found[2]), (3, "chosen"), (3, "rejected"),
    ]  # fmt: skip
    assert found[2].reason == "empty_answer"
    assert [row.line for row in stream_file(tmp_path / "a.jsonl", BOTH, limit=1)] == [1, 1]
    assert read_pool(tmp_path / "a.jsonl", preference="both")[0]["copies"].to_list() == [2, 2]


def test_a_limit_counts_rows_and_not_the_sides_of_their_preferences(tmp_path):
    pairs = [{"prompt": f"{i}?", "chosen": A, "rejected": B} for i in range(6)]
    lines = ["".join(json.dumps(row) + "\n" for row in pairs[start : start + 3]) for start in (0, 3)]
    for name, text in zip("ab", lines, strict=True):
        (tmp_path / f"{name}.jsonl").write_text(text)
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("a.jsonl", lines[0])
        archive.writestr("b.jsonl", lines[1])
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for limit in range(1, 7):
        assert read_pool(files, limit=limit, preference="both")[0].height == 2 * limit
        assert len(list(stream_file(tmp_path / "c.zip", BOTH, limit))) == 2 * limit
        store = Store(tmp_path / f"store-{limit}")
        found = describe_pool(pool_files([str(tmp_path / "c.zip")]), BOTH).files[0]
        ingested = ingest_file(store, found.model_copy(update={"limit": limit}))
        assert (ingested.lines, ingested.rows, store.count(SOURCES)) == (limit, 2 * limit, 2 * limit)


@pytest.mark.parametrize("label", [False, "false", "False"])
def test_of_labelled_answers_the_false_ones_are_rejected_or_read_as_such(label):
    row = {"prompt": Q, "completion": B, "label": label}
    assert reason(row) == "not_preferred"
    assert said(row, options=BOTH) == [REJECTED]
    assert [side for side, _ in parse_sides(row, "prompt-response", BOTH)] == ["rejected"]
    assert [side for side, _ in parse_sides(row | {"label": True}, "prompt-response")] == ["chosen"]
    # A class number is no preference.
    assert said({"prompt": Q, "completion": A, "label": 0}) == [PAIR]


HISTORIES = [
    [["a", "b"]],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
    [{"user": "a", "assistant": "b"}],
    [{"question": "a", "answer": "b"}],
    '[["a", "b"]]',
]


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize(
    "row",
    [
        {"instruction": Q, "output": A},
        {"prompt": Q, "response": A},
        {"conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": A}]},
    ],
)
def test_a_history_comes_before_the_question_in_any_form(row, history):
    assert said({**row, "history": history, "system": SYSTEM[1]}) == [
        [SYSTEM, ("user", "a"), ("assistant", "b"), *PAIR]
    ]


def test_reasons_beside_a_short_answer_come_before_it():
    assert said({"question": Q, "answer": "B", "rationale": A}) == [[("user", Q), ("assistant", "So.\n\nB")]]


SHAREGPT = [
    {"from": "human", "value": "Weather?"},
    {"from": "function_call", "value": '{"name": "f", "arguments": {}}'},
    {"from": "observation", "value": "rain"},
    {"from": "gpt", "value": "It rains."},
]


@pytest.mark.parametrize("called", ["function_call", "tool_call"])
@pytest.mark.parametrize("answered", ["observation", "tool_response", "function_response", "tool_result"])
def test_calls_and_results_of_tools_are_known_by_their_roles(called, answered):
    talk = [SHAREGPT[0], {**SHAREGPT[1], "from": called}, {**SHAREGPT[2], "from": answered}, SHAREGPT[3]]
    found = parse_row({"conversations": talk, "tools": '[{"name": "f"}]', "system": "Look."}, "sharegpt")
    assert [m.role for m in found.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert '"name":"f"' in found.messages[2].text and found.messages[2].fields["content"] is None
    assert found.fields == {"tools": [{"name": "f"}]}
    assert parse_row(in_layout(found, "sharegpt", {}), "sharegpt").id == found.id
    own = in_layout(found, "sharegpt", {})
    assert own["conversations"][2]["from"] == "function_call" and own["tools"] == '[{"name":"f"}]'


UNCLEAR = [
    "Just a text.",
    "Human: said someone.",
    "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.",
    "before <|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>",
    "<|im_start|>user\nWhat does <|im_start|> mean?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>",
    "### Instruction:\nWhy?\n\n### Response:\nSo.\n\n### Response:\nOr so.",
    "### Response:\nSo.",
    "### Instruction:\nWhy?",
    "### Instruction:\nWhy?\n### Response:\nSo.\n### System:\nBe brief.",
    "\n\nHuman: Why?\n\nHuman: Why, then?\n\nAssistant: So.",
]


@pytest.mark.parametrize("text", UNCLEAR)
def test_a_text_whose_marks_are_unclear_is_a_reject(text):
    assert reason({"text": text}) in ("unmarked_text", "unclear_marks")


def test_marked_texts_keep_their_turns_and_what_stands_before_them():
    text = "Below is an instruction.\n\n### Instruction:\nAdd.\n\n### Input:\n1 + 1\n\n### Response:\n2</s>"
    before = ("system", "Below is an instruction.")
    assert said({"text": text}) == [[before, ("user", "Add.\n\n1 + 1"), ("assistant", "2")]]
    chatml = "".join(f"<|im_start|>{role}\n{t}<|im_end|>\n" for role, t in [SYSTEM, *PAIR, ("user", " x \n"), PAIR[1]])
    assert said({"text": chatml}) == [[SYSTEM, *PAIR, ("user", " x \n"), PAIR[1]]]


MAPPED = [
    ({"dlg": [{"who": "human", "what": Q}, {"who": "gpt", "what": A}]}, "messages=dlg,role=who,content=what"),
    ({"talk": [{"s": "Patient", "t": Q}, {"s": "Doctor", "t": A}]},
     "messages=talk,role=s,content=t,user=Patient,assistant=Doctor"),
    ({"talk": [{"from": "Patient", "value": Q}, {"from": "Doctor", "value": A}]},
     "messages=talk,user=Patient,assistant=Doctor"),
    ({"talk": json.dumps([{"s": "Patient", "t": Q}, {"s": "Doctor", "t": A}])},
     "messages=talk,role=s,content=t,user=Patient,assistant=Doctor"),
    ({"frage": Q, "antwort": A}, "prompt=frage,response=antwort"),
    ({"frage": Q, "antwort": A}, "instruction=frage,output=antwort"),
    ({"q": Q, "good": A, "bad": B}, "prompt=q,chosen=good,rejected=bad"),
    ({"doc": PLAIN["ChatML"]["text"], "text": "x"}, "text=doc"),
    # The user's own names come before names that happen to be known.
    ({"prompt": "an id", "question": Q, "response": A}, "prompt=question"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "mapping"), MAPPED)
def test_any_columns_are_read_by_a_mapping(row, mapping):
    columns = dict(pair.split("=") for pair in mapping.split(","))
    assert said(row, options=ReadOptions(columns=columns)) == [PAIR]


def test_a_mapping_names_only_what_is_known(tmp_path):
    with pytest.raises(InputError, match=r"columns: speaker is none of messages, .*role"):
        read_pool(tmp_path, columns={"speaker": "from"})


def test_rows_of_two_layouts_are_read_each_in_its_own():
    rows = [{"instruction": Q, "output": A}, {"conversations": SHAREGPT}, {"prompt": Q, "chosen": A, "rejected": B}] * 9
    rows += [{"messages": [ASKED, GOOD]}, {"page": 1}]
    found = list(judge_rows(Row(i, row) for i, row in enumerate(rows, 1)))
    assert [row.layout for row in found[:3]] == ["alpaca", "sharegpt", "preference"]
    assert found[-2].layout == "messages" and isinstance(found[-1], Reject)
    assert len(found) == len(rows)
    # A given layout is for all rows.
    assert [type(r) for r in judge_rows((Row(1, row) for row in rows[:2]), ReadOptions(layout="alpaca"))] == [
        Sample, Reject,
    ]  # fmt: skip


IMAGE = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}},
         {"type": "text", "text": Q}]}, GOOD]}  # fmt: skip


def test_parts_that_are_no_text_stand_as_their_kind_and_mark_the_row():
    found = parse_row(IMAGE, "messages")
    assert found.is_multimodal and found.messages[0].text == "[image]\nWhy?"
    kinds = [("input_audio", "audio"), ("video_url", "video"), ("input_file", "file"), ("document", "document")]
    for kind, shown in kinds:
        talk = {"messages": [{"role": "user", "content": [{"type": kind}]}, GOOD]}
        assert parse_row(talk, "messages").messages[0].text == f"[{shown}]"
    beside = parse_row({"instruction": Q, "output": A, "image": "a.png"}, "alpaca")
    assert beside.is_multimodal and beside.fields == {"image": "a.png"}
    for row in (IMAGE, {"instruction": Q, "output": A, "images": ["a.png"]}):
        assert reason(row, ReadOptions(modality="text")) == "unsupported_content"


def test_reasoning_is_apart_wherever_it_stands():
    thoughts = [
        {"content": A, "reasoning_content": "Since."},
        {"content": A, "reasoning": "Since."},
        {"content": f"<think>\nSince.\n</think>\n\n{A}"},
        {"content": [{"type": "thinking", "thinking": "Since."}, {"type": "text", "text": A}]},
    ]
    for thought in thoughts:
        answer = parse_row({"messages": [ASKED, {"role": "assistant", **thought}]}, "messages").messages[1]
        assert (answer.text, answer.reasoning, answer.read_text()) == (A, "Since.", "Since.\n\nSo.")
    quoted = parse_row({"messages": [ASKED, {"role": "assistant", "content": "I <think>x</think>."}]}, "messages")
    assert quoted.messages[1].reasoning == ""


@pytest.mark.parametrize("flag", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"loss": False}])
def test_an_answer_that_is_not_trained_is_in_no_turn_and_its_flag_comes_back(flag):
    talk = [ASKED, {**BAD, **flag}, ASKED, GOOD]
    found = parse_row({"messages": talk}, "messages")
    assert [(turn.user, turn.assistant) for turn in found.turns] == [((2,), (3,))]
    assert in_layout(found, "messages", {})["messages"] == talk
    assert reason({"messages": [ASKED, {**GOOD, **flag}]}) == "nothing_trained"
    both = parse_row({"messages": [ASKED, {**BAD, **flag}, GOOD]}, "messages")
    assert [turn.response for turn in both.turns] == [A]


def test_alpaca_names_what_it_cannot_hold():
    for fields in ({"tools": [{"name": "f"}]}, {"messages": [ASKED, {**GOOD, "reasoning_content": "Since."}]}):
        found = parse_row({"messages": [ASKED, GOOD], **fields}, "messages")
        with pytest.raises(InputError, match=f"{found.id} has (tools|reasoning_content), which the alpaca"):
            in_layout(found, "alpaca", {})


@pytest.mark.parametrize(
    "row", [{"messages": 5}, {"chosen": A, "rejected": B}, {"text": None}, {"body": {"messages": {}}}]
)
def test_a_row_of_the_new_layouts_may_be_bad(row):
    with pytest.raises(BadRow):
        parse_row(row, detect_layout([row]) or "messages")


@pytest.mark.skipif(not CASES.exists(), reason="the shared cases are not there")
def test_the_cases_that_failed_are_read_as_they_should():
    assert read_pool(CASES / "trl_prompt_completion.jsonl")[0].height == 8
    assert read_pool(CASES / "struct_of_lists.parquet")[1].is_empty()
    with pytest.raises(InputError, match="not_preferred: its label is false"):
        read_pool(CASES / "kto.jsonl")
    assert read_pool(CASES / "kto.jsonl", preference="both")[0].height == 1
    rows = [json.loads(line) for line in (CASES / "tools.jsonl").read_text().splitlines()]
    found = [parse_row(row, "messages") for row in rows]
    assert [in_layout(conversation, "messages", {}) for conversation in found] == rows
    less = [
        {"messages": [{n: v for n, v in m.items() if n != "reasoning_content"} for m in r["messages"]]} for r in rows
    ]
    assert not {c.id for c in found} & {parse_row(row, "messages").id for row in less}
