"""Fine-tunes the base model on one subset, and measures it on the held-out answers and the weaker ones."""

import polars as pl

from deita_core.alignment.arms import ArmRun, batch_of, run_arm
from deita_core.config.proof import BASE, DEITA
from deita_core.errors import InputError
from deita_core.models.fine_tuning import Report
from deita_core.stages.ingest import pool_ids
from deita_core.stages.proof.job import SUBSETS_FILE, ProofJob
from deita_core.stages.proof.subsets import TokenReader
from deita_core.store import Store


def fine_tune_arm(store: Store, job: ProofJob, arm: str, seed: int, report: Report) -> ArmRun:
    """Fine-tune on one subset; the arm `base` is measured only. Raises InputError if nothing can be measured."""
    reader, training = TokenReader(store, job), job.settings.training
    measured = [row for _, rows in reader.rows(job.measured_ids(store)) for row in rows]
    if not {row.id for row in measured} & set(pool_ids(store, job.heldout)):
        raise InputError(f"{job.settings.heldout} has no answer within {training.max_tokens} tokens to be measured.")
    subsets = pl.read_parquet(job.folder(store) / SUBSETS_FILE).filter(seed=seed).sort("rank")
    ids = subsets.filter(arm=arm)["id"]
    # The arm full is seen once, for as many tokens as the epochs of the others.
    epochs = 1 if arm == "full" else training.epochs
    steps = -(-len(subsets.filter(arm=DEITA)) // training.batch) * training.epochs // epochs
    batch = training.batch if arm in (DEITA, BASE) else batch_of(len(ids), steps, training.micro_batch)
    settings = job.settings.fine_tuning(seed=seed, epochs=epochs, batch=batch)
    rows = [row for _, rows in reader.rows(ids) for row in rows]
    return run_arm(rows, measured, reader.tokenizer, settings, store.side / "proofs" / "trained", report)
