"""What a training leaves beside its weights: metrics.json, a model card, the rows left out, and a manifest, last."""

import shutil
from collections.abc import Sequence
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, TypeVar

import orjson
import psutil
from pydantic import BaseModel, ConfigDict

from deita_core.alignment.rows import DroppedRow
from deita_core.conversation import content_id
from deita_core.errors import InputError
from deita_core.literals import Precision
from deita_core.models.causal_lm import weights_id
from deita_core.models.fine_tuning import FineTuning

METRICS, MANIFEST, DROPPED = "metrics.json", "manifest.json", "dropped.jsonl"
PACKAGES = ("deita-flows", "torch", "transformers", "trl", "peft")
Metrics = TypeVar("Metrics", bound=BaseModel)


class TrainingMetrics(BaseModel):
    """What every training reports. `rows`: conversations or pairs trained on; `cut`: those longer than max_tokens;
    `dropped`: rows of the data not trained on; `tokens`: token positions over all epochs; `answer_tokens`: those with
    loss; `seconds`: of this process's training; `peak_memory_gib`: of this process.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    cut: int
    dropped: int
    tokens: int
    answer_tokens: int
    steps: int
    seconds: float
    tokens_per_s: float
    peak_memory_gib: float
    held_out_rows: int
    held_out_tokens: int


class SftMetrics(TrainingMetrics):
    """Losses are the mean negative log-likelihood of an answer's token on the held-out rows, in nats."""

    loss_before: float | None
    loss_after: float | None


class DpoMetrics(TrainingMetrics):
    """Of held-out pairs. `margin`: the mean reward margin after training, beta times what the difference has grown by;
    before training it is 0, since the model is its own reference. `accuracy`: the share of pairs with a positive one.
    `difference`: the mean log-likelihood of the chosen answer less that of the rejected one, in nats. `likelier`: how
    often the chosen answer is the likelier one per token.
    """

    difference_before: float
    difference_after: float
    margin: float
    accuracy: float
    likelier_before: float
    likelier_after: float


def run_inputs(
    folder: Path,
    settings: FineTuning,
    model: str,
    tokenizer: Any,
    precision: Precision,
    version: int,
    rows: Sequence[Sequence[tuple]],
) -> str:
    """A hash of all that the weights depend on; also of the folder's path, which checkpoints store."""
    data = [[list(row) for row in part] for part in rows]
    parts = [
        version,
        str(folder.resolve()),
        settings.model_dump(),
        weights_id(model),
        tokenizer.chat_template,
        precision,
    ]
    return content_id(orjson.dumps([*parts, data], option=orjson.OPT_SORT_KEYS))


def finished(folder: Path, inputs: str, kind: type[Metrics]) -> Metrics | None:
    """Return the metrics of a finished run with the same inputs, or None if there is no finished run.

    Raises InputError for a folder of another run.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return None
    try:
        made_by = orjson.loads(manifest.read_bytes())["inputs"]
        metrics = kind.model_validate_json((folder / METRICS).read_bytes())
    except (OSError, LookupError, TypeError, ValueError):
        made_by = None
    if made_by != inputs:
        raise InputError(f"The folder {folder} holds a model trained otherwise; give another folder.")
    # A run that was killed between its manifest and here left them.
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return metrics


def write_result(
    folder: Path,
    inputs: str,
    data: str,
    base_model: str,
    settings: FineTuning,
    metrics: TrainingMetrics,
    dropped: Sequence[DroppedRow],
) -> None:
    """Write the records beside a saved model, the manifest last, and remove its checkpoints."""
    (folder / METRICS).write_bytes(_json(metrics.model_dump()))
    lines = [orjson.dumps(row._asdict()) + b"\n" for row in dropped]
    (folder / DROPPED).write_bytes(b"".join(lines))
    (folder / "README.md").write_text(_card(data, base_model, settings, metrics), encoding="utf-8")
    manifest = {
        "inputs": inputs,
        "data": data,
        "base_model": base_model,
        "settings": settings.model_dump(),
        "metrics": metrics.model_dump(),
        "packages": {name: installed(name) for name in PACKAGES},
    }
    unfinished = folder / f".{MANIFEST}.partial"
    unfinished.write_bytes(_json(manifest))
    unfinished.replace(folder / MANIFEST)
    shutil.rmtree(folder / "checkpoints")


def peak_memory() -> float:
    """The most memory that this process has had, in GiB; on systems that do not tell, what it has now."""
    memory = psutil.Process().memory_info()
    try:
        import resource
    except ImportError:
        return round(getattr(memory, "peak_wset", memory.rss) / 2**30, 2)
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2)


def figure_lines(metrics: TrainingMetrics) -> list[str]:
    """The figures of a training, one line each."""
    if isinstance(metrics, SftMetrics):
        shown = f"loss {metrics.loss_before:.4f} before, {metrics.loss_after:.4f} after (nats per answer token)"
        measured = f"{shown}, on {metrics.held_out_rows:,} held-out rows"
    else:
        assert isinstance(metrics, DpoMetrics)
        shown = f"reward margin {metrics.margin:.4f} (before training 0), positive on {metrics.accuracy:.1%}"
        likelier = f"chosen likelier on {metrics.likelier_before:.1%} before, {metrics.likelier_after:.1%} after"
        measured = f"{shown}; {likelier}; {metrics.held_out_rows:,} held-out pairs"
    return [
        measured,
        f"{metrics.rows:,} rows, {metrics.cut:,} of the data cut, {metrics.dropped:,} dropped (see {DROPPED})",
        f"{metrics.tokens:,} tokens in {metrics.steps:,} steps, {metrics.seconds:,.0f} s, {metrics.tokens_per_s:,.0f} "
        f"tokens/s, peak memory {metrics.peak_memory_gib:.1f} GiB",
    ]


def _card(data: str, base_model: str, settings: FineTuning, metrics: TrainingMetrics) -> str:
    kind = "Supervised fine-tuning" if isinstance(metrics, SftMetrics) else "Direct preference optimisation"
    given = settings.model_dump(exclude={"base_model", "model", "heldout"}, exclude_none=True)
    figures = "".join(f"- {line}\n" for line in figure_lines(metrics))
    table = "".join(f"| {name} | {value} |\n" for name, value in given.items())
    return (
        f"---\nlibrary_name: transformers\ntags: [deita]\n---\n\n# {kind} of {base_model}\n\nTrained on `{data}`.\n\n"
        f"{figures}\n| setting | value |\n|---|---|\n{table}"
    )


def _json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n"
