"""Planted leaks of a benchmark: how many the two detectors of contamination find, by kind, and what else they take.

    python -m benchmarks.leaks [--pool FILE] [--rows 10000] [--planted 100] [--encoded 2000] [--encoder NAME]

The benchmark is half of the authored instructions of examples/evolution; the other half with its answers is the pool,
or the first `--rows` rows of a file. Into it go `--planted` rows, equally many of each kind, each with a question that
no other has. Shared words: 13 in a row, or all of a text of 5 to 12. Vectors: the highest cosine of a question to a
message of the user; for these only `--encoded` rows of the pool are read.
"""

import random
from argparse import ArgumentParser
from collections.abc import Callable
from time import process_time
from typing import NamedTuple

import numpy as np
import orjson

from deita_core.config.folders import example_chains
from deita_core.conversation import Conversation, conversation
from deita_core.models.encoder_spec import LAPTOP_ENCODER, find_encoder
from deita_core.models.static_encoder import load_text_encoder
from deita_core.reading.pool import stream_file
from deita_core.reading.rows import Sample
from deita_core.selection.overlap import RunIndex, normalized_words, runs_of
from deita_core.selection.words import text_blocks

FILES = ("quality.jsonl", "quality_contrast.jsonl", "held_out_quality.jsonl")
SIMILARITIES = (0.8, 0.85, 0.9, 0.95)
ANSWER = "Here is how I would go about it, step by step, and what to look out for."


class Authored(NamedTuple):
    """An instruction and one of its answers."""

    question: str
    answer: str


def main() -> None:
    parser = ArgumentParser(prog="python -m benchmarks.leaks")
    parser.add_argument("--pool")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--planted", type=int, default=100)
    parser.add_argument("--encoded", type=int, default=2_000)
    parser.add_argument("--encoder", default=LAPTOP_ENCODER)
    given = parser.parse_args()
    draw = random.Random(0)
    authored = read_authored()
    draw.shuffle(authored)
    held, others = authored[: len(authored) // 2], authored[len(authored) // 2 :]
    pool = read_rows(given.pool, given.rows) if given.pool else [talk(*each) for each in others]
    planted = plant([each.question for each in held], others, given.planted, draw)
    questions = [each.question for each in held]
    print(f"{len(questions)} questions, {len(pool):,} rows, {len(planted)} planted ones")
    report("shared words", by_words(questions, pool), by_words(questions, [row for _, row in planted]), planted)
    by_vectors(given.encoder, questions, pool[: given.encoded], planted)


def read_authored() -> list[Authored]:
    """The instructions of the examples, each with its first answer."""
    found = dict[str, str]()
    for name in FILES:
        for line in (example_chains() / name).read_bytes().splitlines():
            row = orjson.loads(line)
            found.setdefault(row["instruction"], row["variants"][0]["text"])
    return [Authored(*pair) for pair in found.items()]


def read_rows(file: str, rows: int) -> list[Conversation]:
    """The first rows of a file that are conversations."""
    return [row.conversation for row in stream_file(file, limit=rows) if isinstance(row, Sample)]


def talk(question: str, answer: str) -> Conversation:
    return conversation([("user", question), ("assistant", answer)])


def reformatted(question: str, draw: random.Random) -> str:
    """Markdown around it, other quotes and case, and a line break every few words."""
    words = question.upper().replace("'", "\N{RIGHT SINGLE QUOTATION MARK}").split()
    lines = [" ".join(words[start : start + 6]) for start in range(0, len(words), 6)]
    return "## Task\n\n**" + "**\n- **".join(lines) + "** ..."


def one_word_changed(question: str, draw: random.Random) -> str:
    words = question.split()
    words[draw.randrange(len(words))] = "something"
    return " ".join(words)


def other_white_space(question: str, draw: random.Random) -> str:
    """Full-width letters, and tabs, no-break and ideographic spaces between the words."""
    wide = question.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F)})
    return "".join(draw.choice("\t\u00a0\u3000\u2009") if letter == " " else letter for letter in wide)


def plant(
    questions: list[str], others: list[Authored], count: int, draw: random.Random
) -> list[tuple[str, Conversation]]:
    """Rows that hold a question of the benchmark, with the kind of each."""
    changes: dict[str, Callable[[str, random.Random], str]] = {
        "verbatim": lambda question, _: question,
        "reformatted": reformatted,
        "white space": other_white_space,
        "one word changed": one_word_changed,
    }
    kinds = [*changes, "in a longer prompt", "in a longer answer"]
    rows = []
    for place, question in enumerate(draw.sample(questions, min(count, len(questions)))):
        kind, other = kinds[place % len(kinds)], draw.choice(others)
        if kind in changes:
            row = talk(changes[kind](question, draw), ANSWER)
        elif kind == "in a longer prompt":
            row = talk(f"{other.question} When you are done, answer this too: {question} Keep it short.", ANSWER)
        else:
            row = talk(other.question, f"{other.answer}\n\nYou might ask next: {question}\n\n{ANSWER}")
        rows.append((kind, row))
    return rows


def by_words(questions: list[str], rows: list[Conversation]) -> np.ndarray:
    """A mask of the rows that share words with a question; prints the speed and the size of the index."""
    started = process_time()
    index = RunIndex(runs_of(questions, range(len(questions))))
    made = process_time() - started
    owners = np.array([place for place, row in enumerate(rows) for _ in row.messages])
    started, found, before = process_time(), np.zeros(len(rows), bool), 0
    for block in text_blocks(message.text for row in rows for message in row.messages):
        found[owners[before + index.find(block)["text"].to_numpy()]] = True
        before += len(block)
    seconds = process_time() - started
    words = sum(len(normalized_words(question)) for question in questions)
    print(
        f"index of {words:,} words: {index.nbytes / 1e3:,.0f} kB, made in {made:.2f} s; {len(rows):,} rows in "
        f"{seconds:.2f} s of one core, {len(rows) / max(seconds, 1e-9):,.0f} rows/s"
    )
    return found


def by_vectors(
    name: str, questions: list[str], pool: list[Conversation], planted: list[tuple[str, Conversation]]
) -> None:
    """Report what the cosines of the user's messages find."""
    encoder = load_text_encoder(find_encoder(name))
    asked = encoder.encode(questions).vectors
    rows = [*pool, *(row for _, row in planted)]
    said = [
        (place, message.text) for place, row in enumerate(rows) for message in row.messages if message.role == "user"
    ]
    owners, texts = zip(*said, strict=True)
    similarity = np.full(len(rows), -1.0)
    np.maximum.at(similarity, np.array(owners), (encoder.encode(texts).vectors @ asked.T).max(axis=1))
    for least in SIMILARITIES:
        found = similarity >= least
        report(f"cosine {least}", found[: len(pool)], found[len(pool) :], planted)


def report(detector: str, pool: np.ndarray, found: np.ndarray, planted: list[tuple[str, Conversation]]) -> None:
    """Print the recall by kind, and how many rows of the pool are taken as well."""
    kinds = dict.fromkeys(kind for kind, _ in planted)
    recall = {
        kind: np.mean([hit for hit, (other, _) in zip(found, planted, strict=True) if other == kind]) for kind in kinds
    }
    named = ", ".join(f"{kind} {share:.2f}" for kind, share in recall.items())
    print(f"{detector}: {named}; other rows {pool.sum():,} of {len(pool):,}")


if __name__ == "__main__":
    main()
