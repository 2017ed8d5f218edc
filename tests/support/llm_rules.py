"""The plain rules by which the test double of an endpoint evolves and ranks: no model, no judgement of any text.

A reply depends on the request alone: the same messages, temperature and seed get the same reply for ever.
"""

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

# Faults of content, by the kind of request they fit; they are the answer, and stay it however often it is asked.
ANY_FAULTS = ("refusal", "empty", "cut_off", "content_filter")
EVOLVE_FAULTS = ("echo", "unchanged", "runaway", "answer")
RANK_FAULTS = ("missing_score", "doubled_score", "out_of_range", "no_json", "fenced_json", "string_scores")
CONTENT_FAULTS = (*ANY_FAULTS, *EVOLVE_FAULTS, *RANK_FAULTS)

# By a word that only that operation's sentence has: beginnings and ends of a clause of 10 to 20 words.
CLAUSES = {
    "requirements": (
        ["Keep the whole of it below", "Make sure that it stays under", "Let no part of it go beyond"],
        ["words and name at least two exceptions", "lines and give a short reason for each choice"],
    ),
    "deepen": (
        ["Go on to explain what causes this and compare", "Say as well why it matters and weigh up"],
        ["consequences that most people would overlook", "limits beyond which it is no longer true"],
    ),
    "specific": (
        ["Take the case of a small bakery in Porto with", "Assume a hospital ward in Leeds that has"],
        ["people on a tight weekly budget", "machines that are more than ten years old"],
    ),
    "steps of reasoning": (
        ["First work out the total for", "Begin by finding the average over"],
        ["days, then use it to choose between both plans", "weeks, and from that derive the best order of work"],
    ),
}
SENTENCES = {
    "helpful": ["Start with the first step today and check the result after", "Set aside a quiet hour and plan for"],
    "relevant": ["What counts here is only the part that concerns", "All that the question calls for comes down to"],
    "deeper": [
        "The reason lies in how these parts act on each other over",
        "This holds as long as nothing changes for",
    ],
    "original": ["Think of it as a lighthouse that was built for", "Picture an orchestra that has to play with"],
    "detailed": ["A typical figure from practice would be about", "In one documented example this took roughly"],
}
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "As an AI language model, I am unable to do this.",
    "Es tut mir leid, aber dabei kann ich nicht helfen.",
    "Je suis désolé, mais je ne peux pas répondre à cette demande.",
    "Lo siento, no puedo ayudar con eso.",
    "对不起，我无法完成这个请求。",
    "申し訳ありませんが、お手伝いできません。",
    "죄송합니다. 그 요청은 도와드릴 수 없습니다.",
)
# Status, code and message of each refusal.
STATUSES = {
    "429": (429, "rate_limit_exceeded", "Rate limit reached."),
    "500": (500, "server_error", "The server had an error."),
    "503": (503, "overloaded", "The server is overloaded."),
    "quota": (429, "insufficient_quota", "You exceeded your current quota, check your plan and billing."),
    "401": (401, "invalid_api_key", "Incorrect API key provided: {key}. Find yours in your account."),
    "402": (402, "payment_required", "The balance of {key} is used up."),
    "403": (403, "forbidden", "The key {key} may not use this model."),
    "404": (404, "model_not_found", "The model {model} does not exist or you do not have access to it."),
    "413": (413, "too_large", "Request too large."),
    "too_long": (400, "context_length_exceeded", "This model's maximum context length is 4096 tokens."),
    "filtered_prompt": (400, "content_filter", "The prompt was filtered."),
    "400": (400, "invalid_request", "Something in this request is not right."),
}


@dataclass(frozen=True)
class Reply:
    """What is said, how it ended, and what was done: "good", or the fault."""

    text: str
    finish: str = "stop"
    did: str = "good"


def digest(*parts: object) -> str:
    """16 hex digits that depend on all parts."""
    return blake2b("\x00".join(map(str, parts)).encode(errors="replace"), digest_size=8).hexdigest()


def share(*parts: object) -> float:
    """A number in [0, 1) that depends on all parts."""
    return int(digest(*parts), 16) / 16**16


def drawn(shares: dict[str, float], fitting: Sequence[str], *parts: object) -> str | None:
    """The fault among those that fit which the parts draw by the shares, or None."""
    left = share(*parts)
    for name in fitting:
        left -= shares.get(name, 0.0)
        if left < 0:
            return name
    return None


def reply(prompt: str, key: str, shares: dict[str, float], noise: float) -> Reply:
    """The reply to the last message of a request known by `key`."""
    # The last line is ours whatever the texts hold, and so is the last mark of a text.
    if codes := re.findall(r"^</(?:instruction|answer)-([0-9a-f]{8})>\n\nThat was the material", prompt, re.MULTILINE):
        kind, make = RANK_FAULTS, lambda fault: _score(prompt, codes[-1], key, fault)
    elif codes := re.findall(r"<rewritten-([0-9a-f]{8})>", prompt.rpartition("\n")[2]):
        kind, make = EVOLVE_FAULTS, lambda fault: _evolution(prompt, codes[-1], key, fault)
    elif codes := re.findall(r"</text-([0-9a-f]{8})>", prompt):
        kind, make = RANK_FAULTS, lambda fault: _ranking(prompt, codes[-1], key, fault, noise)
    elif codes := re.findall(r"</answer(?:_b)?-([0-9a-f]{8})>", prompt):
        kind, make = RANK_FAULTS, lambda fault: _judgement(prompt, codes[-1], key, fault, noise)
    else:
        kind, make = (), lambda fault: f"You asked: {' '.join(prompt.split()[:8])} ({key[:6]})"
    fault = drawn(shares, (*ANY_FAULTS, *kind), "content", key)
    if fault == "content_filter":
        return Reply("", "content_filter", fault)
    if fault == "cut_off":
        text = make(None)
        return Reply(text[: len(text) // 2], "length", fault)
    text = {"refusal": REFUSALS[int(key, 16) % len(REFUSALS)], "empty": ""}.get(fault or "")
    return Reply(make(fault) if text is None else text, "stop", fault or "good")


def marked(prompt: str, name: str, code: str) -> str | None:
    """What stands between the marks of that name and code."""
    found = re.search(rf"<{name}-{code}>\n(.*)\n</{name}-{code}>", prompt, re.DOTALL)
    return found and found.group(1)


def _evolution(prompt: str, code: str, key: str, fault: str | None) -> str:
    answer = marked(prompt, "answer", code)
    text = (marked(prompt, "instruction", code) or "") if answer is None else answer
    order, chance = prompt.split("Rules:")[0], random.Random(key)
    bank = CLAUSES if answer is None else SENTENCES
    operation = next((word for word in bank if word in order), min(bank))
    new = {
        None: f"{text} {_clause(operation, answer is None, chance)}",
        "unchanged": text,
        "runaway": f"{text} {'And then say the same thing all over again. ' * 80}",
        "answer": f"Sure, here is the answer: {' '.join(text.split()[:12])} comes to {chance.randint(2, 99)} in all.",
    }
    if fault == "echo":
        return f"{order}Rules:\n- Add about 10 to 20 words.\n\n<instruction-{code}>\n{text}\n</instruction-{code}>"
    return f"<rewritten-{code}>\n{new[fault]}\n</rewritten-{code}>"


def _clause(operation: str, of_instruction: bool, chance: random.Random) -> str:
    """One clause of 10 to 20 words, or one or two sentences for an answer."""
    if of_instruction:
        begin, end = map(chance.choice, CLAUSES[operation])
        return f"{begin} {chance.randint(3, 999)} {end}, see note {chance.randint(10, 99)}."
    extent = chance.choice(["days of steady work", "people in one room", "attempts in a row", "kilometres of road"])
    first = f"{chance.choice(SENTENCES[operation])} {chance.randint(3, 999)} {extent}."
    return chance.choice([first, f"{first} Note {chance.randint(10, 99)} has more on this point for later."])


def _ranking(prompt: str, code: str, key: str, fault: str | None, noise: float) -> str:
    found = re.findall(rf"<text-{code} index=(\d+)>\n(.*?)\n</text-{code}>", prompt, re.DOTALL)
    indices, lengths = [int(index) for index, _ in found], [len(text) for _, text in found]
    ranks = {length: rank for rank, length in enumerate(sorted(set(lengths)))}
    scores = [1 + round(5 * ranks[length] / max(1, len(ranks) - 1)) for length in lengths]
    if noise:
        scores = [_shaken(score, noise, key, index) for index, score in zip(indices, scores, strict=True)]
    return _printed([{"index": i, "score": s} for i, s in zip(indices, scores, strict=True)], fault, int(key, 16))


def _score(prompt: str, code: str, key: str, fault: str | None) -> str:
    """A score from 1 to 6 by the length of the answer, or of the instruction where there is none."""
    text = marked(prompt, "answer", code) or marked(prompt, "instruction", code) or ""
    return _said("score", 1 + len(text) % 6, 1 + (len(text) + 1) % 6, (0, 7, 5.5, -3)[int(key, 16) % 4], fault)


def _judgement(prompt: str, code: str, key: str, fault: str | None, noise: float) -> str:
    """A score by the length of the last answer, or the longer of two; with the chance `noise` the first of two."""
    first, second = marked(prompt, "answer_a", code), marked(prompt, "answer_b", code)
    if first is None or second is None:
        [*_, answer] = re.findall(rf"<answer-{code} index=\d+>\n(.*?)\n</answer-{code}>", prompt, re.DOTALL)
        name, value, other = "score", 1 + len(answer) % 10, 2 + len(answer) % 9
        wrong: object = (0, 11, 7.5, -3)[int(key, 16) % 4]
    else:
        better = "tie" if len(first) == len(second) else "A" if len(first) > len(second) else "B"
        name, value, other = "better", "A" if share("first", key) < noise else better, "B" if better == "A" else "A"
        wrong = "C"
    return _said(name, value, other, wrong, fault)


def _said(name: str, value: object, other: object, wrong: object, fault: str | None) -> str:
    """A verdict as JSON, or what a fault makes of it."""
    said = json.dumps({"reason": "It is as long as it is.", name: wrong if fault == "out_of_range" else value})
    return {
        "no_json": "Both have their merits, and I would not like to choose.",
        "missing_score": json.dumps({"reason": "It is as long as it is."}),
        "doubled_score": f"{said}\n{json.dumps({'reason': 'Or not.', name: other})}",
        "fenced_json": f"Here it is:\n```json\n{said}\n```",
        "string_scores": json.dumps({"reason": "", name: str(value)}),
    }.get(fault or "", said)


def _shaken(score: int, noise: float, *parts: object) -> int:
    """A score that is one higher or lower with the chance `noise`, by where it was shown."""
    step = 0 if share("noise", *parts) >= noise else (1 if share("up", *parts) < 0.5 else -1)
    return min(6, max(1, score + step))


def _printed(scores: list[dict], fault: str | None, number: int) -> str:
    at = number % max(1, len(scores))
    if fault == "no_json":
        return "All of these texts are good in their own way, and the last ones are a little better."
    if fault == "missing_score":
        del scores[at]
    if fault == "doubled_score":
        scores.append({"index": scores[at]["index"], "score": scores[at]["score"] % 6 + 1})
    if fault == "out_of_range":
        scores[at]["score"] = (0, 7, 10, -1)[number % 4]
    if fault == "string_scores":
        scores = [{"index": str(entry["index"]), "score": str(entry["score"])} for entry in scores]
    printed = json.dumps({"scores": scores})
    return (
        f"Here are my scores:\n```json\n{printed}\n```\nTell me if more is wanted."
        if fault == "fenced_json"
        else printed
    )
