"""Prefect flows and the command line."""

import sys

# `python -m flows.cli` puts the working directory first on the path, where files such as a random.py would hide
# standard library modules; an installed `deita` does not.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and not __path__[0].startswith(sys.path[0]):
    del sys.path[0]
