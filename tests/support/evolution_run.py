"""Seeds, and an evolution step by step as the flow takes it but without Prefect: what several test files share."""

import asyncio
import json
import random
from pathlib import Path

import polars as pl

from deita_core.config.settings import EvolutionSettings
from deita_core.evolution.chains import Seed
from deita_core.llm.cache import Usage, usage_of
from deita_core.llm.client import LLM, LLMSettings
from deita_core.llm.traffic import Traffic
from deita_core.stages.evolution.export import evolution_report, export_chains
from deita_core.stages.evolution.run import draw_seeds, evolve_shard, plan_evolution, plan_ranking, rank_shard
from deita_core.stages.ingest import describe_file, ingest_file
from deita_core.store import Store
from deita_core.tables import CHAINS, RANKINGS

KEY = "sk-evolution-0123456789-very-secret"
VERBS = ["Describe", "Plan", "Compare", "Explain", "Sketch", "Review", "Outline", "Judge"]
THINGS = [
    "a bakery",
    "the harbour",
    "an old clock",
    "a school garden",
    "the night train",
    "a beehive",
    "the farm",
]
PLACES = ["Porto", "Leeds", "Oslo", "Turin", "Ghent", "Graz"]


def seed_row(n):
    draw = random.Random(n)
    verb, thing, place = (draw.choice(words) for words in (VERBS, THINGS, PLACES))
    # Lengths differ, so that the plain rule of the server's judge has something to tell.
    more = " ".join(draw.sample([*THINGS, *PLACES], draw.randint(1, 5)))
    return {
        "instruction": f"{verb} {thing} of {place}, as in case {n} of {draw.randint(1_000, 9_999)}.",
        "output": f"It is about {more}, which number {n} shows on page {draw.randint(10, 999)}.",
    }


def write_seeds(file, n, first=0):
    """A file of so many different seeds; returns its path."""
    file.write_text("".join(json.dumps(seed_row(i)) + "\n" for i in range(first, first + n)))
    return file


def seed(n=0, **changes):
    """A seed as it comes out of a store."""
    row = seed_row(n)
    return Seed(**{"id": f"{n:032x}", "instruction": row["instruction"], "response": row["output"], **changes})


def llm_settings(url, **more):
    """Of a patient client in a hurry."""
    return LLMSettings(**{"base_url": url, "model": "m", "first_pause": 0.01, "timeout": 10, **more})


def with_llm(url, folder, ask, key=KEY, **settings):
    """What `ask` makes of a client."""

    async def run():
        async with LLM(llm_settings(url, **settings), key, Path(folder), "job") as llm:
            return await ask(llm)

    return asyncio.run(run())


class Evolution:
    """An evolution over a store in a folder; every step can be taken again, against another server or otherwise."""

    def __init__(self, folder, files, url, llm=None, **settings):
        self.store, self.files = Store(folder), files
        llm = llm_settings(url, **(llm or {}))
        self.settings = EvolutionSettings(
            llm=llm, store=str(folder), **{"axis": "complexity", "rounds": 2, "audit": 0, **settings}
        )
        ids = [ingest_file(self.store, describe_file(str(file))).file_id for file in files]
        self.job = draw_seeds(self.store, ids, self.settings)

    def usage(self):
        return usage_of(self.store.side, self.job.id)

    def evolve(self):
        return [
            evolve_shard(self.store, self.job, axis, shard, KEY)
            for axis in self.settings.axes
            for shard in plan_evolution(self.store, self.job, axis)
        ]

    def rank(self):
        return [
            rank_shard(self.store, self.job, axis, shard, KEY)
            for axis in self.settings.axes
            for shard in plan_ranking(self.store, self.job, axis)
        ]

    def run(self):
        self.evolve()
        self.rank()
        return self

    def report(self):
        return evolution_report(self.store, self.job, self.usage(), Usage(), Traffic(), {})

    def export(self, folder):
        return export_chains(self.store, self.report(), Path(folder))

    @property
    def chains(self):
        return self.store.read(CHAINS).sort("chain", "step", "attempt")

    @property
    def rankings(self):
        return self.store.read(RANKINGS).sort("ranking", "step")

    def texts(self, beginning):
        """The good texts of the chain whose seed begins so."""
        found = self.chains.filter(pl.col("status") == "ok")
        chain = found.filter((pl.col("step") == 0) & pl.col("text").str.starts_with(beginning))["chain"].item()
        return found.filter(pl.col("chain") == chain)["text"].to_list()


def lines(file):
    """The rows of a JSON Lines file."""
    return [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]


def holders(folder, text):
    """The files below a folder that hold a text, as bytes; the folder has to have files."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    assert files
    return [path for path in files if text.encode() in path.read_bytes()]
