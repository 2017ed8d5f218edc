"""One proof: its settings, the files it reads, and where its subsets and losses are kept."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
from pydantic import BaseModel, ConfigDict

from deita_core.config.proof import ProofSettings
from deita_core.conversation import Conversation, content_id, stored_conversation
from deita_core.stages.ingest import pool_ids
from deita_core.stages.job import Job
from deita_core.store import Store
from deita_core.tables import SAMPLES

SUBSETS_FILE, OVERLAPS_FILE, PAIRS_FILE = "subsets.parquet", "overlaps.parquet", "pairs.parquet"
# Rows whose texts are read at a time.
BLOCK = 1_024


class ProofJob(BaseModel):
    """What a proof depends on: the selection, and the files of held-out answers, weaker ones, and other arms."""

    model_config = ConfigDict(frozen=True)

    selection: Job
    settings: ProofSettings
    heldout: tuple[str, ...]
    weaker: tuple[str, ...] = ()
    arms: dict[str, tuple[str, ...]] = {}

    @property
    def trained_files(self) -> tuple[str, ...]:
        """The files whose rows may be trained on."""
        return tuple(
            dict.fromkeys([*self.selection.file_ids, *(file for files in self.arms.values() for file in files)])
        )

    @property
    def encoded_files(self) -> tuple[str, ...]:
        """The files whose rows need vectors."""
        return tuple(dict.fromkeys([*self.trained_files, *self.heldout]))

    def folder(self, store: Store) -> Path:
        """The folder of the subsets."""
        key = content_id(self.model_dump_json(exclude={"selection": {"run_id"}}).encode())
        return store.side / "proofs" / key

    def measured_ids(self, store: Store) -> pl.Series:
        """The ids of the held-out answers and the weaker ones."""
        return pool_ids(store, [*self.heldout, *self.weaker])


def conversations(
    store: Store, ids: pl.Series, places: pl.DataFrame | None = None
) -> Iterator[tuple[str, Conversation]]:
    """Samples by id, in the order of the ids, with the id of each."""
    for block in ids.to_frame("id").iter_slices(BLOCK):
        samples = store.fetch(SAMPLES, "id", block["id"], ["id", "messages", "extra"], places)
        for id_, messages, extra in block.join(samples, on="id", maintain_order="left").iter_rows():
            yield id_, stored_conversation(messages, extra)
