"""Evolves seeds to chains and ranks chains, shard by shard, with a store and a language model endpoint."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

import orjson
import polars as pl
from pydantic import BaseModel, ConfigDict

from deita_core.config.settings import EvolutionSettings
from deita_core.conversation import content_id, stored_conversation
from deita_core.evolution.chains import PASSING_REASONS, Seed, chain_id, evolve_chain, seed_of
from deita_core.evolution.prompts import EVOLVE_VERSION, RANK_VERSION
from deita_core.evolution.ranking import rank_chain, ranking_id
from deita_core.literals import Axis
from deita_core.llm.client import LLM
from deita_core.stages.ingest import pool_ids
from deita_core.stages.shards import Shard, plan_shards, read_shard
from deita_core.store import Store
from deita_core.tables import CHAINS, RANKINGS, SAMPLES, Table

# The last chains of a shard do not fill all concurrent requests, so shards are few, with thousands of requests each.
CHAINS_PER_SHARD = 500


class EvolutionJob(BaseModel):
    """One evolution: its settings and its seeds by axis."""

    model_config = ConfigDict(frozen=True)

    settings: EvolutionSettings
    seeds: dict[Axis, tuple[str, ...]]

    @property
    def id(self) -> str:
        """Id under which the job's responses are cached and its spend is counted."""
        parts = {"seeds": self.seeds, "axes": {axis: (self.evolution(axis), self.judge(axis)) for axis in self.seeds}}
        return content_id(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS))

    def evolution(self, axis: Axis) -> str:
        """Id of everything that a chain depends on, except the seed."""
        chosen = self.settings.model_dump(include={"rounds", "tries", "draw"})
        return self._id("evolve", axis, self.settings.llm.model, version=EVOLVE_VERSION, **chosen)

    def judge(self, axis: Axis) -> str:
        """Id of everything that a ranking depends on, except the chain."""
        llm = self.settings.llm
        return self._id("rank", axis, llm.judge or llm.model, version=RANK_VERSION, draw=self.settings.draw)

    def chains(self, axis: Axis) -> dict[str, str]:
        """The seed of each of the axis' chains."""
        evolution = self.evolution(axis)
        return {chain_id(evolution, seed): seed for seed in self.seeds[axis]}

    def _id(self, step: str, axis: Axis, model: str, **parts: Any) -> str:
        asked = self.settings.llm.model_dump(include={"temperature", "seed", "max_tokens", "structured"})
        return content_id(orjson.dumps([step, axis, model, asked, parts], option=orjson.OPT_SORT_KEYS))


def draw_seeds(store: Store, file_ids: Sequence[str], settings: EvolutionSettings) -> EvolutionJob:
    """Draw seeds from the samples of some files; see `choose_seeds`."""
    ids = sorted(pool_ids(store, file_ids).to_list(), key=partial(place_in_draw, settings.draw))
    batches = (ids[start : start + settings.seeds] for start in range(0, len(ids), settings.seeds))
    return choose_seeds((seed for batch in batches for seed in read_seeds(store, batch)), settings)


def place_in_draw(draw: int, sample_id: str) -> str:
    """The sort key of the draw: a hash, so that a growing pool changes few seeds."""
    return content_id(f"{draw}:{sample_id}".encode())


def choose_seeds(drawn: Iterable[Seed], settings: EvolutionSettings) -> EvolutionJob:
    """The first `settings.seeds` samples drawn with distinct first turns, for each axis."""
    found: dict[Axis, dict[str, str]] = {axis: {} for axis in settings.axes}
    for seed in drawn:
        for axis, seeds in found.items():
            asked = seed.instruction if axis == "complexity" else f"{seed.instruction}\x00{seed.response}"
            if len(seeds) < settings.seeds:
                seeds.setdefault(asked, seed.id)
        if all(len(seeds) == settings.seeds for seeds in found.values()):
            break
    return EvolutionJob(settings=settings, seeds={axis: tuple(seeds.values()) for axis, seeds in found.items()})


def read_seeds(store: Store, ids: Sequence[str]) -> list[Seed]:
    """Seeds of samples, in the order of the ids."""
    rows = store.fetch(SAMPLES, "id", ids, ["id", "messages", "extra"]).iter_rows()
    seeds = {id_: seed_of(stored_conversation(messages, extra)) for id_, messages, extra in rows}
    return [seeds[id_] for id_ in ids]


def plan_evolution(store: Store, job: EvolutionJob, axis: Axis) -> list[Shard]:
    """Shards of the seeds without a chain; chains that ended without a response are started again."""
    chains = job.chains(axis)
    forget_unanswered(store, CHAINS, "chain", list(chains))
    work = pl.DataFrame({"id": list(chains), "owner": list(chains.values()), "size": [1] * len(chains)})
    return plan_shards(store, "evolve", CHAINS, work, CHAINS_PER_SHARD)


def plan_ranking(store: Store, job: EvolutionJob, axis: Axis) -> list[Shard]:
    """Shards of the chains without a ranking, and of those to rank a second time for the audit."""
    ranked = [(chain, 0) for chain in usable_chains(store, job, axis)]
    ranked += [(chain, 1) for chain, _ in sorted(ranked)[: job.settings.audit]]
    judge = job.judge(axis)
    ids = [ranking_id(judge, chain, repeat) for chain, repeat in ranked]
    forget_unanswered(store, RANKINGS, "ranking", ids)
    owners = [f"{chain}:{repeat}" for chain, repeat in ranked]
    work = pl.DataFrame(
        {"id": ids, "owner": owners, "size": [1] * len(ids)},
        schema={"id": pl.String, "owner": pl.String, "size": pl.Int64},
    )
    return plan_shards(store, "rank", RANKINGS, work, CHAINS_PER_SHARD)


def forget_unanswered(store: Store, table: Table, column: str, ids: Sequence[str]) -> None:
    """Delete rows of requests that got no response, so that they are sent again."""
    unanswered = store.fetch(table, "reason", list(PASSING_REASONS), [column])[column].unique()
    again = unanswered.filter(unanswered.is_in(list(ids)))
    if table is CHAINS:
        # Rankings first, so that after a kill between the two the chain is found again.
        store.delete_rows(RANKINGS, column, again.to_list())
    store.delete_rows(table, column, again.to_list())


def usable_chains(store: Store, job: EvolutionJob, axis: Axis) -> list[str]:
    """Chains with at least one successful round, so that there are variants to compare."""
    rows = store.fetch(CHAINS, "chain", list(job.chains(axis)), ["chain", "step", "status"])
    return sorted(rows.filter((pl.col("status") == "ok") & (pl.col("step") > 0))["chain"].unique())


def evolve_shard(store: Store, job: EvolutionJob, axis: Axis, shard: Shard, key: str) -> int:
    """Evolve a shard's seeds and write their chains; returns their number.

    Raises LLMError if the endpoint fails; chains finished before that are written.
    """
    seeds = read_seeds(store, _waiting(store, CHAINS, shard))
    evolution, chosen = job.evolution(axis), job.settings

    def evolve(llm: LLM, seed: Seed) -> Awaitable[list[dict[str, Any]]]:
        return evolve_chain(
            llm, axis, evolution, seed, rounds=chosen.rounds, tries=chosen.tries, draw=chosen.draw
        )  # fmt: skip

    return asyncio.run(_ask_all(store, CHAINS, job, key, evolve, seeds))


def rank_shard(store: Store, job: EvolutionJob, axis: Axis, shard: Shard, key: str) -> int:
    """Rank a shard's chains and write the rankings; returns their number. Raises as `evolve_shard`."""
    owners = [owner.split(":") for owner in _waiting(store, RANKINGS, shard)]
    texts = chain_texts(store, [chain for chain, _ in owners])
    seed_of_chain = job.chains(axis)
    seeds = {seed.id: seed for seed in read_seeds(store, sorted({seed_of_chain[chain] for chain, _ in owners}))}

    def rank(llm: LLM, owner: list[str]) -> Awaitable[list[dict[str, Any]]]:
        chain, repeat = owner
        instruction = seeds[seed_of_chain[chain]].instruction if axis == "quality" else None
        return rank_chain(
            llm, axis, job.judge(axis), chain, texts[chain], instruction, draw=job.settings.draw, repeat=int(repeat)
        )

    return asyncio.run(_ask_all(store, RANKINGS, job, key, rank, owners))


def _waiting(store: Store, table: Table, shard: Shard) -> list[str]:
    """The owners of a shard's missing rows; an interrupted shard has some rows already."""
    work = read_shard(store, shard)
    return work.filter(pl.col("id").is_in(store.missing(table, work["id"]).implode()))["owner"].to_list()


def chain_texts(store: Store, chains: Sequence[str]) -> dict[str, list[str]]:
    """The variants of each chain, the seed's text first."""
    rows = store.fetch(CHAINS, "chain", list(dict.fromkeys(chains)), ["chain", "step", "text", "status"])
    good = (
        rows.filter(pl.col("status") == "ok").sort("chain", "step").group_by("chain", maintain_order=True).agg("text")
    )
    return dict(good.iter_rows())


async def _ask_all(
    store: Store,
    table: Table,
    job: EvolutionJob,
    key: str,
    ask: Callable[[LLM, Any], Awaitable[list[dict[str, Any]]]],
    items: Sequence[Any],
) -> int:
    """Send all items concurrently, within the client's limits, and write the rows of those that succeeded."""
    async with LLM(job.settings.llm, key, store.side, job.id) as llm:
        results = await asyncio.gather(*(ask(llm, item) for item in items), return_exceptions=True)
    done = [rows for rows in results if not isinstance(rows, BaseException)]
    store.write(table, pl.DataFrame([row for rows in done for row in rows], schema=table.empty().schema))
    for failure in results:
        if isinstance(failure, BaseException):
            raise failure
    return len(done)
