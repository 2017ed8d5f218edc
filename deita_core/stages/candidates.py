"""Reads the vectors of a selection's candidates."""

from collections.abc import Iterator

import numpy as np
import polars as pl

from deita_core.errors import StoreError
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.stages.encoding import encoder_table, mean_vectors
from deita_core.stages.turns import as_read
from deita_core.store import Store
from deita_core.tables import SAMPLES

# Candidates whose vectors are read at a time: 0.1 GB with 4,096 dimensions.
BLOCK = 8_192


def candidate_vectors(
    store: Store, encoder: EncoderFiles, candidates: pl.DataFrame
) -> Iterator[tuple[list[str], np.ndarray]]:
    """The candidates' (id) conversation vectors, in order and in blocks: ids, (n, d) float32.

    A conversation's vector is the mean of its nonblank messages' vectors, weighted by their characters.
    """
    table = encoder_table(encoder)
    rows, places = store.row_ids(table, "text_id"), store.row_ids(SAMPLES, "id")
    for block in candidates.select("id").iter_slices(BLOCK):
        ids = block["id"].to_list()
        if encoder.kind == "causal":
            yield ids, store.vectors(table, ids, rows)
            continue
        samples = store.fetch(SAMPLES, "id", block["id"], ["id", "message_index"], places)
        samples = block.join(as_read(samples, encoder.reasoning), on="id", how="left", maintain_order="left")
        if lacking := samples["message_index"].null_count():
            raise StoreError(f"The store {store.uri} lacks {lacking:,} samples of the pool; run the command again.")
        yield ids, mean_vectors(store, encoder, samples, rows)


def all_vectors(store: Store, encoder: EncoderFiles, candidates: pl.DataFrame) -> np.ndarray:
    """The candidates' (id) conversation vectors (n, d) float32, all in memory."""
    parts = [vectors for _, vectors in candidate_vectors(store, encoder, candidates)]
    return np.concatenate(parts) if parts else np.zeros((0, encoder.dim), np.float32)
