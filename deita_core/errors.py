"""Errors a user can act on; each message is one sentence that says what, where and what to do."""

INTERRUPTED = "The run was interrupted; what is done is kept, run the same command to go on."


class DeitaError(Exception):
    """An error that the user can fix; `exit_code` is the exit code of the command line."""

    exit_code = 1


class InputError(DeitaError):
    """Invalid input: a file, a setting or an argument."""

    exit_code = 2


class UnreadableFileError(InputError):
    """A file of which no row can be read. In a folder it is set aside, named by itself it is an error."""


class StoreError(DeitaError):
    """The store cannot be used: locked by another run, incomplete, or written by another program."""


class StoreUnavailableError(StoreError):
    """The store is temporarily unavailable: a lost connection, a full disk. The only DeitaError that tasks retry."""


class ModelError(DeitaError):
    """A model cannot be loaded, or does not fit its task."""


class LLMError(DeitaError):
    """The language model endpoint cannot be used: a wrong key or model, the spend cap, no connection."""


def cause(error: Exception) -> str:
    """The first line of an error's message, or the last if the first ends with a colon; at most 200 characters."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    text = lines[-1] if lines[0].endswith(":") else lines[0]
    return text[:200].encode(errors="replace").decode()
