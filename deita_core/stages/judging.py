"""What judges have been and would be asked: the spread of their votes, why replies are unreadable, tokens and cost."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import polars as pl
from pydantic import BaseModel

from deita_core.conversation import Conversation
from deita_core.literals import Axis
from deita_core.llm.cache import FILE, Answers
from deita_core.scorers import ScorerFiles
from deita_core.scorers.causal import is_readable
from deita_core.scorers.judge_prompts import UNREAD, judge_text
from deita_core.scorers.judged import Judge, find_judge, judge_named
from deita_core.scorers.prompts import texts_of
from deita_core.stages.evolution.estimate import prompt_tokens
from deita_core.stages.ingest import pool_ids
from deita_core.stages.turns import NEEDED, joined_turns, read_messages, turns_of
from deita_core.store import Store
from deita_core.tables import SAMPLES, scores_table

# A reason of one sentence and a score; reasoning models write many times as much.
TOKENS_PER_REPLY = 60
# Samples whose texts are in memory at once.
SAMPLES_AT_ONCE = 2_048


class JudgeEstimate(BaseModel):
    """The requests that one judge would get; tokens and cost are approximate, the cost None without prices."""

    axis: Axis
    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


@dataclass
class JudgeCount:
    """Counts what a judge would be asked about a pool, given one conversation at a time."""

    files: ScorerFiles
    judge: Judge
    # Requests of each conversation by id, with their tokens.
    _asked: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, sample: Conversation) -> None:
        """Count a conversation, once however often it is given."""
        if sample.id in self._asked:
            return
        asked = self._asked.setdefault(sample.id, {})
        for turn in sample.turns_with(self.files.reasoning):
            texts = texts_of(self.files.axis, turn.instruction, turn.response)
            if all(map(is_readable, texts)):
                size = prompt_tokens(judge_text(self.files.axis, texts))
                asked |= {request.id: size for request in self.judge.requests(self.files.axis, texts)}

    def estimate(self, store: Store) -> JudgeEstimate:
        """What is neither scored nor answered in the store; sends and writes nothing."""
        due = store.missing(scores_table(self.files.slug), pl.Series(sorted(self._asked), dtype=pl.String))
        asked = {id_: size for sample in due for id_, size in self._asked[sample].items()}
        if (store.side / FILE).exists():
            with closing(Answers(store.side)) as answers:
                asked = {id_: size for id_, size in asked.items() if answers.get(id_) is None}
        prompt, written = sum(asked.values()), TOKENS_PER_REPLY * len(asked)
        return JudgeEstimate(
            axis=self.files.axis,
            model=self.judge.settings.model,
            requests=len(asked),
            prompt_tokens=round(prompt),
            completion_tokens=written,
            cost=self.judge.settings.cost(prompt, written),
        )


def judge_counts(scorers: Sequence[ScorerFiles]) -> list[JudgeCount]:
    """A count for each judge among the scorers."""
    judges = [scorer for scorer in scorers if scorer.kind == "judge"]
    return [JudgeCount(one, find_judge(one.name, one.axis, one.votes, one.limits)) for one in judges]


def vote_spreads(store: Store, scorers: Sequence[ScorerFiles], ids: Sequence[str] | pl.Series) -> pl.DataFrame:
    """The spread of the votes of one axis's judges about all turns of samples: id, turn, and AXIS_spread.

    With several scorers the columns have the number of the judge among them, as AXIS_spread_2.
    """
    found = pl.DataFrame(schema={"id": pl.String, "turn": pl.Int32})
    for number, scorer in enumerate(scorers, start=1):
        if scorer.kind == "judge" and scorer.votes > 1:
            name = f"{scorer.axis}_spread" + (f"_{number}" if len(scorers) > 1 else "")
            rows = store.fetch(scores_table(scorer.slug), "id", ids, ["id", "turn", "spread"])
            found = found.join(rows.rename({"spread": name}), on=["id", "turn"], how="full", coalesce=True)
    return found


def unread_turns(store: Store, scorer: ScorerFiles, ids: Sequence[str] | pl.Series) -> pl.DataFrame:
    """The turns of samples that a judge gave no score, and why, by its kept replies: id, turn, reason (`Unread`)."""
    rows = store.read(scores_table(scorer.slug), ["id", "turn"], "status = 'unreadable'")
    rows = rows.filter(pl.col("id").is_in(pl.Series(ids, dtype=pl.String).implode())).sort("id", "turn")
    found = [pl.DataFrame(schema={"id": pl.String, "turn": pl.Int32, "reason": pl.String})]
    if not rows.is_empty():
        parts = rows.with_columns(part=pl.col("id").rle_id() // SAMPLES_AT_ONCE).partition_by("part")
        with closing(Answers(store.side)) as kept:
            found += [_with_reasons(store, scorer, part, kept) for part in parts]
    return pl.concat(found)


def _with_reasons(store: Store, scorer: ScorerFiles, rows: pl.DataFrame, kept: Answers) -> pl.DataFrame:
    samples = store.fetch(SAMPLES, "id", rows["id"], NEEDED).sort("id")
    turns = joined_turns(turns_of(read_messages(samples, scorer.reasoning)))
    turns = turns.with_columns(samples["id"].gather(turns["owner"])).join(rows, on=["id", "turn"], how="semi")
    judge = judge_named(scorer.name, scorer.axis, scorer.votes)
    reasons = [
        judge.why_unread(scorer.axis, texts_of(scorer.axis, instruction, response), kept)
        for instruction, response in turns.select("instruction", "response").iter_rows()
    ]
    return turns.select("id", "turn").with_columns(reason=pl.Series(reasons, dtype=pl.String))


def unread_lines(store: Store, scorers: Sequence[ScorerFiles], file_ids: Sequence[str]) -> Iterator[str]:
    """A sentence for each judge among the scorers that gave turns of a pool no score: how many, and why."""
    for scorer in scorers:
        if scorer.kind != "judge":
            continue
        reasons = Counter(unread_turns(store, scorer, pool_ids(store, file_ids))["reason"])
        if reasons:
            why = ", ".join(f"{UNREAD[reason]} ({n:,})" for reason, n in reasons.most_common())
            yield f"No {scorer.axis} score from {scorer.name} for {reasons.total():,} turns: {why}."
