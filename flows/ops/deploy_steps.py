"""Variables, settings and the work queue that prefect.yaml needs from its environment."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deita_core.errors import InputError

# Every variable that prefect.yaml uses, with its default.
VARIABLES = {
    "DEITA_HOME": ".",
    "DEITA_POOL": "pool",
    "DEITA_OUT": "out",
    "DEITA_STORE": ".deita",
    "DEITA_CHAINS": "out/evolved",
    "DEITA_WORK_POOL": "laptop",
    "DEITA_WORK_QUEUE": "store",
    "DEITA_NIGHTLY_CRON": "0 2 * * *",
    "DEITA_WEEKLY_CRON": "0 4 * * 0",
    "DEITA_TIMEZONE": "UTC",
}
# Only one run at a time may write a store.
RUNS_AT_ONCE = 1


async def prepare(work_pool: str, work_queue: str) -> dict[str, Any]:
    """A build step: create the work queue, and collect typed values for the deployments' parameters.

    Returns `settings` (those of `deita select` here), `complexity` and `quality` (settings for training a matching
    head) and `has_chains` (whether there is training data). Raises InputError if a variable of prefect.yaml is not set,
    which Prefect would ignore.
    """
    if lacking := [name for name in VARIABLES if not os.environ.get(name)]:
        raise InputError(f"prefect.yaml needs {', '.join(lacking)}; set them, deployments/laptop.env has an example.")
    await limit_queue(work_pool, work_queue)
    chains = Path(os.environ["DEITA_HOME"]) / os.environ["DEITA_CHAINS"]
    settings = settings_here()
    heads = {axis: {"axis": axis, **training_settings(settings)} for axis in ("complexity", "quality")}
    return {"settings": settings, **heads, "has_chains": (chains / "complexity.jsonl").is_file()}


def settings_here() -> dict[str, Any]:
    """Return the settings from DEITA_* variables and the YAML file in DEITA_CONFIG, without defaults."""
    from deita_core.config.settings import load_settings

    config = os.environ.get("DEITA_CONFIG")
    return load_settings(Path(config) if config else None).model_dump(mode="json", exclude_unset=True)


def training_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings for training a head that matches a selection: its encoder and precision.

    The paper's encoder is a language model, whose vectors no head can read; there, the head is for the laptop encoder.
    """
    shared = ("store",) if settings.get("preset") == "paper" else ("store", "encoder", "precision")
    return {"store": os.environ["DEITA_STORE"]} | {name: settings[name] for name in shared if name in settings}


async def limit_queue(work_pool: str, work_queue: str) -> None:
    """Create the work queue if needed, and limit it to one run at a time."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    async with get_client() as client:
        try:
            queue = await client.read_work_queue_by_name(work_queue, work_pool)
        except ObjectNotFound:
            queue = await client.create_work_queue(work_queue, work_pool_name=work_pool)
        if queue.concurrency_limit != RUNS_AT_ONCE:
            await client.update_work_queue(queue.id, concurrency_limit=RUNS_AT_ONCE)
