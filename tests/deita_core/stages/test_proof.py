"""Subsets of a proof, of files read into a store whose vectors and scores are written by hand."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from deita_core.config.proof import ProofSettings
from deita_core.conversation import Conversation, stored_conversation, text_id
from deita_core.errors import InputError
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.scorers import ScorerFiles
from deita_core.stages.ingest import describe_file, ingest_file
from deita_core.stages.job import Job
from deita_core.stages.proof.job import OVERLAPS_FILE, PAIRS_FILE, SUBSETS_FILE, ProofJob
from deita_core.stages.proof.subsets import TokenReader, make_subsets
from deita_core.stages.proof.training import fine_tune_arm
from deita_core.store import Store
from deita_core.tables import SAMPLES, scores_table, vectors_table

DIM = 64
ENCODER = EncoderFiles(name="tiny", path=Path(), dim=DIM, precision="float32", weights="w", fingerprint="e" * 32)
COMPLEXITY = ScorerFiles(name="c", axis="complexity", path=Path(), fingerprint="1" * 32)
QUALITY = ScorerFiles(name="q", axis="quality", path=Path(), fingerprint="2" * 32)
VECTORS = vectors_table(ENCODER.slug, DIM)


def row(number, words=6, answer="sea"):
    return (f"Question {number}?", " ".join([f"{answer}{number}", *["wave"] * words]))


class Proof:
    """A store with a pool, whose rows have the better scores the earlier they stand, and other files."""

    def __init__(self, folder, model, pool, heldout, weaker=(), arms=None, same_vector=(), **settings):
        folder.mkdir(exist_ok=True)
        self.store, self._folder = Store(folder / "store"), folder
        self.lines, self.same_vector = dict[str, list[str]](), dict(same_vector)
        files = {"pool": pool, "heldout": heldout, "weaker": weaker, **(arms or {})}
        ids = {name: (self._read(name, rows),) for name, rows in files.items() if rows}
        self._compute(pool)
        names = {name: str(folder / f"{name}.jsonl") for name in files}
        usual = {"chat_template": "vicuna", "training": {"max_tokens": 256, "batch": 8, "epochs": 2}, "budget": 4}
        self.settings = ProofSettings(
            base_model=str(model),
            heldout=names["heldout"],
            weaker=names["weaker"] if weaker else None,
            arms={name: names[name] for name in arms or {}},
            **{**usual, **settings},
        )
        self.job = ProofJob(
            selection=Job(
                run_id="r",
                file_ids=ids["pool"],
                encoder=ENCODER,
                complexity=COMPLEXITY,
                quality=QUALITY,
                settings=self.settings.selection,
            ),
            settings=self.settings,
            heldout=ids["heldout"],
            weaker=ids.get("weaker", ()),
            arms={name: ids[name] for name in arms or {}},
        )

    def _read(self, name, rows):
        file = self._folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps({"instruction": q, "output": a}) + "\n" for q, a in rows))
        return ingest_file(self.store, describe_file(str(file))).file_id

    def _compute(self, pool):
        self.answers, vectors, scores = {}, {}, []
        rank = {question: len(pool) - place for place, (question, _) in enumerate(pool)}
        for id_, messages, extra in self.store.read(SAMPLES, ["id", "messages", "extra"]).iter_rows():
            sample: Conversation = stored_conversation(messages, extra)
            question, answer = (message.content for message in sample.messages)
            self.answers[id_] = answer
            alike = self.same_vector.get(question, question)
            unit = np.random.default_rng(list(alike.encode())).normal(size=DIM)
            vectors |= {text_id(text): (unit / np.linalg.norm(unit)).tolist() for text in (question, answer)}
            scores.append((id_, 0, 1 + 5 * rank.get(question, 0) / (len(pool) + 1), "ok"))
        rows = [(id_, 5, vector) for id_, vector in vectors.items()]
        self.store.write(VECTORS, pl.DataFrame(rows, schema=VECTORS.empty().schema, orient="row"))
        for scorer in (COMPLEXITY, QUALITY):
            table = scores_table(scorer.slug)
            self.store.write(table, pl.DataFrame(scores, schema=table.empty().schema, orient="row"))

    def make(self):
        self.report = make_subsets(self.store, self.job)
        return self

    def table(self, name=SUBSETS_FILE):
        return pl.read_parquet(self.job.folder(self.store) / name)

    def taken(self, arm, seed=0):
        """The answers of a subset, in order."""
        return [self.answers[id_] for id_ in self.table().filter(arm=arm, seed=seed).sort("rank")["id"]]

    def tokens(self, arm, seed=0):
        return self.table().filter(arm=arm, seed=seed)["tokens"].sum()


def answers(*rows):
    return [answer for _, answer in rows]


HELD = [row(1000), row(1001)]
POOL = [row(n, words=3 + n % 5) for n in range(60)]


def test_the_selection_is_the_best_rows_and_every_arm_has_as_many_tokens(tiny_llama, tmp_path):
    proof = Proof(tmp_path, tiny_llama, POOL, HELD, against=["random", "longest", "full"], budget=10, seeds=2).make()
    assert proof.taken("deita") == proof.taken("deita", 1) == answers(*POOL[:10])
    assert proof.report.tokens == proof.tokens("deita") and proof.report.rows == 10
    for arm in ("random", "longest"):
        assert 0.9 * proof.report.tokens < proof.tokens(arm) <= proof.report.tokens
    # Seen once, for as many tokens as two epochs of the others.
    assert 1.9 * proof.report.tokens < proof.tokens("full") <= 2 * proof.report.tokens
    assert proof.taken("random") != proof.taken("random", 1)
    lengths = [len(answer.split()) for answer in proof.taken("longest")]
    assert lengths[0] == 8 and lengths[:5] == sorted(lengths[:5], reverse=True)
    assert proof.report.overlaps == {}
    # Rows of a few hundred tokens do not always fill the last percent.
    for arm, wanted in (("random", 1), ("longest", 1), ("full", 2)):
        lacks = min(proof.tokens(arm, seed) for seed in (0, 1)) < 0.99 * wanted * proof.report.tokens
        assert lacks == (arm in proof.report.short)


def test_tokens_are_those_of_the_sequences_that_are_trained_on(tiny_llama, tmp_path):
    proof = Proof(tmp_path, tiny_llama, POOL, HELD).make()
    reader = TokenReader(proof.store, proof.job)
    table = proof.table().filter(arm="deita", seed=0).sort("rank")
    trained = [sum(len(sequence.ids) for sequence in rows) for _, rows in reader.rows(table["id"])]
    assert trained == table["tokens"].to_list()


def test_a_budget_of_tokens_limits_the_selection(tiny_llama, tmp_path):
    whole = Proof(tmp_path / "a", tiny_llama, POOL, HELD, budget=10).make()
    half = Proof(tmp_path / "b", tiny_llama, POOL, HELD, budget=10, token_budget=whole.report.tokens // 2).make()
    assert 0.9 * half.settings.token_budget < half.report.tokens <= half.settings.token_budget
    assert set(half.taken("deita")) < set(whole.taken("deita"))


def test_rows_near_the_held_out_ones_are_in_no_arm(tiny_llama, tmp_path):
    words = " ".join(f"word{n}" for n in range(13))
    shares, held = ("Say it.", f"So: {words}!"), ("Tell me.", f"{words.upper()} and more")
    near, leaky = ("Question 1000 again?", "ocean " * 9), [HELD[0], row(2000)]
    proof = Proof(
        tmp_path,
        tiny_llama,
        [shares, near, HELD[1], *POOL[:9]],
        [*HELD, held],
        arms={"mine": leaky},
        same_vector={"Question 1000 again?": "Question 1000?"},
    ).make()
    assert proof.report.overlaps == {"shared_words": 3, "similar": 1}
    found = proof.table(OVERLAPS_FILE)
    by_answer = {proof.answers[id_]: (reason, proof.answers[of]) for id_, reason, of, _ in found.iter_rows()}
    assert by_answer == {
        shares[1]: ("shared_words", held[1]),
        near[1]: ("similar", HELD[0][1]),
        HELD[0][1]: ("shared_words", HELD[0][1]),
        HELD[1][1]: ("shared_words", HELD[1][1]),
    }
    assert set(proof.table()["id"]).isdisjoint(found["id"])
    assert proof.taken("mine") == [leaky[1][1]] and proof.report.short["mine"] == proof.tokens("mine")


def test_a_file_is_an_arm_in_its_own_order(tiny_llama, tmp_path):
    mine = [row(n, words=4) for n in (3030, 3020, 3010, 3000, 3040, 3050)]
    proof = Proof(tmp_path, tiny_llama, POOL, HELD, arms={"mine": mine}, budget=3).make()
    taken = proof.taken("mine")
    assert taken == answers(*mine)[: len(taken)] and len(taken) > 1


def test_weaker_answers_are_paired_by_instruction(tiny_llama, tmp_path):
    weaker = [(HELD[0][0], "no"), (HELD[0][0], "nothing"), row(77)]
    proof = Proof(tmp_path, tiny_llama, POOL, HELD, weaker=weaker).make()
    pairs = proof.table(PAIRS_FILE)
    found = {(proof.answers[good], proof.answers[weak]) for _, good, weak in pairs.iter_rows()}
    assert found == {(HELD[0][1], "no"), (HELD[0][1], "nothing")} and proof.report.pairs == 2
    with pytest.raises(InputError, match="answers an instruction of"):
        Proof(tmp_path / "other", tiny_llama, POOL, HELD, weaker=[row(77)]).make()


def test_a_row_without_an_answer_in_the_limit_is_in_no_arm_and_an_arm_without_rows_is_an_error(tiny_llama, tmp_path):
    long = ("Question " + "very " * 300 + "long?", "yes")
    proof = Proof(tmp_path / "a", tiny_llama, [long, *POOL], HELD, against=["longest"]).make()
    assert proof.taken("deita") == answers(*POOL[:3]) and proof.report.unusable == 1
    with pytest.raises(InputError, match="The arm mine has no row with an answer within 256 tokens"):
        Proof(tmp_path / "b", tiny_llama, POOL, HELD, arms={"mine": [long]}).make()


def settings(**given):
    return ProofSettings(**{"base_model": "m", "heldout": "h", "budget": 5, **given})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"budget": None}, "give a budget, of rows or of tokens"),
        ({"against": []}, "nothing to compare with"),
        ({"arms": {"random": "file"}}, "two arms have one name"),
        ({"arms": {"base": "file"}}, "two arms have one name, or the name base"),
        ({"against": ["full"], "training": {"epochs": 1}}, "with one epoch"),
        ({"arms": {"a/b": "file"}}, "pattern"),
    ],
)
def test_arms_that_cannot_be_compared_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        settings(**given)


def test_held_out_answers_that_do_not_fit_are_an_error_also_if_weaker_ones_do(tiny_llama, tmp_path):
    proof = Proof(tmp_path, tiny_llama, POOL, [(HELD[0][0], "word " * 300)], weaker=[(HELD[0][0], "no")]).make()
    # The question fits, so part of the answer is measured; without it nothing would be.
    assert fine_tune_arm(proof.store, proof.job, "base", 0, print).losses.height == 2
    long = "Question " + "very " * 300 + "long?"
    lacking = Proof(tmp_path / "b", tiny_llama, POOL, [(long, "yes")], weaker=[(long, "no"), HELD[0]])
    with pytest.raises(InputError, match="has no answer within 256 tokens to be measured"):
        fine_tune_arm(lacking.make().store, lacking.job, "base", 0, print)
