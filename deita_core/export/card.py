"""The dataset card of a selection: what it is, how it was made, and where every row of the pool went."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
import polars as pl
from huggingface_hub import DatasetCard, DatasetCardData

from deita_core.export.markdown import markdown_table

# What `datasets.load_dataset` reads of the folder: without these it takes both tables for parts of one.
CONFIGS = [
    {"config_name": "selected", "data_files": "selected.parquet", "default": True},
    {"config_name": "decisions", "data_files": "decisions.parquet"},
]
# Settings shown if they limit the selection.
LIMITS = (
    "token_budget", "tokenizer", "per", "cap", "floor", "quotas", "where", "min_score", "language", "max_repetition",
    "min_answer_tokens", "max_answer_tokens", "exclude", "exclude_similarity", "like",
)  # fmt: skip
# Fates shown even if no row has them.
ALWAYS_SHOWN = ("read", "selected", "near_duplicate", "over_budget", "rejected", "merged")
# The section before which the pictures stand.
FIELDS = "## Fields"
TAGS = ["instruction-tuning", "data-selection", "deita"]


def dataset_card(selected: pl.DataFrame, manifest: Mapping[str, Any]) -> str:
    """A README.md for the Hub or a colleague, from the selection and its manifest."""
    counts, settings = manifest["counts"], manifest["settings"]
    sections = [
        f"# {counts['selected']:,} conversations selected from {counts['read']:,}",
        _how(settings),
        "## How it was made",
        markdown_table(("setting", "value"), _settings(manifest)),
        "## Where every row went",
        markdown_table(("fate", "rows"), _fates(counts)),
        "## What was selected",
        markdown_table(("figure", "lowest", "median", "highest"), _figures(selected)),
        markdown_table(("file", "rows selected"), _files(selected)),
        FIELDS,
        f"The `deita` object of a row says why it is here: `rank` (1 is best), `score` ({_score(settings)}), "
        "`complexity` and `quality` (1 to 6, means over those turns), "
        "`nearest` and `similarity` (the better-ranked chosen row that is most like it, and the cosine), `copies` (how "
        "often the row stood in the pool), `file` and `line`. decisions.parquet has the same for every row of the "
        "pool, with its fate and the reason; manifest.json has everything needed to run this again.",
        f"```json\n{orjson.dumps(dict(settings), option=orjson.OPT_INDENT_2).decode()}\n```",
    ]
    data = DatasetCardData(tags=TAGS, task_categories=["text-generation"], configs=CONFIGS)
    return str(DatasetCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"))


def _how(settings: Mapping[str, Any]) -> str:
    """One sentence: the order and the rule of diversity."""
    if (settings["rank"], settings["diversity"]) == ("evol", "threshold"):
        return (
            "Selected by complexity times quality of each turn, best first, without near-duplicates of better ones "
            "(Deita, arXiv 2312.15685)."
        )
    return f"Selected in the order `{settings['rank']}`, kept apart by the rule `{settings['diversity']}`."


def _score(settings: Mapping[str, Any]) -> str:
    if settings["rank"] == "evol":
        return "complexity times quality over the turns that count, by the rule above"
    return f"the value of the order {settings['rank']}, the highest first"


def with_pictures(card: str, scores: str, map_: str) -> str:
    """The card with its pictures, files beside it; unchanged if it has them, or has been rewritten by hand."""
    if f"]({scores})" in card:
        return card
    pictures = (
        f"![Histogram of the scores of the selected rows and of the others, with the cut]({scores})\n\n"
        f"![Map of the rows by their vectors, with the selected ones marked]({map_})"
    )
    return card.replace(f"\n{FIELDS}\n", f"\n{pictures}\n\n{FIELDS}\n", 1)


def _settings(manifest: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    settings = manifest["settings"]
    yield "budget", settings["budget"] or "none"
    for name in LIMITS:
        if value := settings.get(name):
            yield name.replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list) else value
    if settings["diversity"] == "threshold":
        yield "threshold", f"{manifest['threshold']}{' (found by auto)' if settings['threshold'] == 'auto' else ''}"
    rule = f"{settings['turns']}, up to {settings['training_tokens']} tokens" if settings["turns"] == "fit" else None
    yield "turns", rule or settings["turns"]
    yield "encoder", f"{manifest['encoder']['name']} ({manifest['encoder']['precision']})"
    for axis, scorer in sorted(manifest["scorers"].items()):
        yield f"{axis} scorer", f"{scorer['name']} ({scorer['fingerprint'][:12]})"


def _fates(counts: Mapping[str, int]) -> Iterable[tuple[str, str]]:
    for name, label in (
        ("read", "read"),
        ("selected", "selected"),
        ("filtered", "filtered"),
        ("contaminated", "contaminated: they hold text of a benchmark"),
        ("near_duplicate", "skipped: near-duplicates of a better one"),
        ("redundant", "skipped: they add nothing new"),
        ("over_quota", "skipped: their group had its share"),
        ("over_budget", "skipped: the budget was full"),
        ("rejected", "rejected"),
        ("merged", "merged: exact duplicates of another row"),
    ):
        if counts.get(name) or name in ALWAYS_SHOWN:
            yield label, f"{counts[name]:,}"


def _figures(selected: pl.DataFrame) -> Iterable[tuple[str, str, str, str]]:
    for name in ("score", "complexity", "quality", "similarity"):
        values = selected[name].drop_nulls()
        if len(values):
            low, middle, high = (float(values.quantile(q, "nearest") or 0) for q in (0.0, 0.5, 1.0))
            yield name, f"{low:.3f}", f"{middle:.3f}", f"{high:.3f}"


def _files(selected: pl.DataFrame) -> Iterable[tuple[str, int]]:
    counted = selected.group_by("file", maintain_order=True).len().sort("len", "file", descending=[True, False])
    yield from counted.head(20).iter_rows()
    if len(counted) > 20:
        yield f"{len(counted) - 20} more files", int(counted["len"].slice(20).sum())
