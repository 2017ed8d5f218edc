"""Estimates the requests and the cost of an evolution, without sending requests."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import regex
from pydantic import BaseModel

from deita_core.config.settings import EvolutionSettings
from deita_core.evolution.chains import PASSING_REASONS, Seed, chain_prompt, seed_of
from deita_core.evolution.prompts import OPERATIONS, Messages, rank_variants
from deita_core.evolution.ranking import ranking_id
from deita_core.literals import Axis
from deita_core.reading.finding import aside_line
from deita_core.reading.pool import pool_streams
from deita_core.reading.rows import Reject
from deita_core.stages.evolution.run import EvolutionJob, choose_seeds, place_in_draw
from deita_core.stages.ingest import pool_files
from deita_core.store import Store
from deita_core.tables import CHAINS, RANKINGS

# Assumed growth per round: an operation asks for 10 to 20 more words, and an answer grows by about a quarter.
WORDS_ADDED = 15
ANSWER_GROWTH = 1.25
TOKENS_PER_WORD = 1.35
# One score in the requested format.
TOKENS_PER_SCORE = 14
_LETTER = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}]")


class EvolutionEstimate(BaseModel):
    """Counts of seeds and of remaining requests; tokens and cost are approximate."""

    seeds: dict[Axis, int]
    known: dict[Axis, int]
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    warnings: list[str]


def estimate_evolution(files: Sequence[str], settings: EvolutionSettings) -> EvolutionEstimate:
    """Read the seeds and compare them with the store; writes nothing and sends no requests."""
    seeds, warnings = _read_seeds(files, settings)
    job = choose_seeds(sorted(seeds.values(), key=lambda seed: place_in_draw(settings.draw, seed.id)), settings)
    store, known = Store(settings.store), {}
    requests = prompt = completion = 0
    for axis in job.seeds:
        chains = job.chains(axis)
        due = _due(store, job, axis)
        known[axis] = len(chains) - len(due.to_evolve)
        for chain, times in due.to_rank.items():
            rounds = job.settings.rounds if chain in due.to_evolve else 0
            sizes = _chain_sizes(job, axis, seeds[chains[chain]], rounds, times)
            requests, prompt, completion = requests + sizes[0], prompt + sizes[1], completion + sizes[2]
    return EvolutionEstimate(
        seeds={axis: len(ids) for axis, ids in job.seeds.items()},
        known=known,
        requests=requests,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cost=settings.llm.cost(prompt, completion),
        warnings=warnings,
    )


@dataclass(frozen=True)
class _Due:
    """Chains to evolve, and the number of rankings each chain still needs."""

    to_evolve: set[str]
    to_rank: dict[str, int]


def _due(store: Store, job: EvolutionJob, axis: Axis) -> _Due:
    chains = job.chains(axis)
    rows = store.fetch(CHAINS, "chain", list(chains), ["chain", "step", "status", "reason"])
    again = set(rows.filter(pl.col("reason").is_in(PASSING_REASONS))["chain"])
    evolved = rows.filter((pl.col("status") == "ok") & (pl.col("step") > 0))
    to_evolve = set(chains) - set(rows["chain"]) | again
    to_rank = sorted(to_evolve | set(evolved["chain"]))
    ranked = {(chain, 0) for chain in to_rank} | {(chain, 1) for chain in to_rank[: job.settings.audit]}
    ids = {ranking_id(job.judge(axis), chain, repeat): chain for chain, repeat in ranked}
    rankings = store.fetch(RANKINGS, "ranking", list(ids), ["ranking", "reason"])
    read = rankings.filter(~pl.col("reason").is_in(PASSING_REASONS).fill_null(False))["ranking"]
    lacking = Counter(chain for id_, chain in ids.items() if id_ not in set(read) or chain in to_evolve)
    return _Due(to_evolve, dict(lacking))


def _read_seeds(files: Sequence[str], settings: EvolutionSettings) -> tuple[dict[str, Seed], list[str]]:
    """The seeds by id, and a line for each file that is set aside."""
    seeds: dict[str, Seed] = {}
    found = pool_files(files, [settings.store])
    set_aside = dict(found.set_aside)
    for _, _, row in pool_streams(found, settings.reading, settings.limit, set_aside):
        if not isinstance(row, Reject):
            seeds.setdefault(row.conversation.id, seed_of(row.conversation))
    return seeds, [aside_line(sentence) for sentence in set_aside.values()]


def _chain_sizes(job: EvolutionJob, axis: Axis, seed: Seed, rounds: int, rankings: int) -> tuple[int, int, int]:
    """Requests, prompt tokens and completion tokens of a chain's rounds and rankings, if no attempt fails."""
    text = seed.text(axis)
    sizes = [_tokens(text)]
    for _ in range(job.settings.rounds):
        grown = sizes[-1] + WORDS_ADDED * TOKENS_PER_WORD if axis == "complexity" else sizes[-1] * ANSWER_GROWTH
        sizes.append(min(grown, job.settings.llm.max_tokens))
    asking = prompt_tokens(chain_prompt(axis, min(OPERATIONS[axis]), seed, "")) * rounds + sum(sizes[:rounds])
    instruction = seed.instruction if axis == "quality" else None
    ranking = prompt_tokens(rank_variants(axis, [""] * len(sizes), instruction)) + sum(sizes)
    written = sum(sizes[1 : rounds + 1]) + rankings * TOKENS_PER_SCORE * len(sizes)
    return rounds + rankings, round(asking + rankings * ranking), round(written)


def prompt_tokens(messages: Messages) -> float:
    """Approximate tokens of a prompt."""
    return sum(_tokens(message["content"]) for message in messages)


def _tokens(text: str) -> float:
    """Approximate tokens of a text: one per letter of a script without spaces, one per four other characters."""
    letters = len(_LETTER.findall(text))
    return letters + (len(text) - letters) / 4
