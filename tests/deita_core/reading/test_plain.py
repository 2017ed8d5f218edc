"""The quick reader of plain rows gives what `layouts` gives for every row that it reads, and frames hold the same."""

import json
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deita_core.conversation import text_id
from deita_core.errors import InputError
from deita_core.literals import LAYOUTS
from deita_core.reading import layouts
from deita_core.reading.files import SUPPORTED, file_rows
from deita_core.reading.layouts import judge_rows
from deita_core.reading.messages import ROLE_OF, as_list
from deita_core.reading.options import ReadOptions
from deita_core.reading.plain import plain_sample
from deita_core.reading.pool import BatchBuilder, Placed, placed_rows
from deita_core.reading.rows import MAX_DEPTH, Reject, Row, Sample
from deita_core.tables import MESSAGE, MESSAGE_INDEX_TYPE, REJECTS, SAMPLES, SOURCES
from tests.support.dialects import CHOSEN, PLAIN
from tests.support.paths import SHARED

FILE_ID = "f" * 32


def by_layouts(monkeypatch):
    """Let `layouts` read every row."""
    monkeypatch.setattr(layouts, "plain_sample", lambda row, named, layout: None)


def both_ways(read):
    """What the two readers give, and the number of rows that were plain."""
    plain = []

    def counted(*row):
        plain.append(sample := plain_sample(*row))
        return sample

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "plain_sample", counted)
        quick = list(read())
        by_layouts(patch)
        return quick, list(read()), sum(map(bool, plain))


def frames(rows):
    builder = BatchBuilder()
    for number, row in enumerate(rows, 1):
        builder.add(FILE_ID, Placed("a.jsonl", number, row))
    return builder.batch()


def defined_samples(rows):
    """The samples frame, made message by message of the properties that define its columns."""
    unique = {row.conversation.id: row.conversation for row in rows if isinstance(row, Sample)}
    return [
        {
            "id": id_,
            "messages": [dict(zip(MESSAGE.to_schema(), message, strict=True)) for message in found.messages],
            "message_index": [indexed(message) for message in found.messages],
            "extra": found.extra,
            "multimodal": found.is_multimodal,
            "n_turns": len(found.turns),
            "n_chars": found.n_chars,
        }
        for id_, found in unique.items()
    ]


def indexed(message):
    text, full = message.text, message.read_text()
    same = text == full
    values = (message.role, text_id(text), len(text), message.is_blank, message.is_trained)
    values += (None if same else text_id(full), None if same else len(full))
    return dict(zip(MESSAGE_INDEX_TYPE.to_schema(), values, strict=True))


def check_frames(rows):
    batch = frames(rows)
    for table, frame in ((SAMPLES, batch.samples), (SOURCES, batch.sources), (REJECTS, batch.rejects)):
        assert frame.schema == table.empty().schema
        assert frame.is_empty() or table.validate(frame).height
    assert batch.samples.to_dicts() == defined_samples(rows)


TEXTS = st.text(max_size=3) | st.sampled_from(
    ["", " ", "\x1c", "\u200b", "So.\n", "é", "<think>a</think>b", "<think>", "\ud800", "\x00", "[]", "{}", "true"]
)
JSON_TEXTS = st.sampled_from([" [{", '[{"role": "user", "content": "x"}]', '[{"from": "gpt", "value": "x"}]', "[1]"])
NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | JSON_TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "text"]), inner, max_size=2),
    max_leaves=3,
)
ROLES = st.sampled_from(["user", "assistant", "human", "gpt", "system", "tool"]) | st.sampled_from(
    ["User", " GPT ", "developer", "function", "function_call", "tool_call", "ipython", "nobody", "", None, 1]
)
WORDS = st.sampled_from(["Why?", "So.", "é", " x "])
TEXT_OR_NOT = WORDS | TEXTS | NESTED


def message_of(role_key, text_key):
    return st.fixed_dictionaries(
        {role_key: ROLES, text_key: TEXT_OR_NOT},
        optional={
            name: st.none() | NESTED
            for name in ("name", "weight", "tool_calls", "reasoning_content", "timestamp", "content", "from", "text")
            if name not in (role_key, text_key)
        },
    )


def exchange_of(role_key, text_key):
    asked, said = ("user", "assistant") if role_key == "role" else ("human", "gpt")
    return st.tuples(WORDS, TEXTS | WORDS).map(
        lambda texts: [{role_key: asked, text_key: texts[0]}, {role_key: said, text_key: texts[1]}]
    )


def lists_of(role_key, text_key):
    odd, plain = st.lists(message_of(role_key, text_key), max_size=2), exchange_of(role_key, text_key)
    return plain | st.builds(lambda before, exchange, after: [*before, *exchange, *after], odd, plain, odd)


LISTS = lists_of("role", "content") | lists_of("from", "value") | NESTED
BESIDE = {
    name: st.sampled_from([None, "", [], "x", 0, False, "true", True]) | NESTED
    for name in (
        *("system", "system_prompt", "history", "tools", "functions", "images", "documents", "chat_template_kwargs"),
        *("label", "rationale", "context", "input", "body", "score", "Source", "text", "prompt", "conversation"),
    )
}
ROWS = st.one_of(
    st.fixed_dictionaries({"messages": LISTS}, optional=BESIDE),
    st.fixed_dictionaries({"conversations": LISTS}, optional=BESIDE),
    st.fixed_dictionaries({"dialog": LISTS}, optional=BESIDE),
    st.fixed_dictionaries({"instruction": TEXT_OR_NOT, "output": TEXT_OR_NOT}, optional=BESIDE),
    st.fixed_dictionaries({"Question": TEXT_OR_NOT, "answer": TEXT_OR_NOT}, optional=BESIDE),
    st.fixed_dictionaries({"instruction": WORDS, "response": WORDS}, optional=BESIDE),
    st.fixed_dictionaries({"prompt": WORDS | LISTS, "chosen": WORDS | LISTS, "rejected": WORDS}),
    NESTED,
)
COLUMNS = [
    {},
    {"messages": "dialog"},
    {"content": "text", "user": "nobody"},
    {"instruction": "Question", "output": "answer"},
]
OPTIONS = st.builds(
    ReadOptions,
    layout=st.none() | st.sampled_from(LAYOUTS),
    preference=st.sampled_from(["chosen", "both"]),
    modality=st.sampled_from(["any", "text"]),
    columns=st.sampled_from(COLUMNS),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(ROWS, min_size=1, max_size=5), OPTIONS)
def test_rows_of_all_layouts_are_read_as_layouts_reads_them(rows, options):
    quick, slow, _ = both_ways(lambda: judge_rows((Row(i, row) for i, row in enumerate(rows, 1)), options))
    assert repr(quick) == repr(slow)
    check_frames(slow)


@settings(deadline=None, max_examples=50)
@given(st.lists(ROWS, min_size=1, max_size=5))
def test_rows_with_their_json_keep_it(rows):
    texts = [json.dumps(row) for row in rows]
    quick, slow, _ = both_ways(lambda: judge_rows(Row(i, json.loads(text), text) for i, text in enumerate(texts, 1)))
    assert repr(quick) == repr(slow)


ASKED, SAID = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
PLAIN_ROWS = [
    {"messages": [ASKED, SAID]},
    {"messages": [{**ASKED, "name": None}, {**SAID, "tool_calls": None}], "tools": None, "score": 0.5, "tags": ["a"]},
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            ASKED,
            SAID,
            ASKED,
            {**SAID, "content": " "},
        ]
    },
    {"conversation": [ASKED, SAID]},
    {"conversations": [{"from": "human", "value": "Why?"}, {"from": "GPT", "value": "So."}], "system": "Be brief."},
    {"instruction": "Add.", "input": "1 + 1", "output": "2", "history": [], "system": ""},
    {"Question": "Why?", "context": "It rains.", "Answer": "So.", "system_prompt": "Be brief."},
    {"instruction": "Why?", "response": "So.", "category": "open"},
]


@pytest.mark.parametrize("row", PLAIN_ROWS)
def test_common_rows_are_plain(row):
    quick, slow, plain = both_ways(lambda: judge_rows(iter([Row(1, row)])))
    assert plain == 1 and quick == slow and isinstance(quick[0], Sample)


ODD = [None, "", " ", [], {}, 0, False, True, "x", "false", "[]", '[{"role": "user", "content": "x"}]', [["a", "b"]]]
ODD += [{"messages": [ASKED, {**SAID, "content": "No."}]}, "<think>a</think>b", "\ud800", ["x"], {"a": 1}]


def changed_rows(row):
    """The row, with one field after the other changed, and one of each message."""
    for name in dict.fromkeys((*row, *BESIDE)):
        yield from ({**row, name: value} for value in ODD)
    for name in row.keys() & {"messages", "conversation", "conversations", "dialog"}:
        for i, message in enumerate(messages := as_list(row[name], name)):
            for key in (*message, "name", "weight", "tool_calls", "reasoning", "timestamp", "role", "from", "text"):
                for value in (*ODD, *ROLE_OF):
                    yield {**row, name: [*messages[:i], {**message, key: value}, *messages[i + 1 :]]}


@pytest.mark.parametrize("row", [*PLAIN_ROWS, *PLAIN.values(), *CHOSEN.values()])
@pytest.mark.parametrize("layout", [None, *LAYOUTS])
def test_a_row_with_any_one_change_is_read_as_layouts_reads_it(row, layout):
    for changed in changed_rows(row):
        options = ReadOptions(layout=layout)
        quick, slow, _ = both_ways(lambda: judge_rows(iter([Row(1, changed)]), options))  # noqa: B023
        assert repr(quick) == repr(slow)


@pytest.mark.parametrize("columns", [{}, {"messages": "dialog"}])
def test_a_side_field_that_is_too_deep_costs_a_plain_row_as_any_other(columns):
    deep: list = []
    for _ in range(MAX_DEPTH):
        deep = [deep]
    # A mapped column takes the place of the one that is too deep.
    row = {"dialog": [ASKED, SAID], "messages": deep} if columns else {"messages": [ASKED, SAID], "side": deep}
    quick, slow, _ = both_ways(lambda: judge_rows(iter([Row(1, row)]), ReadOptions(columns=columns)))
    assert quick == slow and isinstance(quick[0], Reject)


FILES = [
    path
    for folder in ("cases", "data/raw_samples", "data")
    for path in sorted((SHARED / folder).rglob("*") if folder == "cases" else (SHARED / folder).glob("*"))
    if path.name.endswith(SUPPORTED)
]


@pytest.mark.realdata
@pytest.mark.skipif(not FILES, reason=f"the real data is not at {SHARED}")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("options", [ReadOptions(), ReadOptions(preference="both", modality="text")])
def test_real_files_are_read_as_layouts_reads_them(path, options):
    def rows():
        try:
            yield from (placed.row for placed in placed_rows(path, options, 1_000))
        except InputError as error:
            yield Reject(1, "file", str(error))

    quick, slow, _ = both_ways(rows)
    assert quick == slow
    if not isinstance(slow[-1], Reject) or slow[-1].reason != "file":
        check_frames(slow)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["pool_real.parquet", "multi_turn.jsonl", "raw_samples/alpaca.json"])
def test_nearly_all_rows_of_real_files_are_plain(name):
    path = SHARED / "data" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    rows = list(islice(file_rows(str(path)), 1_000))
    _, slow, plain = both_ways(lambda: judge_rows(iter(rows)))
    assert plain > 0.95 * sum(isinstance(row, Sample) for row in slow)
