"""Pairs of a pool in a store, whose rows are read from files, and whose vectors and scores are written by hand."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from deita_core.conversation import Conversation, Message, stored_conversation, text_id
from deita_core.errors import InputError
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.reading.options import ReadOptions
from deita_core.reading.pool import read_pool
from deita_core.scorers import ScorerFiles
from deita_core.selection.pairs import PairRules
from deita_core.stages import pairs as module
from deita_core.stages.ingest import describe_file, ingest_file
from deita_core.stages.pairs import check_pairs_files, export_pairs, last_answer
from deita_core.store import Store
from deita_core.tables import SAMPLES, scores_table, vectors_table

DIM = 16
ENCODER = EncoderFiles(name="tiny", path=Path(), dim=DIM, precision="float32", weights="w", fingerprint="e" * 32)
QUALITY = ScorerFiles(name="q", axis="quality", path=Path(), fingerprint="2" * 32)
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "weather", "arguments": {}}}]}


def said(role, content, **fields):
    return {"role": role, "content": content, **fields}


def asked(answer, *before, question="Why?", **fields):
    """A row of messages: what came before, a question and an answer."""
    return {"messages": [*before, said("user", question), said("assistant", answer)], **fields}


class Pool:
    """A store with a file in it; a score is the digit that ends an answer, none for another end."""

    def __init__(self, folder, rows, **options):
        self.store, self.file = Store(folder / "store"), folder / "pool.jsonl"
        self.file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        self.read = ingest_file(self.store, describe_file(str(self.file), ReadOptions(**options)))
        self.samples = self.store.read(SAMPLES)
        texts, scores = dict[str, str](), []
        for id_, messages, extra in self.samples.select("id", "messages", "extra").iter_rows():
            found = stored_conversation(messages, extra)
            texts |= {text_id(m.text): m.text for m in found.messages}
            for turn, answered in enumerate(found.turns):
                last = answered.response.strip()[-1]
                scores.append((id_, turn, float(last), "ok") if last.isdigit() else (id_, turn, None, "unreadable"))
        rng = np.random.default_rng(0)
        # The same words have the same vector.
        units = {words: unit / np.linalg.norm(unit) for words in map(str.split, texts.values())
                 for words, unit in [(" ".join(words), rng.normal(size=DIM))]}  # fmt: skip
        vectors = [(id_, 1, units[" ".join(text.split())].astype("f4").tolist()) for id_, text in texts.items()]
        for table, found_rows in ((vectors_table(ENCODER.slug, DIM), vectors), (scores_table(QUALITY.slug), scores)):
            self.store.write(table, pl.DataFrame(found_rows, schema=table.empty().schema, orient="row"))
        self.out, self.decisions = folder / "pairs.jsonl", folder / "decisions.parquet"

    def pair(self, out=None, **rules):
        """The report and the rows of pairs."""
        chosen = PairRules(**rules)
        report = export_pairs(
            self.store, [self.read.file_id], ENCODER, [QUALITY], chosen, out or self.out, self.decisions
        )
        assert sum(report.fates.values()) == report.read == self.read.rows
        return report, [json.loads(line) for line in self.out.read_text().splitlines()] if out is None else []

    @property
    def fates(self):
        """The fate of each line, in order."""
        return dict(pl.read_parquet(self.decisions).sort("line").select("line", "fate").iter_rows())


def contents(messages):
    return [message["content"] for message in messages]


def test_a_pair_has_the_layout_of_trl_and_says_why(tmp_path):
    pool = Pool(tmp_path, [asked("Poor 1"), asked("Good 5"), asked("Other 3", question="How?")])
    report, [row] = pool.pair()
    assert row["prompt"] == [said("user", "Why?")]
    assert (row["chosen"], row["rejected"]) == ([said("assistant", "Good 5")], [said("assistant", "Poor 1")])
    facts = row["deita"]
    assert (facts["chosen_score"], facts["rejected_score"], facts["margin"]) == (5, 1, 4)
    assert set(pool.samples["id"]) > {facts["chosen"], facts["rejected"]} and -1 <= facts["similarity"] <= 0.95
    assert (report.pairs, report.fates) == (1, {"no_other_answer": 1, "paired": 2, "merged": 0})


def test_every_row_has_one_fate(tmp_path):
    rows = [
        asked("Best 5"),
        asked("Middle 4"),
        asked("Worst 1"),
        asked("Best   5"),
        asked("Best 5"),
        asked("No number"),
        asked("Alone 2", question="How?"),
        asked("Near 3", question="When?"),
        asked("Same 3", question="When?"),
        {"messages": [said("user", "Why?"), said("assistant", "Old 6"), said("user", "So?"),
                      said("assistant", "Untrained 6", train=False)]},
        {"messages": [said("user", "Nobody answers")]},
    ]  # fmt: skip
    pool = Pool(tmp_path, rows)
    report, _ = pool.pair()
    first_two = [pool.fates[1], pool.fates[4]]
    assert sorted(first_two) == ["near_identical", "paired"]
    assert {line: fate for line, fate in pool.fates.items() if line not in (1, 4)} == {
        2: "in_between",
        3: "paired",
        6: "no_score",
        7: "no_other_answer",
        8: "margin_too_small",
        9: "margin_too_small",
        10: "not_trained",
        11: "rejected",
    }
    assert report.fates["merged"] == 1


def test_the_instruction_is_all_that_comes_before_the_last_answer(tmp_path):
    system, earlier = said("system", "Be brief."), [said("user", "Hello"), said("assistant", "Hi 3")]
    rows = [
        asked("One 1", system, *earlier),
        asked("Two 5", system, *earlier),
        asked("Three 1", *earlier),
        asked("Four 5", said("system", "Be long."), *earlier),
        asked("Five 1", system, *earlier, tools=TOOLS),
    ]
    _, [row] = Pool(tmp_path, rows).pair()
    assert contents(row["prompt"]) == ["Be brief.", "Hello", "Hi 3", "Why?"]
    assert (contents(row["chosen"]), contents(row["rejected"])) == (["Two 5"], ["One 1"])


def test_the_score_of_an_answer_is_that_of_its_own_turn(tmp_path):
    earlier = [said("user", "Hello"), said("assistant", "Hi 6")]
    pool = Pool(tmp_path, [asked("Low 2", *earlier), asked("High 3", *earlier)])
    _, [row] = pool.pair()
    assert (row["deita"]["chosen_score"], row["deita"]["rejected_score"]) == (3, 2)


def test_tools_and_calls_come_back_out_and_the_pairs_are_the_same_conversations_when_read_again(tmp_path):
    before = [said("user", "Weather?"), CALL, said("tool", "{}", tool_call_id="1")]
    rows = [
        {"messages": [*before, said("assistant", "Cold 1")], "tools": TOOLS},
        {"messages": [*before, said("assistant", "Cold, so take a coat 5")], "tools": TOOLS},
    ]
    pool = Pool(tmp_path, rows)
    _, [row] = pool.pair()
    assert row["tools"] == TOOLS and row["prompt"][1]["tool_calls"] == CALL["tool_calls"]
    again, rejects = read_pool(pool.out, preference="both")
    assert set(again["id"]) == set(pool.samples["id"]) and rejects.is_empty()
    with pytest.raises(InputError, match="tools, which a table of pairs cannot hold"):
        pool.pair(tmp_path / "pairs.parquet")
    assert not (tmp_path / "pairs.parquet").exists()


def test_a_table_of_pairs_holds_the_same_as_the_lines(tmp_path):
    pool = Pool(
        tmp_path, [asked("Poor 1"), asked("Good 5"), asked("A 2", question="How?"), asked("B 6", question="How?")]
    )
    _, lines = pool.pair()
    pool.pair(tmp_path / "pairs.parquet")
    assert pl.read_parquet(tmp_path / "pairs.parquet").to_dicts() == lines
    assert [line["deita"]["margin"] for line in lines] == [4, 4]


def test_no_pairs_are_a_file_without_rows(tmp_path):
    pool = Pool(tmp_path, [asked("Alone 1")])
    assert pool.pair() == (module.PairReport(pairs=0, read=1, fates={"no_other_answer": 1, "merged": 0}), [])
    pool.pair(tmp_path / "pairs.parquet")
    assert pl.read_parquet(tmp_path / "pairs.parquet").height == 0


def test_both_answers_of_a_preference_are_paired_by_their_scores(tmp_path):
    rows = [{"prompt": "Why?", "chosen": "First 2", "rejected": "Second 5"}]
    pool = Pool(tmp_path, rows, preference="both")
    _, [row] = pool.pair()
    assert contents(row["chosen"]) == ["Second 5"]
    told = pl.read_parquet(pool.decisions).select("id", "side").rows()
    assert dict(told)[row["deita"]["chosen"]] == "rejected"


def test_blocks_of_any_size_give_the_same_pairs(tmp_path, monkeypatch):
    rows = [asked(f"{word} {score}", question=f"{q}?") for q in range(5) for score, word in enumerate("wxyz", start=1)]
    pool = Pool(tmp_path, rows)
    whole = pool.pair(per_instruction=2)
    monkeypatch.setattr(module, "BLOCK", 3)
    assert pool.pair(per_instruction=2) == whole
    assert whole[0].pairs == 10


def test_with_a_language_model_as_the_encoder_the_vectors_of_whole_conversations_are_compared(tmp_path):
    pool = Pool(tmp_path, [asked("Poor 1"), asked("Good 5")])
    encoder = ENCODER.model_copy(update={"kind": "causal", "fingerprint": "c" * 32})
    table = vectors_table(encoder.slug, DIM)
    same = np.eye(DIM, dtype="f4")[0].tolist()
    rows = [{"text_id": id_, "n_tokens": 1, "vector": same} for id_ in pool.samples["id"]]
    pool.store.write(table, pl.DataFrame(rows, schema=table.empty().schema))
    pairs, fates = module.pair_pool(pool.store, [pool.read.file_id], encoder, [QUALITY], PairRules())
    assert pairs.is_empty() and sorted(fates["fate"]) == ["near_identical", "no_other_answer"]


def test_an_instruction_with_a_trailing_question_ends_before_the_answer():
    talk = [("user", "Q"), ("assistant", "a"), ("assistant", "b"), ("user", "more?"), ("assistant", " ")]
    found = Conversation(tuple(Message(role, content) for role, content in talk))
    assert last_answer(found) == range(1, 3)


@pytest.mark.parametrize(
    ("out", "decisions", "what"),
    [("pairs.csv", None, "jsonl"), ("pairs.jsonl", "d.csv", "parquet"), ("p.parquet", "p.parquet", "another file")],
)
def test_files_of_another_kind_are_refused(tmp_path, out, decisions, what):
    with pytest.raises(InputError, match=what):
        check_pairs_files(tmp_path / out, decisions and tmp_path / decisions)
