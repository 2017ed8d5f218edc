"""The `deita` command and programs, run in this process as in a folder and an environment of their own.

For tests of what a command does and says. Tests of signals, kills, servers and imports start real processes.
"""

import io
import os
import re
import sys
import traceback
import warnings
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from flows.cli import main as cli

# Lines on progress on stderr. On a busy machine even a short stage says how far it is.
PROGRESS = re.compile(r"(done in [\d.]+ s|so far(, about .+ left)?)$")


@dataclass
class Ended:
    """What a command has printed, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


@contextmanager
def _place(cwd, variables):
    """Another working directory and environment; a variable that is None is not set. Yields both outputs."""
    out, err = io.StringIO(), io.StringIO()
    settings = {"COLUMNS": "200", "TERM": "dumb", **variables}
    with chdir(cwd), patch.dict(os.environ), redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        os.environ.update({name: str(value) for name, value in settings.items() if value is not None})
        for name in [name for name, value in settings.items() if value is None]:
            os.environ.pop(name, None)
        yield out, err


def deita(*arguments, cwd, **variables):
    """Run `deita` with arguments; flows report to the session's Prefect server."""
    with _place(Path(cwd), variables) as (out, err), patch.object(sys, "argv", ["deita", *map(str, arguments)]):
        said, code = cli.run()
    last = f"deita: {said}\n" if said else ""
    return Ended(int(code or 0), out.getvalue(), err.getvalue() + last)


def python(program, cwd, **variables):
    """Run a Python program, as `python FILE` does."""
    with _place(Path(cwd), variables) as (out, err):
        try:
            exec(compile(program, "program.py", "exec"), {"__name__": "__main__"})
            code = 0
        except Exception:
            traceback.print_exc()
            code = 1
    return Ended(code, out.getvalue(), err.getvalue())
