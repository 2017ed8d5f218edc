import polars as pl
import pytest

from deita_core.errors import InputError, ModelError
from deita_core.models.encoder_spec import find_encoder
from deita_core.scorers import find_scorer, load_scorer

BREAD = (
    "How do I keep homemade bread from going stale?",
    "Let the loaf cool completely, then keep it cut side down on a board or in a paper bag at room temperature; it "
    "stays good for about two days. What you will not eat by then, slice and freeze in a closed bag the same day, and "
    "toast the slices straight from the freezer. Avoid the fridge: starch recrystallises fastest just above freezing, "
    "so bread goes stale there in a day. A loaf that is already dry comes back for a few hours if you wet the crust "
    "and heat it for eight minutes at 180 °C.",
)
TIDES = (
    "Why are there two high tides a day and not one?",
    "Because the Moon's pull is not the same everywhere on Earth. On the near side it is stronger than at the centre, "
    "so water there is drawn towards the Moon; on the far side it is weaker than at the centre, so the Earth is pulled "
    "away from that water and leaves a second bulge behind. As the Earth turns, most coasts pass through both bulges. "
    "The Moon moves on meanwhile, so the cycle takes 24 hours and 50 minutes, and high tides are about 12 hours and 25 "
    "minutes apart.",
)
PYTHON = (
    "Write a Python function that returns the first duplicate in a list, or None if there is none.",
    "```python\ndef first_duplicate(items):\n    seen = set()\n    for item in items:\n        if item in seen:\n"
    "            return item\n        seen.add(item)\n    return None\n```\n\nIt walks the list once and remembers "
    "what it has met in a set, so it takes linear time; the items must be hashable. For `[3, 1, 4, 1, 3]` it returns "
    "`1`, because the second `1` comes before the second `3`.",
)
EMAIL = (
    "Write a short email asking a landlord to repair a dripping kitchen tap.",
    "Subject: Dripping tap in the kitchen, flat 4B\n\nDear Ms Hansen,\n\nthe mixer tap in our kitchen has been "
    "dripping since Monday, about once a second even when it is fully closed. I have put a bowl under it, but the "
    "cupboard below is getting damp.\n\nCould you send a plumber this week? I am at home on Thursday after 15:00 and "
    "on Friday all day.\n\nThank you and best regards,\nJonas Weber",
)
PAIRS = {"bread": BREAD, "tides": TIDES, "python": PYTHON, "email": EMAIL}
FILLER = (
    "That is a great question! There are many things to consider here, and the best choice depends on your situation.",
    "I'm sorry, but I can't help with that.",
    "Sure!",
    "...",
)


def first_sentence(text):
    return text.split(". ")[0] + "."


@pytest.fixture(scope="module")
def quality(laptop):
    return load_scorer("laptop", "quality")


@pytest.fixture(scope="module")
def complexity(laptop):
    return load_scorer("laptop", "complexity")


# -- quality


@pytest.fixture(scope="module")
def judged(quality):
    """Quality scores of each question's good answer and of what is wrong with it, by question and kind."""
    rows = []
    for name, (question, good) in PAIRS.items():
        other = next(answer for key, (_, answer) in PAIRS.items() if key != name)
        kinds = {
            "good": good,
            "truncated": good[: len(good) // 4],
            "off topic": other,
            "repeated": " ".join([first_sentence(good)] * 9),
            "echo": question,
            **{f"filler {i}": text for i, text in enumerate(FILLER)},
        }
        rows += [(name, kind, question, answer) for kind, answer in kinds.items()]
    frame = quality.score([row[2] for row in rows], [row[3] for row in rows])
    assert frame["status"].to_list() == ["ok"] * len(rows)
    return {(row[0], row[1]): score for row, score in zip(rows, frame["score"], strict=True)}


@pytest.mark.parametrize("question", PAIRS)
@pytest.mark.parametrize("kind", ["truncated", "off topic", "repeated", "echo", *(f"filler {i}" for i in range(4))])
def test_a_good_answer_beats_one_with_a_plain_defect(question, kind, judged):
    assert judged[question, "good"] > judged[question, kind]


def test_quality_scores_are_on_the_scale(judged):
    assert all(1 <= score <= 6 for score in judged.values())


def test_a_padded_answer_is_no_better_than_the_answer(quality):
    question, good = BREAD
    padded = good + " " + " ".join(["I hope this helps, and please let me know if you have any other questions!"] * 12)
    plain, long = quality.score([question] * 2, [good, padded])["score"]
    assert plain > long


# -- complexity

SIMPLE = ["What is the capital of France?", "Hi, how are you?", "Name a fruit.", "2+2?"]
HARD = [
    "Prove that every finite group of order p^2 is abelian, and classify all groups of order p^2 up to isomorphism.",
    "Design a rate limiter for a cluster of 40 API servers that share one Redis, allows bursts of 20 requests, stays "
    "correct when a node's clock drifts by two seconds, and fails open when Redis is down; give the Lua script and "
    "argue why no client can exceed its quota by more than 5%.",
    "Derive the closed form of the Black-Scholes price of a European call from the heat equation, state each "
    "assumption where it is used, and show how the result changes if volatility is a deterministic function of time.",
]
LONG_BUT_EASY = (
    "Hello! I hope you are having a wonderful day. I was sitting in the garden this morning with my grandmother, who "
    "is visiting us from the coast, and we were drinking tea and talking about this and that, as one does, when my "
    "little nephew came running with a book about animals which he had been given for his birthday by his other "
    "grandmother. He loves this book very much and carries it around everywhere. He asked me something, and I must "
    "admit that I was so busy with the tea that I did not really listen. Thank you so much in advance for your kind "
    "help, it is very much appreciated by all of us here. What we would like to know is this: what sound does a cow "
    "make?"
)
SHORT_BUT_HARD = "Prove that the square root of 2 plus the cube root of 3 is irrational."


def test_a_hard_instruction_is_more_complex_than_a_simple_one(complexity):
    simple, hard = complexity.score(SIMPLE)["score"], complexity.score(HARD)["score"]
    assert hard.min() > simple.max()


def test_a_short_hard_instruction_is_more_complex_than_a_long_easy_one(complexity):
    easy, hard = complexity.score([LONG_BUT_EASY, SHORT_BUT_HARD])["score"]
    assert hard > easy


def test_more_constraints_make_an_instruction_more_complex(complexity):
    plain, constrained = complexity.score(
        [
            "Write a poem about the sea.",
            "Write a sonnet about the sea in iambic pentameter whose first letters spell LIGHTHOUSE SHIP, that never "
            "uses the letter w, and whose final couplet reverses the claim of the first quatrain.",
        ]
    )["score"]
    assert constrained > plain


# -- the frame


def test_one_row_comes_back_for_each_text_in_order(complexity):
    frame = complexity.score([HARD[0], "", SIMPLE[0], HARD[0]])
    assert frame.schema == {"score": pl.Float64, "status": pl.String}
    assert frame["status"].to_list() == ["ok", "unreadable", "ok", "ok"]
    assert frame["score"][1] is None
    assert frame["score"][0] == frame["score"][3] > frame["score"][2]


def test_a_score_hardly_depends_on_the_texts_scored_with_it(complexity):
    together = complexity.score([*SIMPLE, *HARD])["score"].to_list()
    alone = [complexity.score([text])["score"][0] for text in [*SIMPLE, *HARD]]
    assert together == pytest.approx(alone, abs=0.02)


def test_a_text_that_utf8_cannot_hold_costs_no_other_its_score(complexity):
    """One bad row never costs its batch, and a score that cannot be read is a status."""
    frame = complexity.score([SIMPLE[0], "What does \ud83d mean?", HARD[0]])
    assert frame["status"].to_list() == ["ok", "unreadable", "ok"]


def test_no_texts_are_no_rows(complexity):
    assert complexity.score([]).is_empty()


def test_answers_are_needed_for_quality(quality):
    with pytest.raises(InputError, match="give one response for each"):
        quality.score([BREAD[0]])


# -- finding


@pytest.mark.parametrize("name", ["no-such-scorer", "hkust-nlp/deita-quality-scorer", "/no/such/folder", ""])
def test_a_scorer_that_is_nowhere_is_refused_in_a_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as refused:
        load_scorer(name, "quality")
    assert any(part in str(refused.value) for part in ("give laptop", "does not hold", "nor on the hub"))
    assert "\n" not in str(refused.value)


def test_the_scorer_of_the_other_axis_is_refused(quality):
    folder = find_scorer("laptop", "quality", find_encoder()).path
    with pytest.raises(ModelError, match="scores quality; give one that scores complexity"):
        load_scorer(str(folder), "complexity")


def test_shipped_scorers_are_for_the_laptop_encoder_only(laptop, tiny_model):
    for axis in ("complexity", "quality"):
        assert find_scorer("laptop", axis, laptop.files).axis == axis
        with pytest.raises(ModelError, match="trained on vectors of"):
            find_scorer("laptop", axis, find_encoder(str(tiny_model), "float32"))


def test_scores_on_other_vectors_go_to_another_table(laptop):
    full, half = (
        find_scorer("laptop", "quality", find_encoder(precision=precision)) for precision in ("float32", "bfloat16")
    )
    assert full.slug != half.slug
    assert full.slug != find_scorer("laptop", "complexity", laptop.files).slug


@pytest.mark.parametrize("axis", ["complexity", "quality"])
def test_a_shipped_scorers_card_has_held_out_figures_better_than_length(axis):
    figures = load_scorer("laptop", axis).card.figures
    assert figures.scorer.pair_accuracy > figures.length.pair_accuracy
    assert figures.scorer.like_accuracy > 0.6
