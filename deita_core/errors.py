"""The errors a user can act on; each message is one sentence that says what, where and what to do."""

INTERRUPTED = "The run was interrupted; what is done is kept, run the same command to go on."


class DeitaError(Exception):
    """Something the user can put right; `exit_code` is what the command line ends with."""

    exit_code = 1


class InputError(DeitaError):
    """Bad usage or bad input: a file, a setting or an argument."""

    exit_code = 2


class StoreError(DeitaError):
    """The store cannot be used: locked by another run, incomplete, or written by something else."""


class StoreUnavailableError(StoreError):
    """The store cannot be used now: a lost connection, a full disk. The one error of ours that a task retries."""


class ModelError(DeitaError):
    """A model cannot be loaded, or does not fit what it is asked to do."""


class LLMError(DeitaError):
    """The language model's endpoint cannot go on answering: a wrong key or model, a cap reached, no connection."""


def cause(error: Exception) -> str:
    """The first line of what an error says, or the last where that only announces it; short enough for a sentence."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    text = lines[-1] if lines[0].endswith(":") else lines[0]
    return text[:200].encode(errors="replace").decode()
