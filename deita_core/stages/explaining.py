"""Explains one row of a selection: its scores, its fate, what is most like it, and what would have it selected."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel

from deita_core.errors import InputError
from deita_core.literals import AXES, LEFT_OUT, Axis, Unread
from deita_core.stages.candidates import candidate_vectors
from deita_core.stages.ingest import pool_ids, removals
from deita_core.stages.job import Job
from deita_core.stages.judging import unread_turns
from deita_core.stages.report import Report
from deita_core.stages.selecting import decisions_of, with_nearest_selected
from deita_core.stages.snapshots import Snapshot, snapshots
from deita_core.stages.turn_scores import turn_scores, value_columns
from deita_core.store import Store
from deita_core.tables import DECISIONS, REJECTS, SAMPLES, SOURCES, Table

ID = re.compile(r"[0-9a-f]{8,32}")
PLACE = re.compile(r"(?P<file>.+):(?P<line>\d{1,18})")
NEAREST = 5
AROUND = 10
# Rows named where several fit.
NAMED = 5
BEGINS = 100


class Place(BaseModel):
    """Where a row stands in the pool."""

    file: str
    line: int


class ScoredTurn(BaseModel):
    """The scores of one turn, counted from 0; None and `unreadable` where a scorer gave none.

    `complexity_unread`, `quality_unread`: why a judge gave none.
    """

    turn: int
    complexity: float | None
    quality: float | None
    complexity_status: str | None
    quality_status: str | None
    complexity_unread: Unread | None = None
    quality_unread: Unread | None = None


class Neighbour(BaseModel):
    """A selected row and its cosine similarity to the row explained. `above`: it ranks higher."""

    id: str
    rank: int
    similarity: float
    above: bool
    places: list[Place]
    begins: str


class InSnapshot(BaseModel):
    """What a snapshot decided about a row."""

    snapshot: int
    fate: str
    rank: int | None


class Explanation(BaseModel):
    """Why a row was selected or not. A row that is no sample, such as one that could not be read, has no id."""

    snapshot: int
    id: str | None
    places: list[Place]
    fate: str
    reason: str | None
    rank: int | None = None
    score: float | None = None
    complexity: float | None = None
    quality: float | None = None
    turns: list[ScoredTurn] = []
    nearest: list[Neighbour] = []
    threshold: float
    cut: float | None
    budget: int | None
    would_be_selected: str
    snapshots: list[InSnapshot] = []
    messages: list[dict[str, Any]] = []


class Beside(BaseModel):
    """A row near the cut."""

    id: str
    rank: int
    score: float
    similarity: float | None
    fate: str
    place: Place
    begins: str


class AtTheCut(BaseModel):
    """The rows nearest the cut on both sides.

    `cut_by`: "budget" if the budget was filled, and then the cut is a score; "threshold" if not, and then it is a
    similarity.
    """

    snapshot: int
    cut_by: str
    cut: float | None
    selected: list[Beside]
    left_out: list[Beside]


def explain(store: Store, snapshot: Snapshot, row: str) -> Explanation:
    """Explain a row, named by an id or its first 8 digits or more, by FILE:LINE, or by words that only it holds.

    Raises InputError if no row of the snapshot's pool fits, or several do.
    """
    report = snapshot.report
    decisions = _decisions(store, report.job)
    found = _find(store, report, decisions, row)
    if not isinstance(found, str):
        return _of_reject(snapshot, report, found)
    return _of_sample(store, snapshot, decisions, found)


def _decisions(store: Store, job: Job) -> pl.DataFrame:
    """The decisions on the samples that have not been removed since."""
    return decisions_of(store, job).join(removals(store), on="id", how="anti", maintain_order="left")


def _find(store: Store, report: Report, decisions: pl.DataFrame, row: str) -> str | dict[str, Any]:
    """The id of a sample, or a row of the rejects."""
    if ID.fullmatch(row):
        ids = decisions.filter(pl.col("id").str.starts_with(row))["id"].to_list()
        if ids:
            return _only(store, report, ids, f"the id {row}")
    if (place := PLACE.fullmatch(row)) and (found := _at(store, report, place["file"], int(place["line"]))) is not None:
        return found
    if ID.fullmatch(row) or not row.strip():
        raise InputError(f"Snapshot {report.snapshot} has no row {row!r}; name an id, FILE:LINE, or words of the row.")
    return _only(store, report, _with_words(store, decisions["id"], row), "these words")


def _at(store: Store, report: Report, file: str, line: int) -> str | dict[str, Any] | None:
    """The sample or reject at a line of a file, which may be named by the end of its path."""
    job = report.job

    def there(table: Table, *columns: str) -> list[dict[str, Any]]:
        rows = store.read(table, ["key", "file_id", "file", "line", *columns], f"line = {line}")
        named = (pl.col("file") == file) | pl.col("file").str.ends_with(f"/{file.removeprefix('./')}")
        of_pool = pl.col("file_id").is_in(pl.Series(job.file_ids, dtype=pl.String).implode())
        return rows.filter(named & of_pool).sort("file", "key").to_dicts()

    sources, rejects = there(SOURCES, "sample_id"), there(REJECTS, "reason", "detail")
    files = sorted({row["file"] for row in [*sources, *rejects]})
    if len(files) > 1:
        raise InputError(f"{file} may be {files[0]} or {files[1]}; give more of its path.")
    return sources[0]["sample_id"] if sources else rejects[0] if rejects else None


def _with_words(store: Store, ids: pl.Series, words: str) -> list[str]:
    """Ids of the samples of which a message holds some words, in any case."""
    samples = store.fetch(SAMPLES, "id", ids, ["id", "messages"])
    said = samples.explode("messages").select("id", text=pl.col("messages").struct.field("content"))
    held = pl.col("text").str.to_lowercase().str.contains(words.lower(), literal=True)
    return said.filter(held)["id"].unique().sort().to_list()


def _only(store: Store, report: Report, ids: Sequence[str], what: str) -> str:
    if len(ids) == 1:
        return ids[0]
    if not ids:
        raise InputError(
            f"No row of snapshot {report.snapshot} has {what}; name an id, FILE:LINE, or words of the row."
        )
    where = _places(store, report.job, ids[:NAMED])
    named = ", ".join(f"{where[id_][0].file}:{where[id_][0].line}" for id_ in ids[:NAMED])
    more = ", ..." if len(ids) > NAMED else ""
    raise InputError(f"{len(ids):,} rows have {what} ({named}{more}); name one of them as FILE:LINE.")


def _places(store: Store, job: Job, ids: Sequence[str]) -> dict[str, list[Place]]:
    """Where samples stand in the pool, in the order of its files."""
    rows = store.fetch(SOURCES, "sample_id", list(ids), ["sample_id", "file_id", "file", "line"])
    order = pl.DataFrame({"file_id": job.file_ids}, schema={"file_id": pl.String}).with_row_index("nth")
    placed: dict[str, list[Place]] = {id_: [] for id_ in ids}
    rows = rows.join(order, on="file_id").sort("nth", "line").select("sample_id", "file", "line")
    for id_, file, line in rows.iter_rows():
        placed[id_].append(Place(file=file, line=line))
    return placed


def _of_reject(snapshot: Snapshot, report: Report, row: dict[str, Any]) -> Explanation:
    return Explanation(
        snapshot=snapshot.number,
        id=None,
        places=[Place(file=row["file"], line=row["line"])],
        fate="rejected",
        reason=f"{row['reason']}: {row['detail']}",
        threshold=report.chosen.threshold,
        cut=None,
        budget=report.job.settings.budget,
        would_be_selected="It has to be readable first.",
    )


def _of_sample(store: Store, snapshot: Snapshot, decisions: pl.DataFrame, id_: str) -> Explanation:
    report = snapshot.report
    row = decisions.row(by_predicate=pl.col("id") == id_, named=True)
    scores = decisions.filter(pl.col("fate") == "selected")["score"].to_list()
    cut = scores[-1] if scores else None
    nearest = [] if row["rank"] is None else _nearest(store, report.job, decisions, row)
    messages = store.fetch(SAMPLES, "id", [id_], ["messages"])["messages"].to_list()[0]
    return Explanation(
        snapshot=snapshot.number,
        **{name: row[name] for name in ("id", "fate", "reason", "rank", "score", "complexity", "quality")},
        places=_places(store, report.job, [id_])[id_],
        turns=_turns(store, report.job, id_),
        nearest=nearest,
        threshold=report.chosen.threshold,
        cut=cut,
        budget=report.job.settings.budget,
        would_be_selected=_what_it_takes(report, row, cut, nearest),
        snapshots=_in_snapshots(store, id_),
        messages=messages,
    )


def _turns(store: Store, job: Job, id_: str) -> list[ScoredTurn]:
    complexity, quality = (_axis_scores(store, job, axis, id_) for axis in AXES)
    rows = complexity.join(quality, on="turn", how="full", coalesce=True).sort("turn")
    return [ScoredTurn(**row) for row in rows.to_dicts()]


def _axis_scores(store: Store, job: Job, axis: Axis, id_: str) -> pl.DataFrame:
    scorers = job.scorers(axis)
    # Scores that are quantiles depend on the whole pool.
    ids = pool_ids(store, job.file_ids) if value_columns(scorers) else [id_]
    scores = turn_scores(store, scorers, ids).filter(id=id_).select("turn", axis, f"{axis}_status")
    judges = [scorer for scorer in scorers if scorer.kind == "judge"]
    unread = [unread_turns(store, judge, [id_]).select("turn", "reason") for judge in judges]
    # Of several judges that gave none, the first.
    reasons = pl.concat([pl.DataFrame(schema={"turn": pl.Int32, "reason": pl.String}), *unread])
    reasons = reasons.unique("turn", keep="first").rename({"reason": f"{axis}_unread"})
    return scores.join(reasons, on="turn", how="left")


def _nearest(store: Store, job: Job, decisions: pl.DataFrame, row: dict[str, Any]) -> list[Neighbour]:
    """The most similar selected rows: first of those that rank higher, then of all."""
    selected = decisions.filter((pl.col("fate") == "selected") & (pl.col("id") != row["id"]))
    this = _unit(store, job, pl.DataFrame({"id": [row["id"]]}))
    if selected.is_empty():
        return []
    similarity = (_unit(store, job, selected.select("id")) @ this[0]).clip(-1, 1)
    ranked = selected.with_columns(similarity=similarity, above=pl.col("rank") < row["rank"])
    ranked = ranked.sort("similarity", "rank", descending=[True, False])
    first = ranked.filter("above").head(1)
    best = pl.concat([first, ranked.join(first, on="id", how="anti", maintain_order="left")]).head(NEAREST)
    places, begins = _places(store, job, best["id"].to_list()), _beginnings(store, best["id"].to_list())
    return [
        Neighbour(**found, places=places[found["id"]], begins=begins[found["id"]])
        for found in best.select("id", "rank", "similarity", "above").to_dicts()
    ]


def _unit(store: Store, job: Job, ids: pl.DataFrame) -> np.ndarray:
    """Vectors (n, d) float64 of samples, normalized; zero vectors stay zero."""
    blocks = [vectors.astype(np.float64) for _, vectors in candidate_vectors(store, job.encoder, ids)]
    vectors = np.concatenate(blocks)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def _beginnings(store: Store, ids: Sequence[str]) -> dict[str, str]:
    """The beginning of the first message of a user, or else of the first message."""
    found = {}
    for id_, messages in store.fetch(SAMPLES, "id", list(ids), ["id", "messages"]).iter_rows():
        said = [m["content"] for m in messages if m["role"] == "user"] or [messages[0]["content"]]
        found[id_] = " ".join(said[0][: 4 * BEGINS].split())[:BEGINS]
    return found


def _what_it_takes(report: Report, row: dict[str, Any], cut: float | None, nearest: Sequence[Neighbour]) -> str:
    """What would have a row selected, everything else being as it is."""
    threshold = report.chosen.threshold
    alike = next((found for found in nearest if found.similarity > threshold), None)
    if row["fate"] == "selected":
        above = next((found.similarity for found in nearest if found.above), None)
        is_compared = above is not None and report.job.settings.diversity == "threshold"
        stays = "" if not is_compared else f", and a threshold below {above:.4f} would make it a near-duplicate"
        return f"It is selected; the lowest score selected is {cut:.4f}{stays}."
    if row["fate"] == "near_duplicate":
        return (
            f"A threshold of {row['similarity']:.4f} or more would let it in, unless rows selected then that rank "
            f"higher fill the budget or are more similar to it."
        )
    if row["fate"] == "rejected":
        return "It has to be scored and encoded first; the reason says what is missing."
    if row["fate"] in LEFT_OUT:
        return "It was left out before the ranking; the reason says what would have to change."
    if row["fate"] in ("over_quota", "redundant") or report.job.settings.diversity != "threshold":
        return f"The reason says what stands against it; its rank is {row['rank']:,}, its score {row['score']:.4f}."
    others = f"{alike.id} (similarity {alike.similarity:.4f}) is" if alike else "it is a near-duplicate of a row"
    return (
        f"A score above {cut:.4f} (its own is {row['score']:.4f}), or a larger budget: {row['rank']:,} reaches it. "
        f"Either selects it unless {others} selected before it."
    )


def _in_snapshots(store: Store, id_: str) -> list[InSnapshot]:
    runs = snapshots(store).select("number", "run_id")
    rows = store.read(DECISIONS, ["run_id", "fate", "rank"], f"id = '{id_}'").join(runs, on="run_id").sort("number")
    return [InSnapshot(**row) for row in rows.select("fate", "rank", snapshot="number").to_dicts()]


def rows_at_the_cut(store: Store, snapshot: Snapshot) -> AtTheCut:
    """The rows nearest the cut of a selection, on both sides."""
    report = snapshot.report
    decisions = with_nearest_selected(store, report.job, _decisions(store, report.job))
    selected = decisions.filter(pl.col("fate") == "selected")
    beyond = decisions.filter(pl.col("fate") == "over_budget")
    if len(beyond):
        cut, inside, outside = selected["score"].to_list()[-1], selected.tail(AROUND), beyond.head(AROUND)
    else:
        cut, near = report.chosen.threshold, decisions.filter(pl.col("fate") == "near_duplicate")
        outside = near.sort("similarity", "id").head(AROUND)
        inside = selected.filter(pl.col("similarity").is_not_null())
        inside = inside.sort("similarity", "id", descending=[True, False]).head(AROUND)
    return AtTheCut(
        snapshot=snapshot.number,
        cut_by="budget" if len(beyond) else "threshold",
        cut=cut,
        selected=_beside(store, report.job, inside),
        left_out=_beside(store, report.job, outside),
    )


def _beside(store: Store, job: Job, rows: pl.DataFrame) -> list[Beside]:
    ids = rows["id"].to_list()
    places, begins = _places(store, job, ids), _beginnings(store, ids)
    columns = ["id", "rank", "score", "similarity", "fate"]
    return [
        Beside(**row, place=places[row["id"]][0], begins=begins[row["id"]]) for row in rows.select(columns).to_dicts()
    ]
