import json
from collections import Counter, defaultdict
from statistics import median

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deita_core.errors import InputError
from deita_core.scorers.training.examples import Example, read_chains, shipped_chains, with_defects
from tests.support.paths import ROOT

EVOLUTION = ROOT / "examples/evolution"
AXES = ("complexity", "quality")


def complexity_chain(name="c1", texts=("Add 2 and 2.", "Add 2 and 2 in base 3.")):
    return {"id": name, "axis": "complexity", "variants": [{"text": t, "score": s} for s, t in enumerate(texts, 1)]}


def quality_chain(name="q1", instruction="How do I bake bread?", scores=(2, 5)):
    variants = [{"text": f"Answer {s} to {instruction}", "score": s} for s in scores]
    return {"id": name, "axis": "quality", "instruction": instruction, "variants": variants}


@pytest.fixture
def lines(tmp_path):
    """Writes rows (or raw lines) to a file and returns its path."""

    def write(*rows):
        path = tmp_path / "chains.jsonl"
        path.write_bytes(b"".join((row if isinstance(row, bytes) else orjson.dumps(row)) + b"\n" for row in rows))
        return path

    return write


# -- reading


def test_a_variant_becomes_an_example(lines):
    file = lines(quality_chain())
    assert read_chains([file], "quality") == [
        Example("q1", "How do I bake bread?", "Answer 2 to How do I bake bread?", 2),
        Example("q1", "How do I bake bread?", "Answer 5 to How do I bake bread?", 5),
    ]


def test_on_the_complexity_axis_the_text_is_the_instruction(lines):
    first, second = read_chains([lines(complexity_chain())], "complexity")
    assert (first.instruction, first.response, first.text) == ("Add 2 and 2.", None, "Add 2 and 2.")
    assert (first.score, second.score, first.authored) == (1, 2, True)


def test_several_files_are_read_one_after_the_other(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(orjson.dumps(complexity_chain(name)) + b"\n")
    chains = [e.chain for e in read_chains([tmp_path / "one", tmp_path / "two"], "complexity")]
    assert chains == ["one", "one", "two", "two"]


def broken(chain, **changes):
    return {**chain, **changes}


def variant(**changes):
    return broken(quality_chain(), variants=[{"text": "Mix and bake.", "score": 3, **changes}])


BAD_CHAINS = {
    "no JSON": b'{"id": "q2", "variants": [',
    "a list": ["id", "variants"],
    "no id": {key: value for key, value in quality_chain().items() if key != "id"},
    "no instruction": complexity_chain(),
    "no variants": {key: value for key, value in quality_chain().items() if key != "variants"},
    "no score": broken(quality_chain(), variants=[{"text": "Mix and bake."}]),
    "a score in words": variant(score="good"),
    "no text": broken(quality_chain(), variants=[{"score": 3}]),
    "score 0": variant(score=0),
    "score 7": variant(score=7),
    "a score between two": variant(score=3.5),
    "a null for a text": variant(text=None),
}


@pytest.mark.parametrize("bad", BAD_CHAINS.values(), ids=BAD_CHAINS.keys())
def test_a_line_that_is_no_chain_is_refused_by_file_and_line(bad, lines):
    file = lines(quality_chain("q0"), quality_chain("q1"), bad)
    with pytest.raises(InputError) as refused:
        read_chains([file], "quality")
    assert str(file) in str(refused.value)
    assert "line 3" in str(refused.value)


def test_answers_are_not_read_as_instructions(lines):
    with pytest.raises(InputError):
        read_chains([lines(quality_chain())], "complexity")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.jsonl"):
        read_chains([tmp_path / "nowhere.jsonl"], "quality")


# -- rows with a known defect


def answers_to(n, long=True):
    body = " ".join(f"Step {i} of plan {n} is to do thing {i * n} with care." for i in range(1, 9))
    return [
        Example(f"q{n}", f"What is plan {n}?", f"Plan {n}.", 2),
        Example(f"q{n}", f"What is plan {n}?", body if long else f"Short plan {n}.", 5),
    ]


def chains(count):
    return [example for n in range(1, count + 1) for example in answers_to(n, long=n % 3 > 0)]


def made_by_chain(examples, seed=0):
    made = defaultdict(list)
    for example in with_defects(examples, seed):
        if not example.authored:
            made[example.chain].append(example)
    return made


@given(st.integers(1, 12), st.integers(0, 5))
@settings(max_examples=30)
def test_defects_are_added_with_low_scores_and_nothing_is_taken_away(count, seed):
    examples = chains(count)
    with_made = with_defects(examples, seed)
    assert with_made[: len(examples)] == examples
    made = with_made[len(examples) :]
    assert made and all(not e.authored and 1 <= e.score <= 3 and e.response is not None for e in made)
    asked = {e.chain: e.instruction for e in examples}
    assert all(e.instruction == asked[e.chain] for e in made)


def test_defects_are_the_same_every_time():
    assert with_defects(chains(6)) == with_defects(chains(6))
    assert with_defects(chains(6), seed=1) != with_defects(chains(6), seed=2)


def test_every_kind_of_defect_is_made():
    made = made_by_chain(chains(8))["q1"]
    instruction, good = "What is plan 1?", answers_to(1)[1].text
    others = {e.text for n in range(2, 9) for e in answers_to(n)}
    responses = [e.response for e in made]
    assert instruction in responses, "an echo of the question"
    assert any(good.startswith(r) and r != good for r in responses), "an answer that breaks off"
    assert any(r in others for r in responses), "an answer to another question"
    repeats = [Counter(r.split(". ")).most_common(1)[0][1] for r in responses if r not in others]
    assert max(repeats) >= 3, "a sentence over and over"


def test_the_earlier_an_answer_breaks_off_the_less_it_is_worth():
    for chain, made in made_by_chain(chains(12)).items():
        good = next(e.text for e in chains(12) if e.chain == chain and e.score == 5)
        cut = [e for e in made if good.startswith(e.response) and not e.response.endswith(".")]
        assert len(cut) >= 2 or len(good) < 160
        for one in cut:
            for other in cut:
                assert len(one.response) <= len(other.response) or one.score >= other.score


def test_complexity_examples_come_back_alone():
    examples = [Example("c1", "Add 2 and 2.", None, 1), Example("c1", "Add in base 3.", None, 2)]
    assert with_defects(examples) == examples


# -- what is shipped


def shipped(name):
    return [json.loads(line) for line in (EVOLUTION / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("axis", AXES)
def test_there_are_enough_shipped_chains_of_six_variants(axis):
    rows = shipped(axis)
    assert len(rows) >= 64
    assert len({row["id"] for row in rows}) == len(rows)
    assert {len(row["variants"]) for row in rows} == {6}
    assert {row["axis"] for row in rows} == {axis}
    assert all([v["step"] for v in row["variants"]] == list(range(6)) for row in rows)


@pytest.mark.parametrize("axis", AXES)
def test_shipped_chains_cover_domains_languages_and_all_scores(axis):
    rows = shipped(axis)
    assert len({row["domain"] for row in rows}) >= 12
    languages = Counter(row["language"] for row in rows)
    assert len(languages) >= 4 and languages["zh"] >= 2
    assert {v["score"] for row in rows for v in row["variants"]} == {1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize("axis", AXES)
def test_a_shipped_score_is_not_simply_the_step(axis):
    rows = shipped(axis)
    counted = sum([v["score"] for v in row["variants"]] == [1, 2, 3, 4, 5, 6] for row in rows)
    falls = sum(
        any(a["score"] > b["score"] for a, b in zip(row["variants"], row["variants"][1:], strict=False)) for row in rows
    )
    assert counted < len(rows) / 4
    assert falls > 0, "some step made it worse"


@pytest.mark.parametrize("axis", AXES)
def test_a_shipped_score_is_not_simply_the_length(axis):
    pairs = longer_wins = 0
    for row in shipped(axis) + shipped(f"{axis}_contrast"):
        for a in row["variants"]:
            for b in row["variants"]:
                if a["score"] > b["score"] and len(a["text"]) != len(b["text"]):
                    pairs += 1
                    longer_wins += len(a["text"]) > len(b["text"])
    assert longer_wins / pairs < 0.85


def test_contrast_instructions_are_long_and_easy_or_short_and_hard():
    variants = [v for row in shipped("complexity_contrast") for v in row["variants"]]
    easy = [len(v["text"]) for v in variants if v["score"] <= 2]
    hard = [len(v["text"]) for v in variants if v["score"] >= 4]
    long_easy = [length for length in easy if length > 3 * median(hard)]
    short_hard = [length for length in hard if length < median(easy) / 3]
    assert len(long_easy) >= 12 and len(short_hard) >= 12


def test_contrast_answers_hold_short_good_ones_beside_long_bad_ones():
    rows = shipped("quality_contrast")
    against_length = 0
    for row in rows:
        good = [len(v["text"]) for v in row["variants"] if v["score"] >= 5]
        bad = [len(v["text"]) for v in row["variants"] if v["score"] <= 2]
        against_length += bool(good and bad and min(good) < max(bad))
    assert against_length >= 12


@pytest.mark.parametrize("axis", AXES)
def test_shipped_files_are_read(axis):
    examples = read_chains(shipped_chains(axis), axis)
    assert len(examples) >= 64 * 6
    assert all(e.text.strip() for e in examples)
    rows = Counter((e.chain, e.text) for e in examples)
    assert max(rows.values()) == 1, rows.most_common(1)


def share_of_longer(row):
    """Of the pairs of unequal score, how many there are and in how many the better text is the longer one."""
    pairs = [(a, b) for a in row["variants"] for b in row["variants"] if a["score"] > b["score"]]
    return len(pairs), sum(len(a["text"]) > len(b["text"]) for a, b in pairs)


def test_held_out_answers_are_of_many_kinds():
    rows = shipped("held_out_quality")
    assert len(rows) >= 150
    assert all(4 <= len(row["variants"]) <= 6 for row in rows)
    kinds = Counter(v["kind"] for row in rows for v in row["variants"])
    assert min(kinds[kind] for kind in ("thorough", "wrong", "empty", "curt", "hedged", "offbyone")) >= 15
    assert len({row["language"] for row in rows}) >= 10
    assert {v["score"] for row in rows for v in row["variants"]} == {1, 2, 3, 4, 5, 6}


def test_the_length_of_a_held_out_answer_says_little_about_its_grade():
    pairs, longer = map(sum, zip(*map(share_of_longer, shipped("held_out_quality")), strict=True))
    assert 0.4 < longer / pairs < 0.65


SINGLE = ("complexity_single", "held_out_complexity")
TYPED = ("complexity_typed", "held_out_typed_complexity")


def graded(*names):
    return [v for name in names for row in shipped(name) for v in row["variants"]]


def test_single_instructions_cover_many_domains_and_all_grades():
    variants = graded(*SINGLE)
    assert len(variants) >= 800 and len({v["text"] for v in graded(*SINGLE, *TYPED)}) == len(graded(*SINGLE, *TYPED))
    assert len({v["domain"] for v in variants}) >= 39
    assert {v["score"] for v in variants} == {1, 2, 3, 4, 5, 6}
    assert sum(len(v["text"]) > 200 for v in variants if v["score"] <= 2) >= 30
    assert sum(len(v["text"]) < 50 for v in variants if v["score"] >= 4) >= 30


def test_typed_instructions_have_what_the_tidy_ones_lack():
    variants = graded(*TYPED)
    long = [v for v in variants if len(v["text"]) > 200]
    short = [v for v in variants if len(v["text"]) < 80]
    assert sum(v["score"] >= 4 for v in long) >= 100 and sum(v["score"] <= 2 for v in long) >= 50
    assert sum(v["score"] >= 4 for v in short) >= 20 and sum(v["score"] <= 2 for v in short) >= 100
    for pasted in (True, False):
        assert {v["score"] for v in variants if ("\n" in v["text"]) == pasted} == {1, 2, 3, 4, 5, 6}
    assert sum(v["text"][0].islower() for v in variants) >= 100
    languages = Counter(v["language"] for v in variants)
    assert len(languages) >= 12 and len(variants) - languages["en"] >= 50


def test_length_alone_does_not_tell_the_grades_of_single_instructions():
    """What a long instruction is worth must not depend on the file it is in, and it did in the tidy ones alone."""
    hard = {name: [v["score"] >= 4 for v in graded(name) if len(v["text"]) > 200] for name in (SINGLE[0], TYPED[0])}
    assert sum(hard["complexity_single"]) == 0
    both = [*hard["complexity_single"], *hard["complexity_typed"]]
    assert 0.3 < sum(both) / len(both) < 0.7


def test_complexity_is_learned_from_chains_and_from_single_instructions():
    names = {file.stem for file in shipped_chains("complexity")}
    assert names == {f"complexity{kind}" for kind in ("", "_contrast", "_ladders", "_single", "_typed")}
    # Instructions that have nothing to do with each other are compared by their grades alone.
    assert all(len(row["variants"]) == 1 for name in (*SINGLE, *TYPED) for row in shipped(name))


LADDERS = ("complexity_ladders", "held_out_ladders_complexity")


def test_each_step_of_a_ladder_has_a_constraint_more_and_is_no_easier():
    for row in (row for name in LADDERS for row in shipped(name)):
        texts, grades = ([v[key] for v in row["variants"]] for key in ("text", "score"))
        assert len(texts) == len(set(texts)) == 5 and grades == sorted(grades) and grades[0] < grades[-1]
    assert len({v["text"] for v in graded(*LADDERS, *SINGLE, *TYPED)}) == len(graded(*LADDERS, *SINGLE, *TYPED))


def test_length_does_not_tell_the_steps_of_every_ladder():
    steps = [[len(v["text"]) for v in row["variants"]] for name in LADDERS for row in shipped(name)]
    assert sum(max(lengths) <= 1.2 * lengths[0] for lengths in steps) >= 15
    assert sum(lengths[-1] < lengths[0] for lengths in steps) >= 3


@pytest.mark.parametrize("axis", AXES)
def test_held_out_instructions_are_not_trained_on(axis):
    single, typed, ladders = ({v["text"] for v in graded(name)} for name in (SINGLE[1], TYPED[1], LADDERS[1]))
    answered = {row["instruction"] for row in shipped("held_out_quality")}
    assert len(single) == 200 and len(typed) >= 50
    trained = {e.instruction for e in read_chains(shipped_chains(axis), axis)}
    assert not trained & (single | typed | ladders | answered)


def test_weak_answers_are_beside_the_authored_ones_and_count_as_made():
    chains = {e.chain: e.instruction for e in read_chains(shipped_chains("quality"), "quality")}
    weak = read_chains([EVOLUTION / "weak" / "quality.jsonl"], "quality")
    assert len({e.chain for e in weak}) == len(weak) >= 250
    assert all(chains[e.chain] == e.instruction for e in weak)
    assert not any(e.authored for e in weak) and {e.score for e in weak} == {1, 2}
    kinds = Counter(v["kind"] for row in shipped("weak/quality") for v in row["variants"])
    assert min(kinds[kind] for kind in ("greedy", "warm", "hot", "blurred", "cut")) >= 50
