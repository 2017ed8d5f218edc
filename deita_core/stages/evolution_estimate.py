"""What an evolution would ask and what that would cost, without asking anything."""

from collections.abc import Sequence

import regex
from pydantic import BaseModel

from deita_core.evolution.chains import Seed, chain_prompt, seed_of
from deita_core.evolution.prompts import OPERATIONS, Messages, rank_variants
from deita_core.layouts import Reject
from deita_core.readers import stream_file
from deita_core.scorers.heads import Axis
from deita_core.settings import EvolutionSettings
from deita_core.stages.evolving import EvolutionJob, choose_seeds, place_in_draw
from deita_core.stages.ingest import pool_files
from deita_core.store import Store
from deita_core.tables import CHAINS

# What a round is taken to do: an operation asks for 10 to 20 words more, and an answer grows by about a quarter.
WORDS_ADDED = 15
ANSWER_GROWTH = 1.25
TOKENS_PER_WORD = 1.35
# A score in the form that is asked for.
TOKENS_PER_SCORE = 14
_LETTER = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}]")


class EvolutionEstimate(BaseModel):
    """Counts of seeds and of what is still to be asked; tokens and cost are about right, not exact."""

    seeds: dict[Axis, int]
    known: dict[Axis, int]
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


def estimate_evolution(files: Sequence[str], settings: EvolutionSettings) -> EvolutionEstimate:
    """Read the seeds and compare them with the store; nothing is written and nothing asked."""
    seeds = _read_seeds(files, settings)
    job = choose_seeds(sorted(seeds.values(), key=lambda seed: place_in_draw(settings.draw, seed.id)), settings)
    store, known = Store(settings.store), {}
    requests = prompt = completion = 0
    for axis, ids in job.seeds.items():
        done = set(store.fetch(CHAINS, "chain", list(job.chains(axis)), ["chain"])["chain"])
        waiting = [seeds[seed] for chain, seed in job.chains(axis).items() if chain not in done]
        known[axis] = len(ids) - len(waiting)
        for nth, seed in enumerate(waiting):
            sizes = _chain_sizes(job, axis, seed, audited=nth < settings.audit)
            requests, prompt, completion = requests + sizes[0], prompt + sizes[1], completion + sizes[2]
    return EvolutionEstimate(
        seeds={axis: len(ids) for axis, ids in job.seeds.items()},
        known=known,
        requests=requests,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cost=settings.llm.cost(prompt, completion),
    )


def _read_seeds(files: Sequence[str], settings: EvolutionSettings) -> dict[str, Seed]:
    seeds: dict[str, Seed] = {}
    left = settings.limit
    for file in pool_files(files, [settings.store]):
        if left == 0:
            break
        for row in stream_file(file, settings.layout, left):
            left = None if left is None else left - 1
            if not isinstance(row, Reject):
                seeds.setdefault(row.conversation.id, seed_of(row.conversation))
    return seeds


def _chain_sizes(job: EvolutionJob, axis: Axis, seed: Seed, audited: bool) -> tuple[int, int, int]:
    """Requests, prompt tokens and answer tokens of one chain and its ranking, if every round works at once."""
    rounds, text = job.settings.rounds, seed.text(axis)
    sizes = [_tokens(text)]
    for _ in range(rounds):
        grown = sizes[-1] + WORDS_ADDED * TOKENS_PER_WORD if axis == "complexity" else sizes[-1] * ANSWER_GROWTH
        sizes.append(min(grown, job.settings.llm.max_tokens))
    asking = _prompt_tokens(chain_prompt(axis, min(OPERATIONS[axis]), seed, "")) * rounds + sum(sizes[:-1])
    instruction = seed.instruction if axis == "quality" else None
    ranking = _prompt_tokens(rank_variants(axis, [""] * len(sizes), instruction)) + sum(sizes)
    rankings = 2 if audited else 1
    written = sum(sizes[1:]) + rankings * TOKENS_PER_SCORE * len(sizes)
    return rounds + rankings, round(asking + rankings * ranking), round(written)


def _prompt_tokens(messages: Messages) -> float:
    return sum(_tokens(message["content"]) for message in messages)


def _tokens(text: str) -> float:
    """Tokens of a text, roughly: a letter of a script without spaces is one, four of the others are."""
    letters = len(_LETTER.findall(text))
    return letters + (len(text) - letters) / 4
