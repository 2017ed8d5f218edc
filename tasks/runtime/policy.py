"""The retry policy, cache keys and result storage of all tasks."""

from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State
from prefect.tasks import Task, exponential_backoff

from deita_core.errors import DeitaError, StoreUnavailableError
from deita_core.store import Store
from deita_core.tables import InvalidTableError

# File system errors that a retry does not resolve.
PERMANENT = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


async def worth_retrying(task: Task[..., Any], run: Any, state: State) -> bool:
    """Return False for errors that a retry repeats: invalid user input, or a bug in the program."""
    try:
        await state.aresult()
    except StoreUnavailableError:
        return True
    except (DeitaError, InvalidTableError, TypeError, ValueError, AssertionError, *PERMANENT):
        return False
    except Exception:
        return True
    return True


# The policy of every task: each is one repeatable step that finds the results of earlier steps. Transient errors (a
# full disk that is being cleared, a lost connection) last about a minute.
RETRIES: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": worth_retrying,
}


def results_folder(store_uri: str) -> Path:
    """Return the folder for cached task results: inside a local store, so that deleting the store deletes them."""
    return (Store(store_uri).side / "results").resolve()


def file_key(context: Any, parameters: dict[str, Any]) -> str:
    """Cache key of a file: its content and how it is read; the result storage belongs to one store."""
    return f"ingest-{parameters['file'].id}"


def recipe_key(context: Any, parameters: dict[str, Any]) -> str:
    """Cache key of a trained scorer: the hash of its inputs."""
    return f"train-{parameters['made_by']}"
