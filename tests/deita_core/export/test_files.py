import json
import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deita_core.conversation import conversation
from deita_core.errors import InputError
from deita_core.export.files import (
    RARE,
    SELECTED_SCHEMA,
    Changed,
    place_selection,
    prepare_selection,
    selected_row,
)
from deita_core.export.layouts import fields_left_out, in_layout
from deita_core.reading.pool import read_pool

FILES = {"selected.jsonl", "selected.parquet", "decisions.parquet", "README.md", "manifest.json"}
FACTS = {name for name in SELECTED_SCHEMA if name not in ("messages", "extra", "fields", *RARE)}
DECISIONS = pl.DataFrame({"id": ["a" * 32], "fate": ["selected"]})
TALK = [("system", "Be brief."), ("user", "a?"), ("assistant", "a!"), ("user", "b?"), ("assistant", "b!")]
TOOLED = [("user", "Weather?"), ("assistant", "I look."), ("tool", "{rain}"), ("assistant", "Rain.")]
PLAIN = [("user", "Why?"), ("assistant", "So.")]


def row(pairs=PLAIN, fields=None, rank=1, **facts):
    """A row of the selection, as the export stage hands it over."""
    talk = conversation(pairs)
    return {
        "id": talk.id,
        "rank": rank,
        "score": 12.5,
        "complexity": 2.5,
        "quality": 5.0,
        "n_scored": 1,
        "nearest": None,
        "similarity": None,
        "copies": 1,
        "file": "pool.jsonl",
        "line": rank,
        "side": None,
        "multimodal": False,
        "messages": [{"role": role, "content": content, "extra": None} for role, content in pairs],
        "extra": None,
        "fields": json.dumps(fields or {"instruction": "Why?", "output": "So."}, ensure_ascii=False),
    } | facts


def selection(*rows):
    return pl.DataFrame(list(rows), schema=SELECTED_SCHEMA)


def write(folder, *rows, format_="same", manifest=None, decisions=DECISIONS, card="# A card\n"):
    names = prepare_selection(folder, selection(*rows), decisions, manifest or {"run_id": "r"}, card, format_)
    place_selection(folder, names)
    return names


def lines_of(folder):
    """The rows of selected.jsonl; only a line feed ends one."""
    *lines, last = (folder / "selected.jsonl").read_text(encoding="utf-8").split("\n")
    assert last == ""
    return [json.loads(line) for line in lines]


def names_in(folder):
    return {path.name for path in folder.iterdir()}


# -- layouts


def test_same_is_the_input_row_as_it_was():
    fields = {"prompt": "Why?", "response": "So.", "tags": ["a", {"b": None}], "n": 3}
    assert in_layout(conversation(PLAIN), "same", fields) == fields


def test_messages_have_roles_and_contents():
    assert in_layout(conversation(TOOLED), "messages", {}) == {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "I look."},
            {"role": "tool", "content": "{rain}"},
            {"role": "assistant", "content": "Rain."},
        ]
    }


def test_sharegpt_has_its_own_names_of_the_roles():
    talk = conversation([("system", "Be brief."), *TOOLED])
    assert in_layout(talk, "sharegpt", {}) == {
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "Weather?"},
            {"from": "gpt", "value": "I look."},
            {"from": "observation", "value": "{rain}"},
            {"from": "gpt", "value": "Rain."},
        ]
    }


def test_alpaca_has_the_last_turn_and_the_earlier_ones_as_history():
    assert in_layout(conversation(TALK), "alpaca", {}) == {
        "instruction": "b?",
        "input": "",
        "output": "b!",
        "system": "Be brief.",
        "history": [["a?", "a!"]],
    }


def test_alpaca_of_one_turn_has_neither_history_nor_system():
    assert in_layout(conversation(PLAIN), "alpaca", {}) == {"instruction": "Why?", "input": "", "output": "So."}


def test_alpaca_refuses_tool_messages_in_a_sentence_that_says_what_to_do():
    talk = conversation(TOOLED)
    with pytest.raises(InputError) as refusal:
        in_layout(talk, "alpaca", {})
    sentence = str(refusal.value)
    assert talk.id in sentence
    assert "tool messages" in sentence
    assert "use --format same, messages or sharegpt" in sentence
    assert re.fullmatch(r"[A-Z].*\.", sentence)


@pytest.mark.parametrize(
    "pairs",
    [[("assistant", "Welcome!"), *PLAIN], [*PLAIN, ("user", "And then?")]],
    ids=["opening answer", "trailing question"],
)
def test_alpaca_refuses_what_it_would_have_to_leave_out(pairs):
    with pytest.raises(InputError):
        in_layout(conversation(pairs), "alpaca", {})


@pytest.mark.parametrize(
    ("format_", "pairs"),
    [
        (format_, pairs)
        for format_ in ("messages", "sharegpt", "alpaca")
        for pairs in (PLAIN, TALK, TOOLED)
        if (format_, pairs) != ("alpaca", TOOLED)
    ],
)
def test_what_is_written_is_read_as_the_same_conversation(tmp_path, format_, pairs):
    write(tmp_path, row(pairs), format_=format_)
    samples, rejects = read_pool(tmp_path / "selected.jsonl")
    assert rejects.is_empty()
    assert samples["id"].to_list() == [conversation(pairs).id]


# -- rows


@pytest.mark.parametrize("format_", ["same", "messages", "sharegpt", "alpaca"])
def test_a_row_says_under_deita_what_is_known_about_it(format_):
    written = selected_row(row(nearest="b" * 32, similarity=0.25, copies=3), format_)
    assert written["deita"] == {
        "id": conversation(PLAIN).id,
        "rank": 1,
        "score": 12.5,
        "complexity": 2.5,
        "quality": 5.0,
        "n_scored": 1,
        "nearest": "b" * 32,
        "similarity": 0.25,
        "copies": 3,
        "file": "pool.jsonl",
        "line": 1,
    }
    assert set(written["deita"]) == FACTS


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text().filter(lambda name: name != "deita"), JSON, min_size=1, max_size=4))
def test_the_inputs_own_fields_are_kept_as_they_were(tmp_path_factory, fields):
    folder = tmp_path_factory.mktemp("out")
    write(folder, row(fields=fields))
    (written,) = lines_of(folder)
    assert written.pop("deita")["rank"] == 1
    assert written == fields
    assert list(written) == list(fields)


def test_integers_keep_all_their_digits(tmp_path):
    digits = "9" * 80
    write(tmp_path, row(fields={"instruction": "Why?", "output": "So.", "big": int(digits), "small": -int(digits)}))
    assert lines_of(tmp_path)[0]["big"] == int(digits)
    assert f'"small": -{digits}' in (tmp_path / "selected.jsonl").read_text()


def test_a_deita_field_of_the_input_gives_way_to_what_is_known_now(tmp_path):
    earlier = {"instruction": "Why?", "output": "So.", "deita": {"rank": 77, "id": "old"}}
    write(tmp_path, row(fields=earlier))
    (written,) = lines_of(tmp_path)
    assert (written["deita"]["rank"], written["deita"]["id"]) == (1, conversation(PLAIN).id)
    assert list(written) == ["instruction", "output", "deita"]


def test_texts_stand_in_the_file_as_themselves_one_row_a_line(tmp_path):
    odd = "Grüße 你好 😀\u2028\u2029\x85\r\n\x00"
    write(tmp_path, row([("user", odd), ("assistant", odd)], {"text": odd}), row(rank=2), format_="messages")
    first, second = lines_of(tmp_path)
    assert [message["content"] for message in first["messages"]] == [odd, odd]
    assert second["deita"]["rank"] == 2
    data = (tmp_path / "selected.jsonl").read_bytes()
    assert data.count(b"\n") == 2
    assert "Grüße 你好 😀".encode() in data


def test_rows_stand_in_rank_order(tmp_path):
    write(tmp_path, *(row([("user", f"{n}?"), ("assistant", "!")], rank=n) for n in range(1, 40)))
    assert [line["deita"]["rank"] for line in lines_of(tmp_path)] == list(range(1, 40))


# -- files


def test_a_selection_is_five_files_and_nothing_else(tmp_path):
    folder = tmp_path / "new" / "out"
    assert set(write(folder, row())) == FILES
    assert names_in(folder) == FILES


def test_each_file_holds_what_it_is_for(tmp_path):
    rows = [row(TALK), row(rank=2)]
    write(tmp_path, *rows, manifest={"run_id": "r", "counts": {"selected": 2}}, card="# Grüße\n")
    assert pl.read_parquet(tmp_path / "selected.parquet").equals(selection(*rows))
    assert pl.read_parquet(tmp_path / "decisions.parquet").equals(DECISIONS)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "# Grüße\n"
    assert json.loads((tmp_path / "manifest.json").read_bytes()) == {"run_id": "r", "counts": {"selected": 2}}


def test_a_selection_of_nothing_is_whole_as_well(tmp_path):
    assert set(write(tmp_path)) == FILES
    assert (tmp_path / "selected.jsonl").read_bytes() == b""
    assert pl.read_parquet(tmp_path / "selected.parquet").equals(selection())


def test_a_row_that_cannot_be_written_leaves_no_file_at_all(tmp_path):
    with pytest.raises(InputError, match="tool messages"):
        write(tmp_path, row(), row(TOOLED, rank=2), format_="alpaca")
    assert names_in(tmp_path) == set()


@pytest.mark.parametrize("blocked", sorted(FILES - {"manifest.json"}))
def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_is_written(tmp_path, blocked):
    (tmp_path / blocked / "in the way").mkdir(parents=True)
    with pytest.raises(InputError, match=f"{blocked} is a folder; give another folder"):
        write(tmp_path, row())
    assert names_in(tmp_path) == {blocked}


def test_a_failure_while_a_file_is_written_leaves_none_under_its_name(tmp_path):
    (tmp_path / ".selected.jsonl.partial").mkdir()
    with pytest.raises(OSError):
        write(tmp_path, row())
    assert names_in(tmp_path) == {".selected.jsonl.partial"}


def test_a_failure_at_the_very_end_leaves_no_manifest(tmp_path):
    with pytest.raises(TypeError):
        write(tmp_path, row(), manifest={"run_id": object()})
    assert "manifest.json" not in names_in(tmp_path)


def test_rows_that_do_not_fit_a_layout_leave_an_earlier_selection_whole(tmp_path):
    write(tmp_path, row())
    with pytest.raises(InputError):
        write(tmp_path, row(TOOLED), format_="alpaca")
    assert (tmp_path / "manifest.json").exists()
    assert lines_of(tmp_path)[0]["deita"]["id"] == conversation(PLAIN).id


def test_a_second_write_replaces_every_file(tmp_path):
    write(tmp_path, row(), row(TALK, rank=2), manifest={"run_id": "first"}, card="# First\n")
    other = pl.DataFrame({"id": ["b" * 32], "fate": ["near_duplicate"]})
    write(tmp_path, row(TALK), manifest={"run_id": "second"}, card="# Second\n", decisions=other)
    assert names_in(tmp_path) == FILES
    assert [line["deita"]["id"] for line in lines_of(tmp_path)] == [conversation(TALK).id]
    assert pl.read_parquet(tmp_path / "decisions.parquet").equals(other)
    assert (tmp_path / "README.md").read_text() == "# Second\n"
    assert json.loads((tmp_path / "manifest.json").read_bytes()) == {"run_id": "second"}


def test_who_reads_a_file_while_it_is_replaced_reads_the_old_one_to_its_end(tmp_path):
    write(tmp_path, *(row([("user", f"{n}?"), ("assistant", "!" * 5_000)], rank=n) for n in range(1, 30)))
    before = (tmp_path / "selected.jsonl").read_bytes()
    with (tmp_path / "selected.jsonl").open("rb") as reading:
        begun = reading.read(100)
        write(tmp_path, row(TALK))
        assert begun + reading.read() == before
    assert len(lines_of(tmp_path)) == 1


def test_files_of_others_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    write(tmp_path, row())
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_added_row_keeps_a_field_of_its_own_that_is_called_reason(tmp_path):
    given = row(fields={"instruction": "Why?", "output": "So.", "reason": "mine"})
    added = pl.DataFrame({"id": [given["id"]], "rank": [1], "score": [20.0], "reason": ["new in the pool"]})
    changed = Changed(added, added.head(0), "# Changes\n")
    place_selection(tmp_path, prepare_selection(tmp_path, selection(given), DECISIONS, {}, "", "same", changed))
    [line] = [json.loads(line) for line in (tmp_path / "added.jsonl").read_text().splitlines()]
    assert (line["reason"], line["deita"]["reason"]) == ("mine", "new in the pool")
    assert (tmp_path / "dropped.jsonl").read_text() == ""


def test_fields_that_only_same_gives_back_are_counted():
    rows = [{"instruction": "Why?", "Output": "So.", "level": 1}, {"messages": [], "tools": []}, {"by": 1, "level": 2}]
    assert fields_left_out(map(json.dumps, rows)) == (2, ["level", "by"])
