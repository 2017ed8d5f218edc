"""Prints the explanation of a row. Its texts are data: what is no printable character does not reach the terminal."""

from collections.abc import Sequence

from deita_core.literals import Unread
from deita_core.scorers.judge_prompts import UNREAD
from deita_core.stages.explaining import AtTheCut, Beside, Explanation, Place

# Characters of a message, and messages; --json has all.
CHARS = 600
MESSAGES = 6
PLACES = 3
# Characters of a row's beginning, and digits of its id, on one line.
WORDS = 60
DIGITS = 10


def print_explanation(found: Explanation) -> None:
    """Print the row, its scores, its fate, what is most like it and what would have it selected."""
    print(f"{found.id or 'no id'}  {_places(found.places)}")
    for message in found.messages[:MESSAGES]:
        print(f"\n{message['role']}:")
        print(_printable(message["content"], CHARS))
    if len(found.messages) > MESSAGES:
        print(f"\n({len(found.messages) - MESSAGES:,} more messages)")
    print(
        f"\nfate       {found.fate.replace('_', ' ')}{': ' + _printable(found.reason, CHARS) if found.reason else ''}"
    )
    if found.rank is not None:
        print(f"rank       {found.rank:,}")
    if found.score is not None:
        axes = f"complexity {_number(found.complexity)}, quality {_number(found.quality)}"
        print(f"score      {found.score:.4f} ({axes})")
    for turn in found.turns:
        complexity = _scored(turn.complexity, turn.complexity_status, turn.complexity_unread)
        quality = _scored(turn.quality, turn.quality_status, turn.quality_unread)
        print(f"  turn {turn.turn + 1}   complexity {complexity}, quality {quality}")
    print(f"threshold  {found.threshold}, budget {found.budget or 'none'}")
    print(f"selected?  {found.would_be_selected}")
    if found.nearest:
        print("the most similar selected rows, first of those that rank higher:")
    for other in found.nearest:
        where = f"{other.id[:DIGITS]}  {_places(other.places)}"
        print(f"  {other.similarity:.4f}  rank {other.rank:>7,}  {where}  {_printable(other.begins[:WORDS])}")
    for seen in found.snapshots:
        rank = "" if seen.rank is None else f", rank {seen.rank:,}"
        print(f"snapshot {seen.snapshot}: {seen.fate.replace('_', ' ')}{rank}")


def print_at_the_cut(found: AtTheCut) -> None:
    """Print the rows nearest the cut, a line for each."""
    if found.cut_by == "budget":
        print(f"The budget cuts at the score {found.cut:.4f}.\n\nThe last selected:")
    else:
        print(f"The budget was not filled, so the threshold {found.cut} cuts.\n\nSelected, just below the threshold:")
    _print_rows(found.selected)
    print("\nThe first left out:" if found.cut_by == "budget" else "\nNear-duplicates, just above it:")
    _print_rows(found.left_out)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _print_rows(rows: Sequence[Beside]) -> None:
    for row in rows:
        similarity = "      " if row.similarity is None else f"{row.similarity:.4f}"
        print(
            f"  rank {row.rank:>7,}  score {row.score:8.4f}  similarity {similarity}  {row.id[:DIGITS]}  "
            f"{_places([row.place])}  {_printable(row.begins[:WORDS])}"
        )
    if not rows:
        print("  none")


def _places(places: Sequence[Place]) -> str:
    more = f" and {len(places) - PLACES:,} more" if len(places) > PLACES else ""
    return ", ".join(f"{_printable(place.file)}:{place.line}" for place in places[:PLACES]) + more


def _scored(score: float | None, status: str | None, unread: Unread | None) -> str:
    shown = "none" if score is None else f"{score:.2f}"
    if status in (None, "ok"):
        return shown
    return f"{shown} ({status}: {UNREAD[unread]})" if unread else f"{shown} ({status})"


def _printable(text: str, chars: int = 1_000) -> str:
    shown = "".join(c for c in text[:chars] if c.isprintable() or c == "\n")
    return shown + (f" … ({len(text) - chars:,} more characters)" if len(text) > chars else "")
