"""Small pools of rows, and a folder in which one is selected from, grows and is updated."""

import json
from pathlib import Path

import orjson
import polars as pl

from deita_core.config.settings import RemovalSettings, SelectionSettings
from deita_core.store import Store
from deita_core.tables import SAMPLES

ALPACA = [
    {"instruction": instruction, "input": context, "output": output}
    for instruction, context, output in [
        ("Name three ways to save water at home.", "", "Fix leaks, shower briefly, and run full loads."),
        ("Explain recursion to a child.", "", "To clean a room, clean half of it, then the rest the same way."),
        ("Translate to French.", "The cat sleeps.", "Le chat dort."),
        ("Why is the sky blue?", "", "Air scatters short waves of light more, so blue reaches us from everywhere."),
        ("What is 15% of 80?", "", "12, because 10% is 8 and 5% is 4."),
        (
            "Ask a landlord to repair a tap.",
            "",
            "Dear Ms Hansen, our tap drips. Could you send a plumber? Kind regards",
        ),
        ("Give a recipe for pancakes.", "", "Whisk 2 eggs, 250 ml milk and 150 g flour, rest, fry thinly in butter."),
    ]
]


def talk(question, answer, **fields):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **fields}


MESSAGES = [
    talk("Sort [3, 1, 2] in Python.", "```python\nsorted([3, 1, 2])\n```", level=2),
    talk(ALPACA[4]["instruction"], ALPACA[4]["output"], level=1),
    talk("Summarise Hamlet.", "A prince avenges his father, hesitates too long, and nearly everyone dies.", level=5),
]


TOOL_TALK = {
    "messages": [
        {"role": "user", "content": "What is the weather in Oslo?"},
        {"role": "assistant", "content": '{"name": "weather", "city": "Oslo"}'},
        {"role": "tool", "content": '{"celsius": -3}'},
        {"role": "assistant", "content": "It is minus three degrees in Oslo, so take a warm coat and gloves."},
    ]
}


MORE = [
    talk("List the planets in order.", "Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus, Neptune."),
    talk("Write a haiku about rain.", "Rain taps on the roof / the gutter hums a low song / a cat counts the drops"),
    talk("How do I undo a git commit?", "git reset --soft HEAD~1 keeps the changes; --hard discards them."),
]


FURTHER = [
    {"instruction": "What does HTTP 404 mean?", "output": "The server has nothing at that address."},
    {"instruction": "Name a noble gas.", "output": "Argon."},
]


class Place:
    """A folder with a pool, a store and results."""

    def __init__(self, folder: Path):
        self.folder, self.pool = folder, folder / "pool"
        self.store, self.out = folder / "store", folder / "out"
        self.pool.mkdir(parents=True)

    def write(self, name, rows):
        (self.pool / name).parent.mkdir(parents=True, exist_ok=True)
        (self.pool / name).write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        return self

    def settings(self, **settings):
        return SelectionSettings(store=str(self.store), **settings)

    def select(self, pool=None, out=None, **settings):
        from flows.selection import select

        return select([str(pool or self.pool)], str(out or self.out), self.settings(**settings))

    def update(self, *pool, **settings):
        from flows.selection import update

        return update([str(path) for path in pool], str(self.out), self.settings(**settings))

    def remove(self, **settings):
        from flows.maintenance import remove

        return remove(str(self.store), RemovalSettings(**settings))

    def from_scratch(self, **settings):
        """The same pool selected from in a store that knows nothing."""
        fresh = Place.__new__(Place)
        fresh.folder, fresh.pool = self.folder / "fresh", self.pool
        fresh.store, fresh.out = fresh.folder / "store", fresh.folder / "out"
        fresh.select(**settings)
        return fresh

    def lines(self, name="selected.jsonl"):
        return [json.loads(line) for line in (self.out / name).read_text(encoding="utf-8").splitlines()]

    @property
    def decisions(self):
        return pl.read_parquet(self.out / "decisions.parquet")

    def id_of(self, text):
        frame = Store(self.store).read(SAMPLES, ["id", "messages"])
        [found] = [id_ for id_, messages in frame.iter_rows() if text in messages[0]["content"]]
        return found

    def holds(self, text):
        """Files of the store that hold these bytes."""
        return [path for path in self.store.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]
