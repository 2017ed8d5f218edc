"""Checks that detect an unusable rewritten text."""

from collections import Counter

import regex

from deita_core.evolution.constraints import lost_constraint
from deita_core.evolution.prompts import HEADINGS, MARK

# A word, or one letter in scripts without spaces between words.
_SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Khmer}\p{Lao}\p{Myanmar}"
_WORD = regex.compile(rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+", regex.VERSION1)
# With fewer new words than this (for an answer: new or removed words) a text counts as unchanged.
FEWEST_NEW_WORDS = 3
# An operation asks for 10 to 20 more words; an answer may become several times longer.
MOST_NEW_WORDS = 120
MOST_ANSWER_WORDS = 400
MOST_ANSWER_GROWTH = 4
# Refusals come at the start of a reply; "I am sorry" further on may be part of a letter or story.
OPENING = 160
LATEST_REFUSAL = 40

_REFUSALS = regex.compile(
    r"""(?ix)
    \bi(?:['’]m|\ am)\ (?:very\ |so\ |really\ )?(?:sorry|afraid)\b.{0,40}\b(?:can|could|unable|not|but)|
    \bi(?:['’]m|\ am)\ (?:not\ able|unable|not\ allowed)\ to\b|
    \b(?:i|we)\ (?:can(?:no|['’])t|can\ not|won['’]t|will\ not|must\ decline)\b
        .{0,40}\b(?:help|assist|comply|provide|rewrite|fulfil|do|create|answer|write|continue|support)|
    \bas\ an?\ (?:ai|artificial|language)\b.{0,60}\b(?:can|unable|not)|
    \b(?:es\ tut\ mir\ leid|tut\ mir\ leid|leider\ kann\ ich|ich\ kann\ (?:dir|ihnen|dabei|das)\b.{0,30}\bnicht)|
    (?:je\ suis\ désolé|désolée?,|je\ ne\ peux\ pas|je\ ne\ suis\ pas\ en\ mesure)|
    (?:lo\ siento|no\ puedo\ (?:ayudar|cumplir|hacer|responder)|me\ temo\ que\ no)|
    (?:mi\ dispiace|non\ posso\ (?:aiutar|soddisfare|fornire))|
    (?:sinto\ muito|lamento|não\ posso\ (?:ajudar|fornecer|atender)|desculpe,)|
    (?:het\ spijt\ me|ik\ kan\ (?:je|u|dat|niet).{0,30}niet)|
    (?:przykro\ mi|nie\ mogę\ (?:pomóc|spełnić))|
    (?:к\ сожалению,?\ (?:я\ )?не|извините|простите|я\ не\ могу)|
    (?:üzgünüm|yardımcı\ olamam)|
    (?:对不起|對不起|很抱歉|抱歉[，,]|我无法|我無法|我不能(?:帮|幫|提供|回答|协助))|
    (?:申し訳(?:ありません|ございません)|ごめんなさい|お手伝いできません|お答えできません)|
    (?:죄송합니다|도와드릴\ 수\ 없|제공할\ 수\ 없)|
    (?:آسف|أعتذر|لا\ أستطيع|لا\ يمكنني)|
    (?:क्षमा\ करें|मुझे\ खेद\ है)
    """
)
_ANSWERS = regex.compile(
    r"""(?ix)^\W*(?:
    (?:sure|certainly|of\ course|absolutely|great\ question|good\ question)\b\s*[,!.:—-]|
    the\ (?:correct\ |final\ |short\ )?answer\ (?:is|to)\b|
    here(?:['’]s|\ is|\ are)\ (?:the|an?|my|your|some|one|\d+)\b.{0,40}[:.]\s|
    let(?:['’]s|\ us)\ (?:solve|break|start|begin|go\ through)\b|
    to\ (?:solve|answer)\ this\b|
    (?:gerne|natürlich|selbstverständlich)\b\s*[,!.:]|hier\ (?:ist|sind)\ |
    (?:bien\ sûr|certainement)\b\s*[,!.:]|voici\ |
    (?:claro|por\ supuesto)\b\s*[,!.:]|aquí\ (?:está|tienes|hay)|
    (?:certo|certamente)\b\s*[,!.:]|ecco\ |
    (?:com\ certeza|claro\ que\ sim)\b\s*[,!.:]|
    (?:конечно|разумеется)\b\s*[,!.:]|вот\ |
    (?:好的|当然|當然|以下是|答案是|没问题)|
    (?:はい、|もちろん|以下は|以下に|承知)|
    (?:네,|물론|다음은)
    )"""
)
_SCRIPTS = {
    "Latin": r"\p{Latin}",
    "Cyrillic": r"\p{Cyrillic}",
    "Greek": r"\p{Greek}",
    "Arabic": r"\p{Arabic}",
    "Hebrew": r"\p{Hebrew}",
    "Devanagari": r"\p{Devanagari}",
    "Thai": r"\p{Thai}",
    "Korean": r"\p{Hangul}",
    # Japanese uses both scripts.
    "Chinese or Japanese": r"[\p{Han}\p{Hiragana}\p{Katakana}]",
}
_LETTERS = {name: regex.compile(pattern) for name, pattern in _SCRIPTS.items()}


def words(text: str) -> list[str]:
    """Return the words in lower case; in scripts without spaces, the letters."""
    return _WORD.findall(text.casefold())


def refuses(text: str) -> bool:
    """Whether a reply begins with a refusal, in one of the languages of _REFUSALS."""
    found = _REFUSALS.search(text[:OPENING])
    before = text[: found.start()] if found else ""
    return bool(found) and len(before) <= LATEST_REFUSAL and not regex.search(r"[\n\"“„«「'‘]", before)


def instruction_problem(before: str, after: str, response: str = "") -> str | None:
    """Return why `after` is not a more complex instruction than `before`, or None; `response` answers the seed."""
    if trouble := _common_trouble(before, after):
        return trouble
    old, new = words(before), words(after)
    if (Counter(new) - Counter(old)).total() < FEWEST_NEW_WORDS:
        return "unchanged"
    if len(new) > len(old) + max(MOST_NEW_WORDS, len(old)) or _repeats(new, old):
        return "runaway"
    if _ANSWERS.search(after) and not _ANSWERS.search(before):
        return "answer"
    return "answer" if _copies(new, words(response), old) else None


def response_problem(instruction: str, before: str, after: str) -> str | None:
    """Return why `after` is not a better version of the response `before`, or None."""
    if trouble := _common_trouble(before, after):
        return trouble
    old, new = words(before), words(after)
    # Removing what the question does not ask for is also an improvement.
    if (Counter(new) - Counter(old)).total() + (Counter(old) - Counter(new)).total() < FEWEST_NEW_WORDS:
        return "unchanged"
    if len(new) > MOST_ANSWER_GROWTH * len(old) + MOST_ANSWER_WORDS or _repeats(new, old):
        return "runaway"
    return "lost_constraint" if lost_constraint(instruction, before, after) else None


def _common_trouble(before: str, after: str) -> str | None:
    if not after.strip():
        return "empty"
    if set(MARK.findall(after)) - set(MARK.findall(before)) or any(h in after and h not in before for h in HEADINGS):
        return "echo"
    if refuses(after) and not refuses(before):
        return "refusal"
    return "other_language" if _changes_script(before, after) else None


def _changes_script(before: str, after: str) -> bool:
    """Whether nearly all letters belonged to one script and few still do."""
    for letters in _LETTERS.values():
        old = len(letters.findall(before))
        if old > 0.8 * _all_letters(before) and old >= FEWEST_NEW_WORDS:
            return len(letters.findall(after)) < 0.2 * _all_letters(after)
    return False


def _all_letters(text: str) -> int:
    return sum(c.isalpha() for c in text)


def _repeats(new: list[str], old: list[str]) -> bool:
    """Whether a text repeats itself although the previous text did not."""
    return len(new) >= 60 and _distinct(new) < 0.5 and _distinct(old) >= 0.5


def _distinct(found: list[str]) -> float:
    triples = _triples(found)
    return len(set(triples)) / len(triples) if triples else 1.0


def _copies(new: list[str], response: list[str], old: list[str]) -> bool:
    """Whether most of the added text is copied from the known answer."""
    added = set(_triples(new)) - set(_triples(old))
    return len(added) >= 8 and len(added & set(_triples(response))) > 0.5 * len(added)


def _triples(found: list[str]) -> list[tuple[str, ...]]:
    return list(zip(found, found[1:], found[2:], strict=False))
