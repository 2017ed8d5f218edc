import json

import numpy as np
import pytest

from deita_core.conversation import conversation
from deita_core.errors import InputError
from deita_core.models.encoder_spec import find_encoder
from deita_core.models.lm_encoder import render
from deita_core.stages import contamination
from deita_core.stages.contamination import (
    contaminated,
    find_excluded,
    find_overlaps_of,
    find_similarities,
    leaks,
)
from deita_core.stages.encoding import encode_shard, load_encoder, plan_encoding
from deita_core.stages.ingest import describe_file, ingest_file
from deita_core.stages.removal import remove
from deita_core.store import Store
from deita_core.tables import SAMPLES

LONG = "A baker sells 12 loaves of bread an hour and bakes 60 before noon. How many hours does that bread last?"
SHORT = "Which metal is liquid at room temperature?"
TINY = "Why?"
LETTER = "Dear Ms Hansen, our tap drips. Could you send a plumber this week? Kind regards"
TALKS = {
    "verbatim": [("user", LONG), ("assistant", "Five hours.")],
    "shouted": [("user", LONG.upper().replace(" ", "\n")), ("assistant", "Five.")],
    "in an answer": [("user", "Give me a riddle."), ("assistant", f"Sure! Here is one: **{SHORT}** Good luck.")],
    "second turn": [("user", "Hi"), ("assistant", "Hello"), ("user", f"Q: {LONG} A:"), ("assistant", "Five hours")],
    "thought": [("user", "Riddle?"), ("assistant", f"<think>They may mean: {SHORT}</think>Mercury.")],
    "all of it": [("user", " why ? "), ("assistant", "Because.")],
    "part of it": [("user", "Why not?"), ("assistant", "Because.")],
    "twelve words": [("user", " ".join(LONG.split()[:12])), ("assistant", "Yes.")],
    "other": [("user", "Ask a landlord to repair a tap."), ("assistant", LETTER)],
}


class Pool:
    """Conversations in files and in a store, and a benchmark beside them."""

    def __init__(self, folder):
        self.folder, self.store = folder, Store(folder / "store")
        self.file_ids, self.name_of = [], {}

    def read(self, talks):
        file = self.folder / f"pool-{len(self.file_ids)}.jsonl"
        rows = [{"messages": [{"role": role, "content": text} for role, text in talk]} for talk in talks.values()]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        self.name_of |= {conversation(talk).id: name for name, talk in talks.items()}
        self.file_ids.append(ingest_file(self.store, describe_file(str(file))).file_id)
        return self

    def benchmark(self, *questions, name="bench.jsonl"):
        rows = "".join(json.dumps({"question": question, "answer": "?"}) + "\n" for question in questions)
        (self.folder / name).write_text(rows, encoding="utf-8")
        return str(self.folder / name)

    def encode(self, encoder):
        for shard in plan_encoding(self.store, encoder, self.file_ids):
            encode_shard(self.store, load_encoder(encoder), shard)

    def compared(self, table):
        """The rows of a table by name of the conversation."""
        return {self.name_of[row.pop("id")]: row for row in self.store.read(table).to_dicts()}


@pytest.fixture
def pool(tmp_path):
    return Pool(tmp_path).read(TALKS)


@pytest.fixture(scope="module")
def encoder(tiny_model):
    return find_encoder(str(tiny_model), "float32")


def unused():
    raise AssertionError("the encoder is not needed")


def test_samples_that_share_words_with_a_question_are_found_with_the_place_and_the_words(pool):
    excluded = find_excluded([pool.benchmark("Name a fish.", LONG, SHORT, TINY)], None)
    assert find_overlaps_of(pool.store, excluded, pool.file_ids) == len(TALKS)
    found = pool.compared(excluded.overlaps)
    long = "a baker sells 12 loaves of bread an hour and bakes 60 before noon how many …"
    short = "which metal is liquid at room temperature"
    names = ("line", "message", "start", "words", "quote")
    assert {name: tuple(row[part] for part in names) for name, row in found.items() if row["line"]} == {
        "verbatim": (2, 0, 0, 21, long),
        "shouted": (2, 0, 0, 21, long),
        "in an answer": (3, 1, 4, 7, short),
        "second turn": (2, 2, 1, 21, long),
        "thought": (3, 1, 3, 7, short),
        "all of it": (4, 0, 0, 1, "why"),
    }
    assert set(found) == set(TALKS)
    assert all(value is None for name in ("part of it", "twelve words", "other") for value in found[name].values())


def test_only_new_samples_are_compared_and_the_result_is_that_of_a_run_from_scratch(pool, tmp_path, monkeypatch):
    excluded = find_excluded([pool.benchmark(LONG, SHORT)], None)
    find_overlaps_of(pool.store, excluded, pool.file_ids)
    assert find_overlaps_of(pool.store, excluded, pool.file_ids) == 0
    more = {f"more {i}": [("user", f"{SHORT} {i}"), ("assistant", "Mercury.")] for i in range(7)}
    assert find_overlaps_of(pool.store, excluded, pool.read(more).file_ids) == 7
    (tmp_path / "fresh").mkdir()
    monkeypatch.setattr(contamination, "BLOCK", 3)
    fresh = Pool(tmp_path / "fresh").read(TALKS | more)
    assert find_overlaps_of(fresh.store, excluded, fresh.file_ids) == len(TALKS) + 7
    assert fresh.compared(excluded.overlaps) == pool.compared(excluded.overlaps)


def test_what_was_compared_depends_on_the_content_of_the_files_and_not_on_their_names(pool):
    one = find_excluded([pool.benchmark(LONG)], None)
    other = find_excluded([pool.benchmark(LONG, name="moved.jsonl")], 0.9)
    changed = find_excluded([pool.benchmark(LONG, SHORT)], None)
    both = find_excluded([pool.benchmark(LONG), pool.benchmark(SHORT, name="b.jsonl")], None)
    assert one.key == other.key and len({one.key, changed.key, both.key}) == 3


def test_the_wording_that_all_questions_of_a_file_share_is_no_question(pool, tmp_path):
    frame = "You are given a question with four choices of which one is right. Answer with its letter. {}"
    excluded = find_excluded([pool.benchmark(*(frame.format(f"{i} {i + 1} {i + 2}?") for i in range(30)))], None)
    more = {
        "framed": [("user", frame.format("Who?")), ("assistant", "A")],
        "asked": [("user", frame.format("7 8 9?")), ("assistant", "B")],
    }
    find_overlaps_of(pool.store, excluded, pool.read(more).file_ids)
    assert {name: row["line"] for name, row in pool.compared(excluded.overlaps).items() if row["line"]} == {"asked": 8}


def test_short_turns_of_a_question_of_several_turns_are_not_looked_for(pool):
    turns = [["Hi", LONG, "Why?"], [SHORT, TINY, " ".join(LONG.split()[:12])], ["Why?"]]
    file = pool.folder / "turns.jsonl"
    file.write_text("".join(json.dumps({"turns": each}) + "\n" for each in turns), encoding="utf-8")
    asked = find_excluded([str(file)], None).questions().rows()
    assert asked == [(0, 1, LONG), (0, 2, SHORT), (0, 3, "Why?")]


def test_a_file_that_changes_during_a_run_is_an_error(pool):
    excluded = find_excluded([pool.benchmark(LONG)], None)
    pool.benchmark(SHORT)
    with pytest.raises(InputError, match=r"bench\.jsonl has changed meanwhile; run again"):
        find_overlaps_of(pool.store, excluded, pool.file_ids)


def test_a_file_that_cannot_be_read_is_an_error_before_anything_is_compared(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"name": "x"}\n')
    for file, problem in (("a.jsonl", "there is no question"), ("b.jsonl", "does not exist")):
        with pytest.raises(InputError, match=problem):
            find_excluded([str(tmp_path / file)], None)
    (tmp_path / "c.jsonl").write_text('{"turns": ["Hi", "Go on"]}\n')
    with pytest.raises(InputError, match=r"c\.jsonl has only turns of few words"):
        find_excluded([str(tmp_path / "c.jsonl")], None)
    assert find_excluded([], None) is None


def by_hand(encoder, questions, talks):
    """The cosine of each conversation's user messages to the questions, one pair at a time in float64."""

    def vector(text):
        return load_encoder(encoder).encode([text]).vectors[0].astype(float)

    def cosine(a, b):
        return a @ b / np.sqrt((a @ a) * (b @ b))

    asked = list(map(vector, questions))
    return {
        name: max(
            (cosine(vector(text), other), -line)
            for role, text in talk
            if role == "user"
            for line, other in enumerate(asked, 1)
        )
        for name, talk in talks.items()
    }


def test_the_nearest_question_of_each_sample_is_that_of_its_user_messages(pool, encoder, monkeypatch):
    monkeypatch.setattr(contamination, "BLOCK", 4)
    monkeypatch.setattr(contamination, "ENCODED", 2)
    pool.encode(encoder)
    questions = ["bread salt fox", LONG, "hello world", "bread salt fox", "run cat dog"]
    excluded = find_excluded([pool.benchmark(*questions)], 0.5)
    loads = []

    def load():
        loads.append(1)
        return load_encoder(encoder)

    assert find_similarities(pool.store, excluded, encoder, load, pool.file_ids) == len(TALKS)
    # Four different questions, of which one is a text of the pool.
    assert len(loads) == 2
    found = pool.compared(excluded.similarities(encoder))
    expected = by_hand(encoder, questions, TALKS)
    assert {name: row["line"] for name, row in found.items()} == {name: -line for name, (_, line) in expected.items()}
    similarity = [found[name]["similarity"] for name in TALKS]
    np.testing.assert_allclose(similarity, [expected[name][0] for name in TALKS], atol=1e-5)
    assert found["verbatim"]["similarity"] == pytest.approx(1)
    # Nothing is encoded or compared again.
    assert find_similarities(pool.store, excluded, encoder, unused, pool.file_ids) == 0
    other = find_excluded([pool.benchmark(*questions[::-1])], 0.5)
    assert find_similarities(pool.store, other, encoder, unused, pool.file_ids) == len(TALKS)


def test_a_language_model_compares_whole_conversations(tmp_path, tiny_llama):
    encoder = find_encoder(str(tiny_llama), "float32")
    talks = {"a": [("user", "Name a fruit."), ("assistant", "Quince.")], "b": [("user", "Hi"), ("assistant", "Hello")]}
    pool = Pool(tmp_path).read(talks)
    pool.encode(encoder)
    excluded = find_excluded([pool.benchmark("Name a fruit.", "Say hi")], 0.5)
    model = load_encoder(encoder)
    find_similarities(pool.store, excluded, encoder, lambda: model, pool.file_ids)
    found = pool.compared(excluded.similarities(encoder))
    questions = [conversation([("user", "Name a fruit.")]), conversation([("user", "Say hi")])]
    for name, talk in talks.items():
        texts = [render(each, model.tokenizer) for each in (conversation(talk), *questions)]
        row, *asked = model.encode(texts).vectors.astype(float)
        cosines = [row @ other / np.linalg.norm(row) / np.linalg.norm(other) for other in asked]
        assert found[name]["line"] == 1 + int(np.argmax(cosines))
        assert found[name]["similarity"] == pytest.approx(max(cosines), abs=1e-5)


def test_the_reason_names_the_question_and_words_come_before_vectors(pool, encoder):
    pool.encode(encoder)
    ids = pool.store.read(SAMPLES, ["id"])["id"].sort()
    file = pool.benchmark(LONG, "Why not")
    for similarity in (None, 0.999):
        excluded = find_excluded([file], similarity)
        find_overlaps_of(pool.store, excluded, pool.file_ids)
        find_similarities(pool.store, excluded, encoder, lambda: load_encoder(encoder), pool.file_ids)
        found = contaminated(pool.store, excluded, encoder, ids)
        reasons = {pool.name_of[id_]: reason for id_, fate, reason in found.iter_rows() if fate == "contaminated"}
        assert len(found) == len(reasons)
        assert reasons["verbatim"] == reasons["second turn"] == "it shares 21 words in a row with bench.jsonl:1"
        assert reasons["part of it"] == "it shares 2 words in a row with bench.jsonl:2"
        assert "other" not in reasons and "twelve words" not in reasons
    details = {pool.name_of[row.pop("id")]: row for row in leaks(pool.store, excluded, encoder).to_dicts()}
    assert details["verbatim"]["shared_quote"].startswith("a baker sells") and details["verbatim"]["shared_words"] == 21
    assert details["second turn"]["shared_span"] == "message 3, words 2 to 22"
    assert details["verbatim"]["benchmark_similarity"] == pytest.approx(1)
    nothing = contaminated(pool.store, None, encoder, ids)
    assert nothing.is_empty() and nothing.columns == ["id", "fate", "reason"]


def test_a_sample_that_only_its_vector_tells_has_the_cosine_in_its_reason(pool, encoder):
    pool.encode(encoder)
    excluded = find_excluded([pool.benchmark("Name a tap that a landlord has to repair.")], -1.0)
    find_overlaps_of(pool.store, excluded, pool.file_ids)
    find_similarities(pool.store, excluded, encoder, lambda: load_encoder(encoder), pool.file_ids)
    found = contaminated(pool.store, excluded, encoder, pool.store.read(SAMPLES, ["id"])["id"])
    assert len(found) == len(TALKS)
    cosines = pool.compared(excluded.similarities(encoder))
    for id_, _, reason in found.iter_rows():
        cosine = round(cosines[pool.name_of[id_]]["similarity"], 4)
        assert reason == f"a question of its user is near bench.jsonl:1 (cosine {cosine})"


def test_a_removed_conversation_leaves_no_words_of_it(pool):
    excluded = find_excluded([pool.benchmark(SHORT)], None)
    find_overlaps_of(pool.store, excluded, pool.file_ids)
    [id_] = [id_ for id_, name in pool.name_of.items() if name == "in an answer"]
    remove(pool.store, [id_], "asked for")
    left = pool.store.read(excluded.overlaps)
    assert id_ not in left["id"] and left["quote"].drop_nulls().len() == 1
