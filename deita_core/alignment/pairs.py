"""Reads preference pairs from any file with a preferred and a rejected answer, as tokens."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from deita_core.alignment.chat import IGNORED, UnusableRowError, sequences
from deita_core.alignment.rows import DroppedRow, TrainingRow
from deita_core.conversation import Conversation
from deita_core.errors import InputError
from deita_core.reading.options import ReadOptions
from deita_core.reading.pool import expand, stream_file
from deita_core.reading.rows import Reject, Sample


class Pair(NamedTuple):
    """Two answers to one prompt, as token ids; `id` is that of the conversation with the preferred one."""

    id: str
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]

    def row(self, chosen: bool) -> TrainingRow:
        """The prompt with one of the answers, which carries loss."""
        answer = self.chosen_ids if chosen else self.rejected_ids
        return TrainingRow(self.id, [*self.prompt_ids, *answer], [*[IGNORED] * len(self.prompt_ids), *answer])

    @property
    def n_tokens(self) -> int:
        """Tokens that a step computes: the prompt twice, and both answers."""
        return 2 * len(self.prompt_ids) + len(self.chosen_ids) + len(self.rejected_ids)


@dataclass(frozen=True)
class PreparedPairs:
    """Pairs to train on; how many of them were cut; lines that are not trained on."""

    pairs: list[Pair]
    cut: int
    dropped: list[DroppedRow]


def read_pairs(data: str, tokenizer: Any, max_tokens: int, limit: int | None = None) -> PreparedPairs:
    """Read rows with prompt, chosen and rejected, as texts or messages, or with whole conversations.

    A pair whose prompt leaves no room for its answers is dropped. Raises InputError if no pair is left.
    """
    pairs, cut, dropped = list[Pair](), 0, list[DroppedRow]()
    for file, line, found in _both(data, limit):
        if isinstance(found, str):
            dropped.append(DroppedRow(file, line, found))
            continue
        try:
            pair, was_cut = _pair(tokenizer, *found, max_tokens)
        except UnusableRowError as error:
            dropped.append(DroppedRow(file, line, str(error)))
            continue
        pairs.append(pair)
        cut += was_cut
    if not pairs:
        why = f"; {dropped[0].file}, line {dropped[0].line}: {dropped[0].reason}" if dropped else ""
        raise InputError(f"There is no pair of answers in {data}; give rows with chosen and rejected{why}.")
    return PreparedPairs(pairs, cut, dropped)


def sample_pairs(pairs: Sequence[Pair], count: int | None, seed: int) -> list[Pair]:
    """Draw `count` pairs at random, all of them if there are no more; in their order."""
    if count is None or count >= len(pairs):
        return list(pairs)
    drawn = random.Random(f"pairs {seed}").sample(range(len(pairs)), count)  # noqa: S311
    return [pairs[i] for i in sorted(drawn)]


def _both(data: str, limit: int | None) -> Iterator[tuple[str, int, tuple[Conversation, Conversation] | str]]:
    """Each row's two conversations, or why it has none."""
    options = ReadOptions(preference="both")
    for file in expand(data):
        chosen: Sample | None = None
        for row in stream_file(file, options, limit):
            if isinstance(row, Reject):
                yield file, row.line, row.detail or row.reason
            elif row.side == "chosen":
                chosen = row
            elif row.side == "rejected" and chosen is not None and chosen.line == row.line:
                yield file, row.line, (chosen.conversation, row.conversation)
                chosen = None
            else:
                yield file, row.line, "it has no chosen and rejected answer"


def _pair(tokenizer: Any, chosen: Conversation, rejected: Conversation, max_tokens: int) -> tuple[Pair, bool]:
    n = sum(1 for _ in _shared(chosen, rejected))
    if not all(len(side.messages) == n + 1 and side.messages[n].role == "assistant" for side in (chosen, rejected)):
        raise UnusableRowError("its two conversations differ in more than their last answer")
    (better, cut), (worse, also_cut) = (_last(tokenizer, side, max_tokens, n) for side in (chosen, rejected))
    if better[0] != worse[0]:
        raise UnusableRowError("the chat template renders the prompt differently before its two answers")
    return Pair(chosen.id, better[0], better[1], worse[1]), cut or also_cut


def _shared(chosen: Conversation, rejected: Conversation) -> Iterator[Any]:
    for one, other in zip(chosen.messages, rejected.messages, strict=False):
        if one != other:
            return
        yield one


def _last(tokenizer: Any, side: Conversation, max_tokens: int, first: int) -> tuple[tuple[list[int], list[int]], bool]:
    """The ids before the last answer and those of it, and whether it was cut."""
    *_, (tokens, was_cut) = sequences(tokenizer, side, max_tokens, first)
    start = next(i for i, label in enumerate(tokens.labels) if label != IGNORED)
    return (tokens.ids[:start], [label for label in tokens.labels if label != IGNORED]), was_cut
