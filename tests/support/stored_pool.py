"""A pool of conversations read into a store, and its vectors."""

import json
from pathlib import Path

from deita_core.conversation import conversation
from deita_core.stages.encoding import encode_shard, load_encoder, plan_encoding
from deita_core.stages.ingest import describe_file, ingest_file, pool_ids
from deita_core.store import Store


class StoredPool:
    """Conversations, given as lists of (role, text), in a file and in a store; `rows` has them by id."""

    def __init__(self, folder: Path, rows, **fields):
        folder.mkdir(exist_ok=True)
        self.store, self.file = Store(folder / "store"), folder / "pool.jsonl"
        self.rows = {}
        self.add(rows, **fields)

    def add(self, rows, **fields):
        """Add conversations; `fields` has for each other field of a row the values of all of them."""
        with self.file.open("a", encoding="utf-8") as file:
            for i, row in enumerate(rows):
                told = [{"role": role, "content": text} for role, text in row]
                others = {name: values[i] for name, values in fields.items()}
                file.write(json.dumps({"messages": told, **others}) + "\n")
        self.rows |= {found.id: found for found in map(conversation, rows)}
        self.file_ids = [ingest_file(self.store, describe_file(str(self.file))).file_id]

    @property
    def ids(self):
        return pool_ids(self.store, self.file_ids)

    def encode(self, encoder):
        for shard in plan_encoding(self.store, encoder, self.file_ids):
            encode_shard(self.store, load_encoder(encoder), shard)
