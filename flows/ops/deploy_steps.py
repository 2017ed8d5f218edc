"""What prefect.yaml takes from the place it is installed in: variables, settings, the work queue."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deita_core.errors import InputError

# Every variable that prefect.yaml names, and what it is where nobody says otherwise.
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
# One run at a time writes a store.
RUNS_AT_ONCE = 1


async def prepare(work_pool: str, work_queue: str) -> dict[str, Any]:
    """A build step: make the work queue, and gather what the deployments' parameters need with its type.

    Returns `settings` (those that `deita select` would have here), `complexity` and `quality` (those of training a head
    that fits them) and `has_chains` (there is something to train on).
    Raises InputError if a variable of prefect.yaml is not set, which Prefect would pass over.
    """
    if lacking := [name for name in VARIABLES if not os.environ.get(name)]:
        raise InputError(f"prefect.yaml needs {', '.join(lacking)}; set them, deployments/laptop.env has an example.")
    await limit_queue(work_pool, work_queue)
    chains = Path(os.environ["DEITA_HOME"]) / os.environ["DEITA_CHAINS"]
    settings = settings_here()
    heads = {axis: {"axis": axis, **training_settings(settings)} for axis in ("complexity", "quality")}
    return {"settings": settings, **heads, "has_chains": (chains / "complexity.jsonl").is_file()}


def settings_here() -> dict[str, Any]:
    """Settings given by DEITA_* variables and the YAML file in DEITA_CONFIG; none that are left to their default."""
    from deita_core.config.settings import load_settings

    config = os.environ.get("DEITA_CONFIG")
    return load_settings(Path(config) if config else None).model_dump(mode="json", exclude_unset=True)


def training_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of training a head for a selection's: it fits the encoder, and is computed as precisely.

    The paper's encoder is a language model, whose vectors no head reads, so there a head is for the laptop's encoder.
    """
    shared = ("store",) if settings.get("preset") == "paper" else ("store", "encoder", "precision")
    return {"store": os.environ["DEITA_STORE"]} | {name: settings[name] for name in shared if name in settings}


async def limit_queue(work_pool: str, work_queue: str) -> None:
    """See to it that the work queue is there and lets one run through at a time."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    async with get_client() as client:
        try:
            queue = await client.read_work_queue_by_name(work_queue, work_pool)
        except ObjectNotFound:
            queue = await client.create_work_queue(work_queue, work_pool_name=work_pool)
        if queue.concurrency_limit != RUNS_AT_ONCE:
            await client.update_work_queue(queue.id, concurrency_limit=RUNS_AT_ONCE)
