"""The language of texts and conversations, on sentences written for this test."""

import polars as pl
import pytest

from deita_core.literals import LANGUAGES
from deita_core.reading.language import CHARS, languages, languages_said
from tests.support.languages import HELD_OUT, SENTENCES

FENCED = "```python\nfor line in lines:\n    print(line.strip())\n```"


def wrong(sentences):
    said = [(code, text) for code, texts in sentences.items() for text in texts]
    found = languages([text for _, text in said])
    return [(code, got, text) for (code, text), got in zip(said, found, strict=True) if got != code], len(said)


@pytest.mark.parametrize("sentences", [SENTENCES, HELD_OUT], ids=["chosen on", "held out"])
def test_at_most_one_sentence_in_fifty_gets_another_language(sentences):
    mistaken, count = wrong(sentences)
    assert len(sentences) == 16
    assert len(mistaken) <= count / 50, mistaken


@pytest.mark.parametrize("code", sorted(SENTENCES))
def test_no_answer_of_a_sentence_gets_another_language(code):
    answers = [*SENTENCES[code][6:], *HELD_OUT[code][2:]]
    assert languages(answers) == [code] * 8


@pytest.mark.parametrize(
    "text",
    ["", " \n", "12345", "3.14159, 2.71828", "2024-05-01 10:00", "!!!", "😀😀", "$x^2 + y^2 = z^2$", "A",
     "x = np.zeros((3, 4)); y = x.T @ x", '<div class="row"><p>12</p></div>', "https://example.com/wie-geht-es-dir",
     FENCED, FENCED.removesuffix("```"), "`git push --force`"],
)  # fmt: skip
def test_what_is_no_sentence_has_no_language(text):
    assert languages([text]) == [None]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"Was macht dieses Programm?\n{FENCED}", "de"),
        (f"{FENCED}\n\nこのコードを説明してください。", "ja"),
        ("Quelle est la différence entre `git fetch` et `git pull` ?", "fr"),
        ("Resume https://example.com/the-weather-of-today-is-nice en dos frases, por favor.", "es"),
        ("WIE KOCHE ICH EIN WEICHES EI?", "de"),
        ("What does the French sentence 'Je ne sais pas' mean?", "en"),
    ],
)
def test_code_and_addresses_do_not_count(text, code):
    assert languages([text]) == [code]


def test_only_the_beginning_of_a_text_is_read():
    german = " ".join(SENTENCES["de"])
    assert len(german) > CHARS
    assert languages([german + " ".join(SENTENCES["en"] * 20)]) == ["de"]


def test_texts_get_the_same_languages_in_any_order_and_company():
    texts = [text for texts in SENTENCES.values() for text in texts]
    alone = [languages([text])[0] for text in texts]
    assert languages(texts) == alone
    assert languages(texts[::-1]) == alone[::-1]


def test_every_language_told_apart_has_a_code_of_two_letters():
    assert all(len(code) == 2 and code.isalpha() for code in LANGUAGES)
    assert len(set(LANGUAGES)) == len(LANGUAGES)
    assert set(SENTENCES) <= set(LANGUAGES)


def said(*conversations):
    rows = [(owner, text) for owner, texts in enumerate(conversations) for text in texts]
    frame = pl.DataFrame(rows, schema={"owner": pl.Int64, "text": pl.String}, orient="row")
    return dict(languages_said(frame).iter_rows())


def test_a_conversation_has_the_language_in_which_most_is_said():
    english, german, chinese = SENTENCES["en"], SENTENCES["de"], SENTENCES["zh"]
    found = said(
        [english[0], german[6], german[7]],
        [german[0], english[6]],
        [f"{english[0]}\n{FENCED * 30}", german[6]],
        ["12345", FENCED],
        [chinese[8], english[4]],
    )
    assert found == {0: "de", 1: "en", 2: "de", 3: None, 4: "zh"}


def test_an_answer_counts_with_all_its_letters():
    english, german = " ".join(SENTENCES["en"] * 3), " ".join(SENTENCES["de"])
    assert len(german) > CHARS
    assert said([german, english]) == {0: "en"}


def test_a_likely_language_counts_more_than_an_unlikely_one():
    # The question alone is taken for Slovene, with a probability of about a third.
    assert languages(["best pizza in naples??"]) == ["sl"]
    assert said(["best pizza in naples??", "all of them lol"]) == {0: "en"}


def test_conversations_without_messages_are_not_made_up():
    assert said() == {}
