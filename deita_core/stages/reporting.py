"""Writes report.html and the pictures of the card for a finished selection, from its files and the store."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from deita_core.conversation import content_id
from deita_core.errors import InputError
from deita_core.export.card import with_pictures
from deita_core.export.files import CARD, OF_CHANGES, PICTURES, REPORT
from deita_core.export.placing import partial_path, place_file, place_files, prepare_files
from deita_core.models.encoder_spec import FAST_ENCODER, EncoderFiles
from deita_core.report.content import beginnings, draw, find_lists, page_content
from deita_core.report.figures import compose, funnel, rejections, rewards, threshold_figures
from deita_core.report.maps import ANCHORS, SCHEMA, cluster_names, make_map
from deita_core.report.page import Page, Scorer, render
from deita_core.report.pictures import map_picture, score_picture
from deita_core.scorers import ScorerFiles
from deita_core.scorers.training.fast import fast_head_folder
from deita_core.stages.candidates import candidate_vectors
from deita_core.stages.encoding import encoder_table
from deita_core.stages.ingest import removals
from deita_core.stages.job import Job
from deita_core.stages.languages import known_languages
from deita_core.stages.report import Report
from deita_core.stages.snapshots import Snapshot, snapshot_of
from deita_core.stages.turns import NEEDED, as_read, indexed_messages, read_messages
from deita_core.store import Store
from deita_core.tables import SAMPLES, scores_table

# Beside the store's tables: positions of rows on the map, by the rows and the encoder. They hold no text.
MAPS = "maps"


def snapshot_of_folder(store: Store, folder: Path) -> Snapshot:
    """The snapshot whose files are in a folder. Raises InputError if there is none."""
    found = snapshot_of(store, folder) if (folder / "decisions.parquet").is_file() else None
    if found is None:
        raise InputError(
            f"{folder} holds no selection of the store {store.uri}; name the folder of one, or its --store."
        )
    return found


def write_report(store: Store, report: Report, folder: Path) -> Path:
    """Write report.html and the card's pictures into the folder of a selection; returns the path of the report.

    Rows removed since then count as rejected.
    """
    page = make_page(store, report, folder)
    drawn = (score_picture(page.rewards.histograms[0]), map_picture(page.content["points"]))
    texts = dict(zip((*PICTURES, REPORT), (*drawn, render(page)), strict=True))
    place_files(folder, prepare_files(folder, {name: partial(_write, text) for name, text in texts.items()}))
    _show_pictures(folder)
    return folder / REPORT


def _show_pictures(folder: Path) -> None:
    """Add the pictures to the folder's card, in one step: the folder is never without a card."""
    path = folder / CARD
    card = path.read_bytes().decode() if path.is_file() else ""
    if (shown := with_pictures(card, *PICTURES)) != card:
        prepare_files(folder, {CARD: partial(_write, shown)})
        partial_path(path).replace(path)


def _write(text: str, path: Path) -> None:
    path.write_bytes(text.encode())


def make_page(store: Store, report: Report, folder: Path) -> Page:
    """The content of the report, from the folder's decisions.parquet and the store."""
    job = report.job
    decisions = current_decisions(store, folder)
    samples = decisions.filter(pl.col("id").is_not_null())
    # Each of these steps keeps one processor busy.
    with ThreadPoolExecutor(2) as beside:
        sizes = beside.submit(sizes_of, store, job, samples["id"])
        lists = find_lists(samples)
        drawn = draw(samples, lists.ids)
        positions = beside.submit(find_map, store, job, drawn["id"])
        drawn, messages = _with_beginnings(store, job, drawn)
    drawn = drawn.join(positions.result(), on="id", how="left", maintain_order="left")
    samples = samples.join(sizes.result(), on="id", how="left", maintain_order="left")
    if (languages := known_languages(store, samples["id"])) is not None:
        samples = samples.with_columns(languages)
    named = cluster_names(drawn.select("id", "cluster", begins="words"))
    content, with_text = page_content(drawn, messages, lists, named)
    drawn = drawn.with_columns(pl.col("cluster").replace_strict(named, default=None, return_dtype=pl.String))
    return Page(
        title=f"{int((decisions['fate'] == 'selected').sum()):,} conversations selected",
        facts=_facts(report),
        changes=_changes(report, folder),
        steps=funnel(decisions),
        composition=compose(samples, drawn),
        rewards=rewards(samples),
        threshold=threshold_figures(samples, report.chosen.threshold),
        rank=job.settings.rank,
        diversity=job.settings.diversity,
        scorers=[_scorer(store, scorer, job.encoder, samples["id"]) for scorer in job.all_scorers],
        reasons=rejections(decisions),
        drawn=len(drawn),
        with_text=with_text,
        content=content,
    )


def current_decisions(store: Store, folder: Path) -> pl.DataFrame:
    """A folder's decisions, in which rows removed since then are rejected, without the id of a sample."""
    decisions = pl.read_parquet(folder / "decisions.parquet")
    gone = decisions["id"].is_in(removals(store)["id"].implode()).fill_null(False)
    nothing = [pl.when(~gone).then(name).alias(name) for name in ("rank", "score", "nearest", "similarity", "id")]
    return decisions.with_columns(
        *nothing,
        fate=pl.when(gone).then(pl.lit("rejected")).otherwise("fate"),
        reason=pl.when(gone).then(pl.lit("removed: taken down since")).otherwise("reason"),
    )


def sizes_of(store: Store, job: Job, ids: pl.Series) -> pl.DataFrame:
    """The sizes of samples: id, n_turns, n_chars and tokens, which are those that the encoder counted."""
    found = store.fetch(SAMPLES, "id", ids, ["id", "n_turns", "n_chars", "message_index"])
    counts = store.read(encoder_table(job.encoder), ["text_id", "n_tokens"])
    if job.encoder.kind == "causal":
        tokens = counts.rename({"text_id": "id", "n_tokens": "tokens"})
    else:
        messages = indexed_messages(as_read(found, job.encoder.reasoning)).join(counts, on="text_id", how="left")
        summed = messages.group_by("owner").agg(tokens=pl.col("n_tokens").sum())
        tokens = summed.select(tokens="tokens", id=found["id"].gather(summed["owner"]))
    sized = found.drop("message_index").join(tokens, on="id", how="left")
    return sized.with_columns(pl.col("tokens").cast(pl.Int64))


def find_map(store: Store, job: Job, ids: pl.Series) -> pl.DataFrame:
    """Positions of rows on the map (id, x, y, cluster), computed once for the same rows and encoder."""
    key = content_id("\n".join([job.encoder.fingerprint, job.encoder.reasoning, str(ANCHORS), *ids.sort()]).encode())
    path = store.side / MAPS / f"{key}.parquet"
    if path.is_file():
        return pl.read_parquet(path).select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())
    # In the order in which they are stored, and so the vectors of a block are beside each other.
    rows = store.fetch(SAMPLES, "id", ids, ["id"])
    anchors = rows.sort(pl.col("id").str.slice(16), "id").head(ANCHORS)
    parts = [vectors for _, vectors in candidate_vectors(store, job.encoder, anchors)]
    fitted_on = np.concatenate(parts) if parts else np.zeros((0, job.encoder.dim), np.float32)
    found = make_map(ids.to_list(), fitted_on, candidate_vectors(store, job.encoder, rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    place_file(path, found.write_parquet)
    return found


def forget_pages(store: Store, folders: list[str]) -> None:
    """Delete the maps, and the reports in some folders, which hold texts that no other file there holds."""
    for path in (store.side / MAPS).glob("*.parquet"):
        path.unlink(missing_ok=True)
    for folder in folders:
        (Path(folder) / REPORT).unlink(missing_ok=True)


def _with_beginnings(store: Store, job: Job, drawn: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows with begins, words and script, and their messages in order: owner (the position of the row), role, text."""
    found = store.fetch(SAMPLES, "id", drawn["id"], NEEDED)
    numbered = drawn.with_row_index("owner").with_columns(pl.col("owner").cast(pl.Int64))
    # To join the texts would copy them message by message.
    places = found.select("id").join(numbered, on="id", how="left", maintain_order="left")["owner"]
    messages = read_messages(found, "score").select("role", "text", owner=pl.lit(places).gather("owner"))
    messages = messages.sort("owner", maintain_order=True)
    starts = beginnings(messages)
    with_starts = numbered.join(starts, on="owner", how="left", maintain_order="left").drop("owner")
    return with_starts.with_columns(pl.col("begins", "words").fill_null("")), messages


def _scorer(store: Store, scorer: ScorerFiles, encoder: EncoderFiles, ids: pl.Series) -> Scorer:
    table = scores_table(scorer.slug)
    scored = store.row_ids(table, "id").join(ids.to_frame(), on="id", how="semi")
    # Few have another status, so that not all are read.
    others = store.read(table, ["id", "status"], "status != 'ok'").join(ids.to_frame(), on="id", how="semi")
    counts = dict(others.group_by("status").len().iter_rows()) | {"ok": len(scored) - len(others)}
    present = {status: count for status, count in sorted(counts.items()) if count}
    return Scorer(scorer.axis, scorer.name, _held_out(scorer, encoder), present)


def _held_out(scorer: ScorerFiles, encoder: EncoderFiles) -> dict[str, Any] | None:
    """The held-out figures that were written beside a head, as `scorer` and `length`; None if there are none."""
    folder = fast_head_folder(scorer.axis, encoder) if scorer.name == FAST_ENCODER else scorer.path
    if scorer.kind != "head" or folder is None or not (folder / "config.json").is_file():
        return None
    figures = orjson.loads((folder / "config.json").read_bytes()).get("figures")
    return figures if figures and {"scorer", "length"} <= figures.keys() else None


def _facts(report: Report) -> list[tuple[str, str]]:
    job, settings = report.job, report.job.settings
    found_by = " (found by auto)" if settings.threshold == "auto" else ""
    return [
        ("snapshot", f"{report.snapshot}" + (f", after {report.previous}" if report.previous else "")),
        ("pool", ", ".join(report.pool)),
        ("budget", f"{settings.budget:,}" if settings.budget else "none"),
        ("threshold", f"{report.chosen.threshold}{found_by}"),
        ("turns", settings.turns),
        ("preset", settings.preset),
        ("encoder", f"{job.encoder.name} ({job.encoder.fingerprint[:12]})"),
        *((f"{one.axis} scorer", f"{one.name} ({one.fingerprint[:12]})") for one in job.all_scorers),
    ]


def _changes(report: Report, folder: Path) -> str:
    """How many rows were added and dropped since the previous snapshot, as the folder's files say; empty if none."""
    added, dropped, text = (folder / name for name in OF_CHANGES)
    if not text.is_file():
        return ""
    counts = [path.read_bytes().count(b"\n") for path in (added, dropped)]
    return f"Since snapshot {report.previous}, {counts[0]:,} were added and {counts[1]:,} dropped; CHANGES.md says why."
