"""A static encoder from the laptop encoder's own word embeddings, heads for it, and the bare work of a selection."""

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from time import perf_counter

import numpy as np
import polars as pl

from benchmarks.tiny import make_head
from deita_core.models.encoder_spec import find_encoder
from deita_core.selection import DiversitySelector

BATCH = 1_024
BLOCK = 4_096


def make_static_models(folder: Path) -> dict[str, str]:
    """Write the encoder and a head with random weights for each axis; returns them as settings."""
    from safetensors.numpy import load_file
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
    from tokenizers import Tokenizer

    laptop = find_encoder().path
    weights = load_file(laptop / "model.safetensors")
    table = next(value for name, value in weights.items() if name.endswith("word_embeddings.weight"))
    tokenizer = Tokenizer.from_file(str(laptop / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    modules = [StaticEmbedding(tokenizer, table.astype(np.float32)), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "encoder"))
    heads = {axis: make_head(folder / axis, axis, folder / "encoder") for axis in ("complexity", "quality")}
    return {"encoder": str(folder / "encoder")} | {f"{axis}_scorer": str(head) for axis, head in heads.items()}


def bare_work(pool: Path, rows: int, encoder: Path, budget: int, threshold: float) -> Iterator[tuple[str, float]]:
    """Do what no selection can do without, with the libraries alone; yields names and seconds.

    Read the file with Polars; hash and encode every distinct text; keep one array of vectors; two matrix products as
    wide as the heads' vectors; the greedy scan over the conversations' mean vectors, in an arbitrary order.
    """
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(encoder), device="cpu")
    model.encode(["warm"])
    started = perf_counter()
    messages = pl.read_parquet(pool, n_rows=rows).select(pl.int_range(pl.len()).alias("row"), "messages")
    texts = messages.explode("messages").with_columns(text=pl.col("messages").struct.field("content"))
    distinct = texts.select("text").unique(maintain_order=True).with_row_index("place")
    listed = distinct["text"].to_list()
    yield "read", perf_counter() - started
    started = perf_counter()
    hashes = {blake2b(text.encode(), digest_size=16).digest() for text in listed}
    yield "hash", perf_counter() - started
    started = perf_counter()
    vectors = model.encode(listed, batch_size=BATCH, show_progress_bar=False).astype(np.float32)
    yield f"encode {len(hashes):,} texts", perf_counter() - started
    started = perf_counter()
    draw = np.random.default_rng(0)
    weights = draw.normal(size=(vectors.shape[1], 4)).astype(np.float32)
    scores = vectors @ weights
    yield "heads", perf_counter() - started
    started = perf_counter()
    places = texts.join(distinct, on="text", how="left", maintain_order="left")
    row = places["row"].to_numpy()
    firsts = np.flatnonzero(np.diff(row, prepend=-1))
    means = np.add.reduceat(vectors[places["place"].to_numpy()], firsts)
    order = np.argsort(-np.add.reduceat(scores[places["place"].to_numpy(), 0], firsts), kind="stable")
    yield "mean vectors", perf_counter() - started
    started = perf_counter()
    selector = DiversitySelector(budget, threshold, vectors.shape[1])
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        selector.add_block(block.astype(str).tolist(), means[block])
        if selector.full:
            break
    yield f"scan of {selector.scanned:,}", perf_counter() - started
