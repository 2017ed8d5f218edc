"""Measures a pool without a selection: exports its scores, and calibrates thresholds."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from deita_core.conversation import content_id
from deita_core.errors import InputError
from deita_core.export.placing import check_folder, place_file
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.scorers import ScorerFiles
from deita_core.selection.calibration import Calibration, calibrate
from deita_core.stages.candidates import candidate_vectors
from deita_core.stages.ingest import pool_ids
from deita_core.stages.judging import vote_spreads
from deita_core.stages.turn_scores import turn_scores
from deita_core.store import Store
from deita_core.tables import SOURCES


def pool_scores(store: Store, file_ids: Sequence[str], scorers: Sequence[ScorerFiles]) -> pl.DataFrame:
    """One row per turn: id, turn, what `turn_scores` and `vote_spreads` have of each axis, first file and line."""
    ids = pool_ids(store, file_ids).to_list()
    table = pl.DataFrame(schema={"id": pl.String, "turn": pl.Int32})
    for axis in dict.fromkeys(scorer.axis for scorer in scorers):
        of_axis = [scorer for scorer in scorers if scorer.axis == axis]
        for scores in (turn_scores(store, of_axis, ids), vote_spreads(store, of_axis, ids)):
            table = table.join(scores, on=["id", "turn"], how="full", coalesce=True)
    position = pl.DataFrame({"file_id": file_ids}).with_row_index("nth")
    sources = store.fetch(SOURCES, "file_id", list(file_ids), ["sample_id", "file_id", "file", "line"])
    first = sources.join(position, on="file_id").sort("nth", "line").unique("sample_id", keep="first")
    placed = table.join(first.select(id="sample_id", file="file", line="line", nth="nth"), on="id", how="left")
    return placed.sort("nth", "line", "turn").drop("nth")


def export_scores(store: Store, file_ids: Sequence[str], scorers: Sequence[ScorerFiles], out: Path) -> dict[str, int]:
    """Write the pool's scores as .parquet, .csv or .jsonl, by the file extension; returns counts of the statuses."""
    check_scores_file(out)
    table = pool_scores(store, file_ids, scorers)
    write: dict[str, Callable[[Path], Any]] = {
        ".parquet": table.write_parquet,
        ".csv": table.write_csv,
        ".jsonl": table.write_ndjson,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    place_file(out, write[out.suffix])
    statuses = pl.concat([table.select(status=name) for name in table.columns if name.endswith("_status")])
    return dict(statuses.group_by("status").len().sort("status").iter_rows())


def check_scores_file(out: Path) -> None:
    """Raise InputError unless the file extension is .parquet, .csv or .jsonl and the folder is writable."""
    if out.suffix not in (".parquet", ".csv", ".jsonl"):
        raise InputError(f"{out} does not say what to write; end its name in .parquet, .csv or .jsonl.")
    check_folder(out.parent)


def calibrate_pool(
    store: Store, file_ids: Sequence[str], encoder: EncoderFiles, keep: float, samples: int
) -> Calibration:
    """Calibrate on a number of samples of the pool, drawn in the order of a hash."""
    ids = pool_ids(store, file_ids).to_list()
    drawn = sorted(ids, key=lambda id_: content_id(id_.encode()))[:samples]
    candidates = pl.DataFrame({"id": drawn}, schema={"id": pl.String})
    blocks = [vectors for _, vectors in candidate_vectors(store, encoder, candidates)]
    return calibrate(np.concatenate(blocks) if blocks else np.zeros((0, encoder.dim), np.float32), keep)
