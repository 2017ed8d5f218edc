from collections import Counter
from time import process_time

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.evolution.checks import instruction_problem, response_problem, words
from deita_core.evolution.prompts import evolve_instruction, evolve_response
from tests.support.paths import ROOT

EXAMPLES = ROOT / "examples" / "evolution"
BOOK = "Name a good book about gardens."
ZH, KO, JA = "推荐一本关于花园的好书。", "정원에 관한 좋은 책을 추천해 주세요.", "庭についての良い本を教えてください。"


@pytest.mark.parametrize(
    "reply",
    [
        "I'm sorry, but I can't help with that.",
        "I’m really sorry, but I’m not able to continue.",
        "I am unable to assist with this request.",
        "I cannot provide a rewritten version of that.",
        "Unfortunately, I can't create content like that.",
        "As an AI language model, I cannot do this.",
        "Es tut mir leid, aber dabei kann ich nicht helfen.",
        "Leider kann ich diese Anfrage nicht erfüllen.",
        "Je suis désolé, mais je ne peux pas vous aider.",
        "Lo siento, no puedo ayudar con esa solicitud.",
        "Mi dispiace, ma non posso aiutarti.",
        "Desculpe, não posso ajudar com isso.",
        "Het spijt me, maar dat kan ik niet doen.",
        "Przykro mi, nie mogę pomóc.",
        "К сожалению, я не могу выполнить эту просьбу.",
        "Üzgünüm, bu konuda yardımcı olamam.",
        "对不起，我无法完成这个请求。",
        "很抱歉，我不能帮助你。",
        "申し訳ありませんが、そのご依頼にはお応えできません。",
        "죄송합니다. 그 요청은 도와드릴 수 없습니다.",
        "آسف، لا أستطيع المساعدة في ذلك.",
        "मुझे खेद है, मैं इसमें मदद नहीं कर सकता।",
    ],
)
def test_a_refusal_is_known_in_many_languages(reply):
    assert instruction_problem(BOOK, reply) == "refusal"
    assert response_problem(BOOK, "The Well-Tempered Garden by Christopher Lloyd.", reply) == "refusal"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "I can't sleep. What helps?",
            "I can't sleep since I moved to the city last month. Name three things that help.",
        ),
        (
            "Write an apology to a customer.",
            "Write an apology to a customer whose order came late, that does not say 'I'm sorry, but' anywhere in it.",
        ),
        (
            "Why do models refuse?",
            "Why do models refuse some harmless requests, and how is that measured in three ways?",
        ),
        ("Translate: Lo siento mucho.", "Translate into formal German and explain the tone: Lo siento mucho."),
        ("My boss won't answer mail.", "My boss won't answer mail since our talk in May. Draft a note below 80 words."),
    ],
)
def test_an_instruction_about_refusing_is_no_refusal(before, after):
    assert instruction_problem(before, after) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("What is 2 + 2?", "Sure! 2 + 2 is 4, because two and two more make four of them."),
        ("What is the capital of France?", "The answer is Paris, which lies on the Seine and has two million people."),
        (BOOK, "Here is a good book about gardens: The Well-Tempered Garden by Christopher Lloyd."),
        ("Solve x + 2 = 5.", "To solve this, take 2 away from both sides, which leaves x equal to three."),
        ("Solve x + 2 = 5.", "Let's solve it step by step, and first take two away from both sides."),
        ("Nenne ein Buch.", "Gerne! Ein gutes Buch über Gärten ist das von Christopher Lloyd aus England."),
        ("Cite un livre.", "Bien sûr ! Un bon livre sur les jardins est celui de Christopher Lloyd."),
        ("Nombra un libro.", "¡Claro! Un buen libro sobre jardines es el de Christopher Lloyd, de Inglaterra."),
        (ZH, "好的，我推荐克里斯托弗·劳埃德写的那本关于花园的书。"),
        (JA, "はい、クリストファー・ロイドの本をお勧めします。とても良い本です。"),
        (KO, "네, 크리스토퍼 로이드의 책을 추천합니다. 아주 좋은 책입니다."),
        ("Назови книгу.", "Конечно! Хорошая книга о садах принадлежит Кристоферу Ллойду из Англии."),
    ],
)
def test_an_answer_in_place_of_an_instruction_is_known(before, after):
    assert instruction_problem(before, after) == "answer"


def test_what_is_taken_from_the_known_answer_is_an_answer():
    response = (
        "It is The Well-Tempered Garden by Christopher Lloyd, first published in 1970 and never out of print since."
    )
    assert instruction_problem(BOOK, f"{BOOK} {response}", response) == "answer"
    assert instruction_problem(BOOK, f"{BOOK} {response}") is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Summarise: the cat sat.", "Summarise in one formal sentence, and name the tense of the verb: the cat sat."),
        (
            "Here is a text: the cat sat. Summarise it.",
            "Here is a text: the cat sat. Summarise it in French and explain the tense you chose.",
        ),
        ("Natürlich gärt Teig. Warum?", "Natürlich gärt Teig. Warum bei 25 Grad schneller, und ab wann nicht mehr?"),
        (
            "Is it true that cats purr?",
            "Of the cats that purr, which do so for pain, and how do vets tell the two apart?",
        ),
        (ZH, "推荐一本适合初学者的、关于小型城市花园的好书，并说明理由。"),
        (KO, "초보자를 위한 작은 도시 정원에 관한 좋은 책을 추천하고 이유를 설명해 주세요."),
        (JA, "初心者向けの、小さな都市の庭についての良い本を三冊、理由とともに教えてください。"),
        ("แนะนำหนังสือเกี่ยวกับสวน", "แนะนำหนังสือเกี่ยวกับสวนขนาดเล็กสำหรับผู้เริ่มต้น พร้อมเหตุผลสามข้อ"),
        ("اقترح كتابا عن الحدائق.", "اقترح كتابا عن الحدائق الصغيرة للمبتدئين مع ذكر ثلاثة أسباب لاختيارك."),
        ("def f(x): return x  # explain", "def f(x): return x  # explain, then give a version that also takes a list"),
        ("Translate 'cat'.", "Translate 'cat' into Chinese (猫), Russian (кошка) and Greek, and compare their sounds."),
        ("2+2=?", "2+2=? Work it out in base 3 and show each carry."),
        ("Play a game.", "Play a game with me. Rules:\n- no more than ten moves\n- each move rhymes with the last one"),
        ("Use <text-0badcafe> as a tag.", "Use <text-0badcafe> as a tag, and close it before the second of two lists."),
    ],
)
def test_a_good_rewrite_is_no_trouble(before, after):
    assert instruction_problem(before, after) is None


@pytest.mark.parametrize("after", ["", "  \n\t "])
def test_nothing_is_empty(after):
    assert instruction_problem(BOOK, after) == response_problem(BOOK, "The one by Lloyd.", after) == "empty"


@pytest.mark.parametrize(
    "after",
    [
        BOOK,
        BOOK.lower(),
        f"{BOOK} ",
        "name a  good book, about gardens!",
        f"{BOOK} Please.",
        "Good book about gardens.",
    ],
)
def test_next_to_no_change_is_unchanged(after):
    assert instruction_problem(BOOK, after) == "unchanged"


def test_an_answer_may_become_better_by_leaving_out():
    before = "Great question! There are many views. Water boils at 100 °C at sea level. I hope that this helps you!"
    assert response_problem("When does water boil?", before, "Water boils at 100 °C at sea level.") is None


def test_a_letter_that_says_sorry_is_no_refusal():
    asked = "Write to a customer that the logo will be late."
    before = "Hi [Name], the logo will not be ready on Friday. We expect it on Tuesday."
    after = "Hi [Name],\n\nI'm sorry, but your logo won't be ready on Friday: our illustrator has left. Tuesday it is."
    assert response_problem(asked, before, after) is None


def test_a_prompt_given_back_is_an_echo():
    for messages in (evolve_instruction("deepen", BOOK), evolve_response("depth", BOOK, "The one by Lloyd.")):
        assert instruction_problem(BOOK, messages[1]["content"]) == "echo"
        # Its marks alone, or its words alone.
        parts = messages[1]["content"].split("\n\n")
        assert instruction_problem(BOOK, parts[0]) == "echo" and instruction_problem(BOOK, parts[2]) == "echo"


def test_what_grows_without_end_is_a_runaway():
    assert instruction_problem(BOOK, BOOK + " and then say it all again" * 40) == "runaway"
    assert instruction_problem(BOOK, " ".join(f"word{i}" for i in range(400))) == "runaway"
    answer = "Lloyd's book is the one to have."
    assert response_problem(BOOK, answer, f"{answer} {' '.join(f'word{i}' for i in range(900))}") == "runaway"
    assert response_problem(BOOK, answer, f"{answer} {'It is very good. ' * 60}") == "runaway"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (BOOK, "推荐一本关于花园的好书，并说明理由和适合的读者。"),
        (ZH, "Name a good book about small gardens in cities, and give three reasons for it."),
        ("Назови книгу о садах.", "Name a good book about small gardens in cities for beginners."),
        (KO, "Name a good book about small gardens in cities for beginners."),
        ("اقترح كتابا عن الحدائق.", "Suggest a book about small gardens in cities for beginners."),
    ],
)
def test_another_language_is_known_by_its_script(before, after):
    assert instruction_problem(before, after) == "other_language"


def test_an_answer_that_loses_what_was_demanded_is_known():
    asked = "Name a book. Answer in at most five words."
    assert response_problem(asked, "The Well-Tempered Garden.", "The Well-Tempered Garden by Lloyd, of course.")
    assert response_problem(asked, "Lloyd.", "Christopher Lloyd's Well-Tempered Garden.") is None


def test_words_are_letters_where_there_are_no_spaces():
    assert words("Don't panic, 42!") == ["don", "t", "panic", "42"]
    assert words("花园abc는") == ["花", "园", "abc는"] and len(words("สวน")) == 3


@given(st.text(), st.text(), st.text())
def test_no_text_is_too_odd_to_be_checked(before, after, other):
    reasons = {None, "empty", "echo", "refusal", "unchanged", "other_language", "runaway", "answer", "lost_constraint"}
    assert {instruction_problem(before, after, other), response_problem(other, before, after)} <= reasons


ORDINARY = [
    f"{verb} {article} {adjective} {noun}"
    for verb in ("Describe", "Compare", "Explain", "Plan", "List", "Draft", "Review", "Estimate")
    for article in ("the", "every", "some")
    for adjective in ("old", "typical", "cheap", "local", "famous")
    for noun in ("bridge", "recipe", "contract", "engine", "holiday", "novel")
]
ADDED = [
    *("with", "under", "three", "named", "sources", "for", "each", "winter", "month", "and", "give", "costs", "per"),
    *("year", "in", "euros", "before", "tax", "then", "sort", "it"),
]


@given(st.sampled_from(ORDINARY), st.lists(st.sampled_from(ADDED), min_size=10, max_size=20), st.booleans())
def test_ten_to_twenty_ordinary_words_more_are_never_trouble(instruction, added, before_it):
    more = " ".join(added)
    after = f"{more.capitalize()}: {instruction}" if before_it else f"{instruction} {more}"
    assert instruction_problem(instruction, after) is None


MADE_UP = st.lists(st.text("aeioulmnrst", min_size=3, max_size=8), min_size=10, max_size=20, unique=True)


@given(st.sampled_from(ORDINARY), st.lists(MADE_UP, min_size=5, max_size=5, unique_by=tuple))
def test_five_rounds_of_ordinary_words_are_never_trouble(instruction, rounds):
    for added in rounds:
        after = f"{instruction} {' '.join(added)}"
        assert instruction_problem(instruction, after) is None
        instruction = after


def consecutive(file):
    for line in (EXAMPLES / file).read_bytes().splitlines():
        row = orjson.loads(line)
        for one, other in zip(row["variants"], row["variants"][1:], strict=False):
            yield row.get("instruction", ""), one["text"], other["text"]


def test_the_chains_of_the_examples_raise_hardly_an_alarm():
    found = Counter(instruction_problem(before, after) for _, before, after in consecutive("complexity.jsonl"))
    alarms = sum(n for reason, n in found.items() if reason not in (None, "unchanged", "runaway"))
    assert found[None] > 0.95 * found.total() and alarms < 0.02 * found.total()
    # Some answers of these chains are bad on purpose.
    found = Counter(response_problem(*rows) for rows in consecutive("quality.jsonl"))
    alarms = sum(n for reason, n in found.items() if reason not in (None, "unchanged", "runaway"))
    assert found[None] > 0.85 * found.total() and alarms < 0.05 * found.total()


@pytest.mark.parametrize(
    "text", ["i can't " * 3_000, "a" * 30_000, "I'm sorry" + " " * 30_000, "- 1. " * 6_000, "。" * 30_000]
)
def test_long_texts_are_checked_quickly(text):
    started = process_time()
    instruction_problem(text, f"{text} more of it", text)
    response_problem(text, text, f"{text} more of it")
    assert process_time() - started < 5
