"""When a task is retried, what its cached result is known by, and where that is kept: in one place for all tasks."""

from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State
from prefect.tasks import Task, exponential_backoff

from deita_core.errors import DeitaError, StoreUnavailableError
from deita_core.store import Store
from deita_core.tables import InvalidTableError

# What the file system will say again in a minute.
LASTING = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


async def worth_retrying(task: Task[..., Any], run: Any, state: State) -> bool:
    """False for what will fail again in the same way: the user's input, a defect of the program."""
    try:
        await state.aresult()
    except StoreUnavailableError:
        return True
    except (DeitaError, InvalidTableError, TypeError, ValueError, AssertionError, *LASTING):
        return False
    except Exception:
        return True
    return True


# The policy of every task: each is one step that finds what the steps before it made, and may be repeated. Transient
# errors (a full disk that is being cleared, a lost connection) are over in a minute or so.
RETRIES: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": worth_retrying,
}


def results_folder(store_uri: str) -> Path:
    """Where results of cached tasks are kept: inside a store in a folder, so that deleting it deletes them."""
    return (Store(store_uri).side / "results").resolve()


def file_key(context: Any, parameters: dict[str, Any]) -> str:
    """A file is known by its content and how it is read, in the store it is read into."""
    return f"ingest-{parameters['file'].id}"


def recipe_key(context: Any, parameters: dict[str, Any]) -> str:
    """A trained scorer is known by what it was made of."""
    return f"train-{parameters['made_by']}"
