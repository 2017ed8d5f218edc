"""What a Prefect server knows of a run's tasks. It hears of them by events, which arrive after the run has ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import TaskRun

TRIES = 300


def ended_tasks(runs: FlowRunFilter, last: str) -> list[TaskRun]:
    """The task runs of the flow runs, once each has ended and one whose name begins with `last` is among them.

    A task run that the server has just heard of may have no state yet. Raises TimeoutError after a minute.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        for _ in range(TRIES):
            tasks = client.read_task_runs(flow_run_filter=runs)
            ended = [task for task in tasks if task.state is not None and task.state.is_final()]
            if len(ended) == len(tasks) and any(task.name.startswith(last) for task in tasks):
                return ended
            time.sleep(0.2)
    raise TimeoutError(f"No end of {last} among {[(task.name, task.state and task.state.name) for task in tasks]}")
